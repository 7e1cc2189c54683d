"""What privacy costs in time: a per-patient clipped step beside a plain one over the same slices, and noise.

Both steps take the gradient of the same loss, a sum over patients (views of one slice agree, negatives were released
before). The private one is `perpatient.clipped_sum` and then, timed apart, discrete Gaussian noise on every parameter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedsecure.config import ModelSettings
from fedsecure.learning.model import Branch
from fedsecure.privacy.noise import OsEntropy, table
from fedsecure.privacy.perpatient import clipped_sum

_PATIENTS, _SLICES, _SIZE = 8, 12, 64
_SIGMA = 1000.0  # grid units
_MILLION = 1_000_000


def bench_dp(seconds: float = 20.0) -> dict[str, float]:
    """Seconds, medians over about `seconds` in all: plain_step_s, private_step_s, private_noisy_step_s (with noise) and
    noise_s_per_million."""
    torch.manual_seed(0)
    settings = ModelSettings()
    network = Branch(settings)
    negatives = normalize(torch.randn(512, settings.features), dim=1)
    patients = [torch.randn(2 * _SLICES, 1, _SIZE, _SIZE) for _ in range(_PATIENTS)]
    count = sum(p.numel() for p in network.parameters())
    law, entropy = table(_SIGMA), OsEntropy()

    def plain() -> None:
        network.zero_grad()
        _loss(network, torch.cat(patients), negatives, _PATIENTS).backward()  # type: ignore[no-untyped-call]

    def private() -> None:
        clipped_sum(network, [partial(_loss, network, own, negatives, 1) for own in patients], 1.0)

    def noisy() -> None:
        private()
        law.draw(count, entropy)

    def noise() -> None:
        law.draw(_MILLION, entropy)

    steps = {"plain_step_s": plain, "private_step_s": private, "private_noisy_step_s": noisy}
    steps["noise_s_per_million"] = noise
    return _in_turns(steps, seconds)


def _loss(network: Branch, views: Tensor, negatives: Tensor, patients: int) -> Tensor:
    """views: [patients * 2 * slices, 1, H, W], of each patient first all first views, then all second ones."""
    z = normalize(network(views), dim=1).view(patients, 2, -1, negatives.shape[1])
    near = (z[:, 0] * z[:, 1]).sum(-1, keepdim=True) / 0.5
    far = z[:, 0] @ negatives.T / 0.5
    return -torch.cat([near, far], -1).log_softmax(-1)[..., 0].sum()


def _in_turns(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    for step in steps.values():
        step()  # allocators and tables warm up
    taken: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while not taken["noise_s_per_million"] or time.perf_counter() < end:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in taken.items()}
