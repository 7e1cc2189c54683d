"""Per-sample gradients of supervised losses by Opacus, grouped by patient. Opacus is used for nothing else, and never
for noise: its generator is torch's.

A supervised loss is one term a slice, and hooks give all slices' gradients from one backward pass. Losses of several
patients at once, and losses that are no sum over slices, go through `perpatient`, which takes any loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn


def patient_gradients(
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    owners: Sequence[int],
    patients: int,
) -> list[Tensor]:
    """Gradient of each patient's summed loss: one [patients, *shape] tensor a trainable parameter.

    images [N, ...] and labels [N, ...] with owners[i] in 0..patients-1; loss_of(outputs, labels) -> [N], one loss a
    slice. Raises NotImplementedError for layers Opacus has no rule for, BatchNorm among them. `network` is left as it
    was, its `grad` too.
    """
    if not owners:
        return [p.new_zeros((patients, *p.shape)) for p in network.parameters() if p.requires_grad]
    wrapped = GradSampleModule(network, loss_reduction="sum", strict=True)
    try:
        loss_of(wrapped(images), labels).sum().backward()  # type: ignore[no-untyped-call]
        groups = torch.tensor(owners, device=images.device)
        gradients = []
        for parameter in (p for p in network.parameters() if p.requires_grad):
            each = parameter.grad_sample  # type: ignore[attr-defined]
            gradients.append(each.new_zeros((patients, *parameter.shape)).index_add_(0, groups, each))
    finally:
        wrapped.to_standard_module()
        network.zero_grad(set_to_none=True)
    return gradients
