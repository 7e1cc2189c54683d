"""How far a segmentation is from its reference: overlap, distances of surfaces, and how much its probabilities can be
taken at their word.

Distances are MONAI's (Hausdorff 95 %, average symmetric surface distance, surface Dice after Nikolov et al. 2021), on
the stored grid, in millimetres, or in voxels where headers are nominal.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from fedsecure.learning.evaluate import dice as dice_of
from fedsecure.types import FloatArray, LabelArray

BINS: Final = 15


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one structure in one volume; None where there is nothing to measure: for Dice and surface Dice where it is in
    neither, for distances where it is missing in one. Lengths are in the unit of the spacing."""

    dice: float | None
    hd95: float | None
    assd: float | None
    surface_dice: float | None


def measure(prediction: LabelArray, label: LabelArray, structures: int, spacing: Sequence[float],
            tolerance: float) -> tuple[Measured, ...]:  # fmt: skip
    """One for each structure. prediction, label: [X, Y, Z] of 0..structures; spacing: along X, Y and Z."""
    overlap = dice_of(prediction, label, structures)
    rows = []
    for value, dice in enumerate(overlap, start=1):
        one, other = (torch.from_numpy(array == value)[None, None] for array in (prediction, label))
        if not (one.any() and other.any()):
            seen = bool(one.any() or other.any())
            rows.append(Measured(float(dice) if seen else None, None, None, 0.0 if seen else None))
            continue
        rows.append(Measured(float(dice), *_surfaces(one, other, tuple(spacing), tolerance)))
    return tuple(rows)


def _surfaces(
    one: torch.Tensor, other: torch.Tensor, spacing: tuple[float, ...], tolerance: float
) -> tuple[float, float, float]:
    """Hausdorff 95 %, average symmetric surface distance and surface Dice of two structures [1, 1, X, Y, Z]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of an argument that it passes to itself
        return (
            float(compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)),
            float(
                compute_average_surface_distance(one, other, include_background=True, symmetric=True, spacing=spacing)
            ),
            float(compute_surface_dice(one, other, [tolerance], include_background=True, spacing=spacing)),
        )


class Bin(msgspec.Struct, frozen=True):
    """Voxels with their highest probability in one fifteenth of 0..1: how many, its mean, how often it was right."""

    voxels: int
    confidence: float
    accuracy: float


class Calibration(msgspec.Struct, frozen=True):
    """Expected calibration error (Guo et al. 2017) over voxels that are, or were taken for, a structure; the
    background, which is easy and nearly everything, does not count. overconfidence: mean confidence minus accuracy."""

    ece: float
    overconfidence: float
    bins: tuple[Bin, ...]


class Reliability:
    """Counts, slice by slice, how often a probability was right."""

    def __init__(self) -> None:
        self._sums: npt.NDArray[np.float64] = np.zeros((3, BINS))  # voxels, confidence, right

    def add(self, probabilities: FloatArray, label: LabelArray) -> None:
        """probabilities: [C, X, Y]; label: [X, Y]."""
        chosen, confidence = probabilities.argmax(0), probabilities.max(0)
        counted = (chosen > 0) | (label > 0)
        sure = confidence[counted].astype(np.float64)
        right = (chosen == label)[counted]
        place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        for row, weights in enumerate((None, sure, right)):
            self._sums[row] += np.bincount(place, weights, minlength=BINS)

    def result(self) -> Calibration | None:
        """None where no voxel counted."""
        voxels, confidence, right = self._sums
        total = voxels.sum()
        if not total:
            return None
        held = np.maximum(voxels, 1)
        bins = tuple(
            Bin(int(n), float(c), float(a)) for n, c, a in zip(voxels, confidence / held, right / held, strict=True)
        )
        return Calibration(
            ece=float(np.abs(confidence - right).sum() / total),
            overconfidence=float((confidence.sum() - right.sum()) / total),
            bins=bins,
        )
