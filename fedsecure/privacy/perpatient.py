"""The sum of per-patient clipped gradients: what one patient can change in it has norm at most C.

That holds only if the loss is a SUM OVER PATIENTS of terms that look at one patient each, beside what was released
before: then zeroing out one patient removes one clipped term. Plain InfoNCE over a batch is no such sum, as every
patient's term has all others' features in its denominator (the tests show the bound broken). It also holds for ONE
step from released inputs: several steps without noise move every later gradient.

A loop over patients, one backward pass each, is used for contrastive losses: it takes any loss and any model, and was
measured faster than hooks there. `persample` is for supervised losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Sums are float64, or their rounding would move with each patient by more than a float32 clip can promise: P patients
# round by at most P^2 2^-53 C, which this slack covers up to P = 50,000.
_SLACK = 1 - 2.0**-20


@dataclass(frozen=True, slots=True)
class ClippedSum:
    """sum: one float64 tensor a trainable parameter; bound: C; patients: terms in it; clipped: how many were over C.

    `patients`, `clipped` and `sum` are functions of patients' data: none of them is released by itself.
    """

    sum: tuple[Tensor, ...]
    bound: float
    patients: int
    clipped: int

    def __repr__(self) -> str:
        return f"ClippedSum(bound={self.bound})"


def clipped_sum(network: nn.Module, losses: Iterable[Callable[[], Tensor]], bound: float) -> ClippedSum:
    """Sum over patients of the gradient of their own loss, each scaled to norm at most `bound`.

    losses: one function a patient (scalar loss with gradient, from what that patient has and what was released).
    An empty iterable gives zeros: an empty draw is released with noise like any other, or its silence would tell.
    """
    parameters = _trainable(network)
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    patients = clipped = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g.detach() for p, g in zip(parameters, gradients, strict=True)]
        scale = _scale(_norm(own), bound)
        patients += 1
        clipped += scale < 1
        if scale > 0:  # 0 times a gradient that is not finite would not be 0
            torch._foreach_add_(total, own, alpha=scale)
    return ClippedSum(tuple(total), bound, patients, clipped)


def clipped_sum_of(gradients: Sequence[Tensor], bound: float) -> ClippedSum:
    """The same from gradients that are there already: one [patients, *shape] tensor a parameter (`persample`)."""
    patients = len(gradients[0])
    norms = torch.stack([g.double().flatten(1).pow(2).sum(1) for g in gradients]).sum(0).sqrt()
    scales = [_scale(float(norm), bound) for norm in norms]
    factors = torch.tensor(scales, dtype=torch.float64, device=gradients[0].device)
    cleaned = (torch.where((factors > 0).view(-1, *[1] * (g.dim() - 1)), g.double(), 0.0) for g in gradients)
    total = tuple(torch.einsum("p,p...->...", factors, g) for g in cleaned)
    return ClippedSum(total, bound, patients, sum(scale < 1 for scale in scales))


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    """Raises ValueError for BatchNorm: its statistics mix patients outside of any gradient."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        raise ValueError("BatchNorm mixes patients' statistics past any clipping: use group or instance normalisation")
    return [p for p in network.parameters() if p.requires_grad]


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(math.fsum(float(g.double().pow(2).sum()) for g in gradients))


def _scale(norm: float, bound: float) -> float:
    """min(1, C / norm), a little less for rounding; 0 for a gradient that is not finite, which then has no part."""
    if not math.isfinite(norm):
        return 0.0
    return 1.0 if norm <= bound * _SLACK else bound * _SLACK / norm
