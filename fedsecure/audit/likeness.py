"""Whether a stretch of an update looks like one of the cohort's slices, in any resolution: what has no exact copy.

candidate    a stretch that is smooth from one value to the next, as pictures are and most weights are not
picture      w x w values of it, w one of `WIDTHS`, smooth from row to row as well, brought to 16 x 16 by means
likeness     M = largest |correlation| with any slice at 16 x 16, over the eight ways to lay a square
null         the same maximum after the picture was shifted round by 4 pixels or more, both ways: a permutation
             test that leaves smoothness as it is (toroidal shift), which a free shuffle would destroy
alarm        M >= `LIKE`, and its p below alpha / tests, with a Gumbel tail fitted to the null's maxima
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Array = npt.NDArray[np.float32]

SIDE: Final = 16
WIDTHS: Final = (16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128)
LIKE: Final = 0.8
MOST: Final = 4096  # slices that are compared with
_SMOOTH: Final = 0.25  # correlation of a value with the next one, over a block
_ROWS: Final = 0.4  # and with the one below it, over a picture
_BLOCK: Final = 128
_BESIDE: Final = 1  # blocks beside a smooth one that its picture may reach into
_APART: Final = 4  # pixels by which the null is shifted at least
_LARGEST: Final = 1 << 14  # pictures that are looked at in one update; of more, every k-th
_AT_A_TIME: Final = 1 << 20  # values of pictures in memory
_EULER: Final = 0.5772156649


@dataclass(frozen=True, slots=True)
class Gallery:
    """Slices at 16 x 16, each with mean 0 and norm 1: [n, 256] float32."""

    slices: Array

    def __repr__(self) -> str:
        return f"Gallery(slices={len(self.slices)})"


def gallery(volumes: Iterable[Array]) -> Gallery:
    """Of volumes [Z, H, W]; of more than `MOST` slices, every k-th."""
    every = np.concatenate([np.empty((0, SIDE * SIDE), np.float32), *(_unit(pooled(volume)) for volume in volumes)])
    every = every[every.any(1)]
    return Gallery(every[:: max(1, -(-len(every) // MOST))])


def pooled(pictures: Array) -> Array:
    """[n, H, W] -> [n, 16, 16] by means over equal parts; of sides below 16 pixels, zeros."""
    if min(pictures.shape[1:]) < SIDE:
        return np.zeros((len(pictures), SIDE, SIDE), np.float32)
    for axis in (1, 2):
        starts = np.arange(SIDE) * pictures.shape[axis] // SIDE
        counts = np.diff([*starts, pictures.shape[axis]]).astype(np.float32)
        shape = (1, -1, 1) if axis == 1 else (1, 1, -1)
        pictures = np.asarray(np.add.reduceat(pictures, starts, axis) / counts.reshape(shape), np.float32)
    return pictures


def alike(values: Array, slices: Gallery, alpha: float) -> float:
    """The largest likeness in a sequence, if it is no chance at level `alpha`; 0 otherwise."""
    pictures = [batch for run in _smooth_runs(values) for batch in _pictures(run)]
    if not pictures or not len(slices.slices):
        return 0.0
    every = np.concatenate(pictures)
    every = every[:: -(-len(every) // _LARGEST)]
    likenesses = _likenesses(every, slices)
    best = int(np.argmax(likenesses))
    found = float(likenesses[best])
    return found if found >= LIKE and _chance(found, every[best], slices) < alpha / len(every) else 0.0


def _smooth_runs(values: Array) -> Iterator[Array]:
    count = len(values) // _BLOCK
    if not count:
        return
    blocks = values[: count * _BLOCK].reshape(count, _BLOCK).astype(np.float64)
    blocks = blocks - blocks.mean(1, keepdims=True)
    energy = (blocks**2).sum(1)
    along = (blocks[:, 1:] * blocks[:, :-1]).sum(1)
    smooth = (energy > 0) & (along > _SMOOTH * energy)
    near = np.convolve(np.pad(smooth, _BESIDE), np.ones(2 * _BESIDE + 1), "valid") > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], near.astype(np.int8), [0]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield values[int(start) * _BLOCK : (int(end) + 1) * _BLOCK]  # with what is left over at the end


def _pictures(run: Array) -> Iterator[Array]:
    """[n, 16, 16]: squares of the run whose rows go on in the next row."""
    for width in WIDTHS:
        size = width * width
        if size > len(run):
            return
        starts = np.flatnonzero(_correlations(run, width, size) > _ROWS)[:: max(1, width // SIDE)]
        for some in np.array_split(starts, 1 + len(starts) * size // _AT_A_TIME):
            if len(some):
                squares = sliding_window_view(run, size)[some].reshape(len(some), width, width)
                yield pooled(squares)


def _correlations(run: Array, lag: int, size: int) -> npt.NDArray[np.float64]:
    """Of all windows of `size` values: the correlation of each value with the one `lag` further on."""
    wide = run.astype(np.float64)
    wide -= wide.mean()
    total, square = _sums(wide, size), _sums(wide**2, size)
    products = _sums(wide[:-lag] * wide[lag:], size - lag)
    mean = total / size
    energy = np.maximum(square - size * mean**2, 1e-300)
    return np.asarray((products - (size - lag) * mean**2) / energy)


def _sums(values: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    running = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(running[size:] - running[:-size])


def _likenesses(pictures: Array, slices: Gallery) -> Array:
    """[n, 16, 16] -> [n]: the largest |correlation| with any slice, whichever way the picture is laid."""
    best = np.zeros(len(pictures), np.float32)
    for laid in (pictures, pictures.transpose(0, 2, 1)):
        for way in (laid, laid[:, ::-1], laid[:, :, ::-1], laid[:, ::-1, ::-1]):
            best = np.maximum(best, np.abs(_unit(way) @ slices.slices.T).max(1))
    return best


def _chance(found: float, picture: Array, slices: Gallery) -> float:
    """p of the likeness found, under the null of shifted pictures."""
    shifts = range(_APART, SIDE - _APART + 1)
    null = np.stack([np.roll(picture, (down, along), (0, 1)) for down in shifts for along in shifts])
    heights = np.arctanh(np.minimum(_likenesses(null, slices), 1 - 1e-6))
    scale = max(float(heights.std()), 1e-3) * math.sqrt(6) / math.pi
    z = (math.atanh(min(found, 1 - 1e-6)) - (float(heights.mean()) - _EULER * scale)) / scale
    return -math.expm1(-math.exp(-z))


def _unit(pictures: Array) -> Array:
    """[n, H, W] -> [n, H * W] with mean 0 and norm 1; zeros for what is constant."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(norms > 1e-12, rows / np.maximum(norms, 1e-12), 0), np.float32)
