"""All slices of a site's training patients as one index over memory-mapped volumes, and batches drawn from it.

Only the slices of a batch are read, so memory grows with the batch, not with the data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsecure.errors import SettingsError
from fedsecure.learning.partition import partition_labels
from fedsecure.types import FloatArray, LabelArray, Subject

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """images: [N, 1, H, W] float32; partitions: [N] uint8; subjects: [N] int64, positions in the site's own list."""

    images: FloatArray
    partitions: LabelArray
    subjects: Rows

    def __repr__(self) -> str:
        return f"Batch(slices={len(self.partitions)})"


class SliceIndex:
    """Row r is one slice: `subjects[r]`, `volumes[r]`, `depths[r]` (z) and `partitions[r]`."""

    def __init__(self, subjects: Sequence[Subject], partitions: int) -> None:
        """Raises SettingsError when there is no slice to learn from."""
        self._images = [volume.image for subject in subjects for volume in subject.volumes]
        if not self._images:
            raise SettingsError("this site has no volume to train on: name patients in its site file or lower held_out")
        owners = [s for s, subject in enumerate(subjects) for _ in subject.volumes]
        counts = [len(image) for image in self._images]
        self.volumes: Rows = np.repeat(np.arange(len(counts)), counts)
        self.subjects: Rows = np.repeat(np.array(owners), counts)
        self.depths: Rows = np.concatenate([np.arange(count) for count in counts])
        self.partitions: LabelArray = np.concatenate([partition_labels(count, partitions) for count in counts])
        self._strata = partitions
        starts = np.cumsum([0, *counts])
        # Of each subject its volumes, of each volume its rows by partition.
        self._by_subject: list[list[list[Rows]]] = [[] for _ in subjects]
        for owner, start, end in zip(owners, starts, starts[1:], strict=False):
            rows = np.arange(start, end)
            strata = [rows[self.partitions[start:end] == p] for p in range(partitions)]
            # A volume without slices of a partition (few slices) gives any of its slices instead.
            self._by_subject[owner].append([stratum if len(stratum) else rows for stratum in strata])
        self._by_subject = [volumes for volumes in self._by_subject if volumes]

    def __len__(self) -> int:
        return len(self.depths)

    def read(self, rows: Rows) -> Batch:
        """Copies the slices `rows` [N] out of their volumes."""
        images = np.stack([self._images[v][z] for v, z in zip(self.volumes[rows], self.depths[rows], strict=True)])
        return Batch(images[:, None].astype(np.float32, copy=False), self.partitions[rows], self.subjects[rows])

    def uniform(self, size: int, rng: np.random.Generator) -> Rows:
        """`size` slices, each as likely as any other; without repetition where the site has that many."""
        return rng.choice(len(self), size, replace=size > len(self))

    def stratified(self, size: int, rng: np.random.Generator) -> Rows:
        """One slice of every partition from each of size/S volumes, of different patients as long as there are any.

        So each slice meets size/S - 1 others of its partition, from other patients: positives of the structural loss.
        """
        rows: list[int] = []
        while len(rows) < size:
            for s in rng.permutation(len(self._by_subject)):
                volumes = self._by_subject[s]
                strata = volumes[rng.integers(len(volumes))]
                # In random order, so that a size that is no multiple of S cuts off no partition for good.
                rows += [int(strata[p][rng.integers(len(strata[p]))]) for p in rng.permutation(self._strata)]
        return np.array(rows[:size])

    def batches(self, size: int, steps: int, stratified: bool, seed: int) -> Iterator[Batch]:
        """`steps` batches of `size` slices; the same seed draws the same batches."""
        rng = np.random.Generator(np.random.PCG64(seed))
        draw = self.stratified if stratified else self.uniform
        return (self.read(draw(size, rng)) for _ in range(steps))

    def in_order(self, size: int) -> Iterator[Batch]:
        """Every slice once, in batches of at most `size`."""
        return (self.read(np.arange(start, min(start + size, len(self)))) for start in range(0, len(self), size))
