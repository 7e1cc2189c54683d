"""Content tests: whether an update, before clipping and noise, holds what must not leave.

    copy       windows of a volume of the cohort, in any order, unit or packing that `readings` knows (fingerprint)
    file       a gzip stream, or DICOM, NIfTI, npy or pickle, whatever it holds (magic)
    likeness   a slice at lower resolution, by correlation (likeness)
    canary     a watermark that was planted in the cohort (canary)

What passes is not clean. A test finds what is copied as it is or in a common form; whoever encodes on purpose, under a
cipher or in bits that look like noise, is not found by any test of content: what bounds that is the noise of the gate
(`capacity`). Copies are therefore counted over a whole study, so that a volume sent in small parts is found as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsecure.audit import canary, fingerprint, likeness, magic, readings
from fedsecure.audit.canary import Watermark
from fedsecure.audit.fingerprint import Index, IndexBuilder
from fedsecure.audit.likeness import Gallery
from fedsecure.errors import GateRefused
from fedsecure.types import FloatArray, State, Update

COPIES: Final = 3  # windows of a copy, in one study, at which nothing more leaves
ALPHA: Final = 1e-2  # false alarms of all tests with a p-value, over one study
_SMALLER: Final = (2, 4)  # times that slices are copied at lower resolution


@dataclass(frozen=True, slots=True)
class Reference:
    """What must not leave, in a form that is quick to compare with: tens of megabytes at most, and none of it released.

    prepared: volumes as the network sees them, also smaller; native: as they are stored.
    """

    prepared: Index
    native: Index
    gallery: Gallery
    watermarks: tuple[Watermark, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.prepared.size + self.native.size + self.gallery.slices.nbytes

    def __repr__(self) -> str:
        return f"Reference(prepared={self.prepared}, native={self.native}, {self.gallery})"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one update holds. copies: windows found; the rest as their tests give it."""

    copies: int = 0
    reading: str = ""  # under which the most copies were found
    file: str = ""
    likeness: float = 0.0
    canary: bool = False


def reference(
    prepared: Iterable[FloatArray],
    native: Iterable[FloatArray] = (),
    watermarks: Sequence[Watermark] = (),
    most: int = fingerprint.MOST,
) -> Reference:
    """Of all volumes of a site, [Z, H, W] each, read once and one at a time. `most`: windows kept of either kind."""
    ours, stored = IndexBuilder(most), IndexBuilder(most)
    pictures: list[FloatArray] = []
    for volume in prepared:
        for version in (volume, *_smaller(volume)):
            for sequence in fingerprint.orders(version):
                ours.add(sequence)
        pictures.append(likeness.pooled(volume))
    for volume in native:
        for sequence in fingerprint.orders(volume):
            stored.add(sequence)
    return Reference(ours.done(), stored.done(), likeness.gallery(pictures), tuple(watermarks))


def examine(arrays: State, known: Reference, alpha: float) -> Finding:
    """Every test on one update. alpha: false alarms of each test with a p-value."""
    values = readings.flat(arrays)
    copies, reading = _copies(values, known)
    name = next((name for raw in readings.files(values) for name, _ in magic.found_in(raw)), "")
    return Finding(
        copies, reading, name, likeness.alike(values, known.gallery, alpha),
        any(canary.shows(values, mark, alpha / len(known.watermarks)) for mark in known.watermarks),
    )  # fmt: skip


class Tap:
    """The content tests of a site's gate, over one study. Gives no value of a patient, and no place of one, away."""

    def __init__(self, known: Reference, updates: int) -> None:
        """updates: how many the study lets out at most, over which `ALPHA` is shared out."""
        self._known = known
        self._alpha = ALPHA / max(1, updates)
        self._copies = 0

    def __call__(self, update: Update) -> None:
        """Raises GateRefused for an update that holds what must not leave, and from then on for every one."""
        found = examine(update.arrays, self._known, self._alpha)
        self._copies += found.copies
        if self._copies >= COPIES:
            raise GateRefused(
                f"{update.flow}: holds values of this site's volumes as they are; look at its trainer", "content"
            )
        if found.file:
            raise GateRefused(f"{update.flow}: holds a file ({found.file}); look at its trainer", "content")
        if found.likeness:
            raise GateRefused(f"{update.flow}: holds a picture of this site's volumes; look at its trainer", "content")
        if found.canary:
            raise GateRefused(f"{update.flow}: holds a canary that was planted among this site's volumes", "content")


def _copies(values: FloatArray, known: Reference) -> tuple[int, str]:
    most, best = 0, ""
    for reading, sequence in readings.sequences(values):
        for index in (known.prepared, known.native):
            found = len(index.matches(sequence))
            if found > most:
                most, best = found, reading
    return most, best


def _smaller(volume: FloatArray) -> Iterable[FloatArray]:
    for by in _SMALLER:
        height, width = (side // by * by for side in volume.shape[1:])
        if min(height, width) // by >= likeness.SIDE // 2:
            tiles = volume[:, :height, :width].reshape(len(volume), height // by, by, width // by, by)
            yield tiles.mean((2, 4), dtype=np.float32)
            yield np.ascontiguousarray(volume[:, ::by, ::by], np.float32)
