"""Prototypes: what sites exchange in place of one vector a slice (docs/method.md 2.5). NumPy alone: gate, site and
coordinator need no torch for it.

A cell is a bin along z within a structural partition; S partitions of `prototypes_per_partition` bins make C cells.

    e_p = [C, d]                             a patient's entries: the mean feature of its slices in each cell, 0 where
                                             it has none (entries.py)
    P = sum_p e_p min(1, C_f / ||e_p||)      released: no row moves it by more than C_f, in all cells together. That a
                                             row is one patient is the promise of whoever made it (entries.py)
    prototypes = unit(P / w)                 at the reader; w is a constant of the study, the declared weight

The sum is what leaves, never a mean: a mean would divide by a count that hangs on the patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fedsecure.config import PretrainSettings, Study
from fedsecure.learning.partition import partition_labels
from fedsecure.types import Bank, FloatArray, Schema, TensorSpec

NAME: Final = "prototypes"
FEDERATION: Final = "*"  # whose prototypes they are when all sites' sums entered one; no site's name
# P rounds to float32 once, by at most 2^-24 of its norm, which is at most n C_f of n patients: two sums that differ in
# one row are up to 2^-23 n C_f further apart for it. The slack covers twice that, and with it what float64 rounds.
_SLACK: Final = 1 - 2.0**-10
_MOST_PATIENTS: Final = 1 << 12
_NOTHING: Final = 1e-6  # norm of a mean feature below which a cell counts as one that nobody has


def cells(settings: PretrainSettings) -> int:
    """C, the number of prototypes."""
    return settings.partitions * settings.prototypes_per_partition


def schema(study: Study) -> Schema:
    """Of a sum, by which it becomes a flat vector and back (packing)."""
    return (TensorSpec(NAME, (cells(study.pretrain), study.model.features)),)


def cell_labels(slices: int, partitions: int, bins: int) -> npt.NDArray[np.int64]:
    """Cell of each slice of a volume: [slices] in 0..C-1, never decreasing; cell // bins is the partition.

    The i-th of m slices of a partition lies at (i + 1/2) / m of it: with fewer slices than bins, the middle ones are
    filled. Raises ValueError as `partition_labels` does.
    """
    of = partition_labels(slices, partitions).astype(np.int64)
    counts = np.bincount(of, minlength=partitions)
    inside = np.arange(slices) - (np.cumsum(counts) - counts)[of]
    # In integers, so that a slice on a border is in one bin on every machine.
    return np.asarray(of * bins + (2 * inside + 1) * bins // (2 * counts[of]), np.int64)


def clipped_sum(entries: FloatArray, clip: float) -> FloatArray:
    """P [C, d] float32 of patients' entries [patients, C, d], each clipped as one vector of norm `clip` at most.

    A row that is taken out or zeroed moves P by at most `clip`, rounding included. Raises ValueError for more patients
    than that holds for.
    """
    if len(entries) > _MOST_PATIENTS:
        raise ValueError(f"a float32 sum keeps its bound for at most {_MOST_PATIENTS} patients")
    wide = entries.astype(np.float64)
    norms = np.sqrt((wide**2).sum(axis=(1, 2)))
    bound = clip * _SLACK
    scale = bound / np.maximum(norms, bound)
    return np.asarray((wide * scale[:, None, None]).sum(axis=0), np.float32)


def total(sums: Sequence[tuple[str, FloatArray]]) -> FloatArray:
    """The sites' vectors as one sum, float64 in the order of their names, rounded to float32 once.

    This is all that the coordinator does with them, and what secure aggregation will do in its place. Raises ValueError
    when there is no site, a site stands twice or shapes differ.
    """
    ordered = sorted(sums, key=lambda item: item[0])
    if not ordered or len({site for site, _ in ordered}) != len(ordered):
        raise ValueError("a sum takes at least one site, and each site once")
    if len({vector.shape for _, vector in ordered}) != 1:
        raise ValueError("the sites' vectors are not of one shape")
    whole = np.zeros(ordered[0][1].shape, np.float64)
    for _, vector in ordered:
        whole += vector.astype(np.float64)
    return whole.astype(np.float32)


def from_sum(whole: FloatArray, weight: int, bins: int) -> Bank:
    """Prototypes of a sum [C, d] as members of a bank: on the unit sphere, with their partition.

    A cell that nobody has is left out. weight: the study's constant for whoever is in the sum.
    """
    mean = whole.astype(np.float64) / weight
    norms = np.sqrt((mean**2).sum(axis=1))
    there = np.flatnonzero(norms > _NOTHING)
    unit = (mean[there] / norms[there, None]).astype(np.float32)
    return Bank(unit, (there // bins).astype(np.uint8))


def weight_of(study: Study, name: str) -> int:
    """The constant that a sum is divided by: a site's declared weight, or of FEDERATION that of the whole cohort,
    whoever sent."""
    weights: Mapping[str, int] = {member.name: member.weight for member in study.sites}
    return sum(weights.values()) if name == FEDERATION else weights[name]
