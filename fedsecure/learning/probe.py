"""What pre-training has learnt, without a label: k-NN partition accuracy on held-out patients.

A slice of a held-out patient is given the majority partition of its nearest training slices in the encoder's feature
space. Features that tell anatomy along z do well, collapsed ones stay at chance. An untrained encoder is well above
chance already, as slices that look alike often lie at the same height: what training adds is the difference from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.learning.slices import SliceIndex
from fedsecure.types import Subject

Embed = Callable[[Tensor], Tensor]  # slices [N, 1, H, W] -> features [N, d]
Project = Callable[[Tensor], Tensor]  # features [N, d] -> projections [N, p]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """accuracy over `slices` held-out slices; chance: always answering the training slices' commonest partition, or
    1/S if that is more; mean_norm: length of the mean L2-normalised projection, 1 where all slices look alike."""

    accuracy: float
    chance: float
    mean_norm: float
    slices: int


def partition_probe(
    embed: Embed,
    project: Project,
    train: Sequence[Subject],
    held_out: Sequence[Subject],
    *,
    neighbours: int,
    partitions: int,
    device: str = "cpu",
    batch: int = 64,
) -> ProbeResult:
    """k-NN (cosine, unweighted votes, ties to the lowest partition) from `train` to `held_out`, slice by slice.

    `embed` gives the features compared, `project` makes of them the projections whose collapse is measured. Slices are
    read `batch` at a time, each once. Raises SettingsError if either side has no slice.
    """
    known, answer = _embedded(embed, SliceIndex(train, partitions), device, batch)
    asked, truth = _embedded(embed, SliceIndex(held_out, partitions), device, batch)
    with torch.no_grad():
        projected = F.normalize(project(asked.to(device)).float(), dim=1)
    known, asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
    nearest = (asked @ known.T).topk(min(neighbours, len(known)), dim=1).indices
    votes = F.one_hot(answer[nearest], partitions).sum(1)  # [held-out slices, S]
    commonest = int(torch.bincount(answer, minlength=partitions).argmax())
    return ProbeResult(
        accuracy=float((votes.argmax(1) == truth).double().mean()),
        chance=max(float((truth == commonest).double().mean()), 1 / partitions),
        mean_norm=float(projected.mean(0).norm()),
        slices=len(truth),
    )


@torch.no_grad()
def _embedded(embed: Embed, index: SliceIndex, device: str, size: int) -> tuple[Tensor, Tensor]:
    vectors, partitions = [], []
    for batch in index.in_order(size):
        vectors.append(embed(torch.from_numpy(batch.images).to(device)).float().cpu())
        partitions.append(batch.partitions.astype(np.int64))
    return torch.cat(vectors), torch.from_numpy(np.concatenate(partitions))
