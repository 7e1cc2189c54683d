"""Windows of consecutive values, recognised in any unit: a rolling hash that scale and sign do not change.

    window       28 consecutive values, in one of the orders in which an array can be written out
    pattern      27 bits: whether each value is above the one before it
    key          the same for a window, its negative and either of them backwards; then spread over 32 bits
    sampled      keys below a threshold only, the same ones on both sides, so that cost and memory are bounded
    match        equal keys, and a correlation of the two windows of `ALIKE` at least

A pattern survives whatever keeps the order of values: float16 and float32, other units, normalisation, 8 bits or more.
Rolling as in winnowing (Schleimer, Wilkerson and Aiken, SIGMOD 2003): what is kept hangs on the content alone, so that
a part of a volume is found wherever it begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Array = npt.NDArray[np.float32]
Keys = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]
Windows = npt.NDArray[np.int8]

WINDOW: Final = 28
ALIKE: Final = 0.99
DENSEST: Final = 4  # of this many windows, one is kept where there is room for it
MOST: Final = 1 << 20  # windows that an index keeps: 32 MiB
_BITS: Final = WINDOW - 1
_MASK: Final = np.uint32((1 << _BITS) - 1)
_TURNS: Final = 6  # of a pattern, at least: a slope is like any other slope
_ZIGZAG: Final = 22  # and at most, of 26: so is what goes up and down between two levels
_PEAK: Final = 0.3  # of a window's energy, at most, in one value: one spike is like any other spike
_SPREAD: Final = np.uint32(0x9E3779B1)  # 2^32 / golden ratio, odd: a bijection of 32 bits
_PER_KEY: Final = 64  # windows of one key that are compared with
_AT_A_TIME: Final = 1 << 19  # values hashed, and pairs compared, at a time: bounds memory


def orders(volume: Array) -> Iterable[Array]:
    """The flat sequences that [Z, H, W] can be written out in: along x, along y, and along z both ways."""
    for axes in ((0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 1, 0)):
        yield np.ascontiguousarray(volume.transpose(axes), np.float32).ravel()


def keys_of(values: Array, threshold: int) -> tuple[Keys, Positions]:
    """Keys below `threshold` of all windows of a sequence, and where these begin."""
    kept, starts = [], []
    for start in range(0, max(0, len(values) - _BITS), _AT_A_TIME):
        keys, found = _keys(values[start : start + _AT_A_TIME + _BITS], threshold)
        kept.append(keys)
        starts.append(found + start)
    if not kept:
        return np.empty(0, np.uint32), np.empty(0, np.int64)
    return np.concatenate(kept), np.concatenate(starts)


def _keys(values: Array, threshold: int) -> tuple[Keys, Positions]:
    up = (values[1:] > values[:-1]).astype(np.uint32)
    ahead, back, width = up, up, 1
    # Patterns of 2, 4, 8 and 16 bits from those of half as many, then 16 + 8 + 2 + 1.
    forwards, backwards = {1: up}, {1: up}
    while width < 16:
        ahead = (ahead[:-width] << np.uint32(width)) | ahead[width:]
        back = (back[width:] << np.uint32(width)) | back[:-width]
        width *= 2
        forwards[width], backwards[width] = ahead, back
    pattern, mirror = forwards[16], backwards[16]
    width = 16
    for more in (8, 2, 1):
        size = len(up) - width - more + 1
        pattern = (pattern[:size] << np.uint32(more)) | forwards[more][width : width + size]
        mirror = (backwards[more][width : width + size] << np.uint32(width)) | mirror[:size]
        width += more
    canonical = np.minimum(np.minimum(pattern, pattern ^ _MASK), np.minimum(mirror, mirror ^ _MASK))
    keys = canonical * _SPREAD
    found = np.flatnonzero(keys < threshold)
    canonical = canonical[found]
    turns = np.bitwise_count((canonical ^ (canonical >> 1)) & (_MASK >> 1))
    found = found[(turns >= _TURNS) & (turns <= _ZIGZAG)]
    return keys[found], found


def windows_at(values: Array, positions: Positions) -> Windows:
    """[n, WINDOW] int8: each window with its mean taken off, scaled to 127; zeros, like nothing else, for a spike."""
    if not len(positions):
        return np.empty((0, WINDOW), np.int8)
    taken = sliding_window_view(values, WINDOW)[positions].astype(np.float32)
    taken -= taken.mean(1, keepdims=True)
    top = np.abs(taken).max(1, keepdims=True)
    taken *= 127 / np.maximum(top, 1e-30)
    spikes = (taken**2).sum(1) < 127**2 / _PEAK
    taken[spikes] = 0
    return np.rint(taken).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Index:
    """Sampled windows of what must not leave, by key. threshold: keys at and above it were not kept."""

    keys: Keys  # [n], rising
    windows: Windows  # [n, WINDOW]
    threshold: int

    @property
    def density(self) -> float:
        """The share of all windows that is kept, and looked for."""
        return self.threshold / (1 << 32)

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self.keys.nbytes + self.windows.nbytes

    def matches(self, values: Array) -> Positions:
        """Where in a sequence windows begin that are in the index."""
        keys, positions = keys_of(values, self.threshold)
        order = np.argsort(keys)  # rising keys are looked up along the index, others all over it: twice the time
        keys, positions = keys[order], positions[order]
        low = np.searchsorted(self.keys, keys, "left")
        some = low < len(self.keys)
        some[some] = self.keys[low[some]] == keys[some]
        keys, low, positions = keys[some], low[some], positions[some]
        counts = np.minimum(np.searchsorted(self.keys, keys, "right") - low, _PER_KEY)
        found = [
            self._alike(values, positions[rows], low[rows], counts[rows])
            for rows in np.array_split(np.arange(len(positions)), 1 + int(counts.sum()) // _AT_A_TIME)
        ]
        return np.unique(np.concatenate(found))

    def _alike(self, values: Array, positions: Positions, low: Positions, counts: Positions) -> Positions:
        asked = np.repeat(np.arange(len(positions)), counts)
        first = np.cumsum(counts) - counts
        entries = np.repeat(low - first, counts) + np.arange(len(asked))
        ours = _unit(windows_at(values, positions))[asked]
        theirs = _unit(self.windows[entries])
        straight = np.abs(np.einsum("nw,nw->n", ours, theirs))
        turned = np.abs(np.einsum("nw,nw->n", ours[:, ::-1], theirs))
        return np.asarray(positions[asked[np.maximum(straight, turned) >= ALIKE]], np.int64)

    def __repr__(self) -> str:
        return f"Index(windows={len(self.keys)}, density=1/{1 / self.density:.0f})"


class IndexBuilder:
    """Takes in sequences one by one and keeps at most `most` windows of them: halves the share kept where it must."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._threshold = (1 << 32) // DENSEST
        self._keys: list[Keys] = []
        self._windows: list[Windows] = []
        self._count = 0

    def add(self, values: Array) -> None:
        keys, positions = keys_of(values, self._threshold)
        self._keys.append(keys)
        self._windows.append(windows_at(values, positions))
        self._count += len(keys)
        while self._count > self._most:
            self._threshold //= 2
            kept = [below < self._threshold for below in self._keys]
            self._keys = [part[below] for part, below in zip(self._keys, kept, strict=True)]
            self._windows = [part[below] for part, below in zip(self._windows, kept, strict=True)]
            self._count = sum(map(len, self._keys))

    def done(self) -> Index:
        keys = np.concatenate([np.empty(0, np.uint32), *self._keys])
        windows = np.concatenate([np.empty((0, WINDOW), np.int8), *self._windows])
        order = np.argsort(keys, kind="stable")
        return Index(keys[order], windows[order], self._threshold)


def _unit(windows: Windows) -> Array:
    wide = windows.astype(np.float32)
    wide -= wide.mean(1, keepdims=True)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-6)
    return wide
