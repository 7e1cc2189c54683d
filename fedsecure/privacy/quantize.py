"""Floats to integers of a ring, rounded at random so that the mean is unbiased, and back.

Stochastic rounding to a grid: x becomes floor(x / step + u), u uniform in [0, 1), so that each integer is less than 1
from x / step and right in the mean. What is bounded after that is the norm of the *integers*, which is what a
mechanism must be calibrated to (Kairouz, Liu, Steinke, ICML 2021, arXiv 2102.06387, section 4): `integer_norm_bound`
holds always, `likely_norm_bound` after drawing again until it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedsecure.types import FloatArray
from protocols.xof import Keystream, keystream_buffer

WRAP_BITS: Final = 40  # P[a sum leaves the ring] <= 2^-40, noise included
KEY_SIZE: Final = 32
_CHUNK: Final = 1 << 16  # values: buffers that stay in the cache
_TRIES: Final = 64
_FINEST: Final = 2**21  # steps within reach: finer ones would be below what float32 itself keeps of a coordinate
_RESOLUTION: Final = np.float32(2.0**-16)  # of u: what it adds to the mean is below 2^-17 steps


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers that stand for a coordinate. step: units of the vector a grid step; largest: of one site's integers.

    noise: standard deviation of the sum's noise, in grid steps.
    """

    bits: int
    sites: int
    step: float
    largest: int
    noise: float = 0.0

    @classmethod
    def fit(cls, bits: int, sites: int, reach: float, length: int, noise: float = 0.0) -> Grid:
        """The finest grid of a ring of 2^bits on which a sum of `sites` vectors of `length` coordinates wraps with a
        probability of at most 2^-40. No finer than float32.

        reach: the most a coordinate is away from 0 (the clipping bound, or less after a rotation). noise: standard
        deviation of the sum's, sub-Gaussian, in the units of the vector.
        Raises ValueError if the ring is too small for so many sites.
        """
        half, tail = 2 ** (bits - 1) - 1, noise * _deviations(length)
        # sites * (reach / step + 1) + tail / step <= half
        step = max((sites * reach + tail) / max(half - sites, 1), reach / _FINEST)
        largest = math.ceil(reach / step)
        while sites * largest + tail / step > half and step < math.inf:
            step *= 1 + 2.0**-20
            largest = math.ceil(reach / step)
        if half <= 2 * sites or largest < 1:
            raise ValueError(f"a ring of {bits} bits is too small for {sites} sites")
        return cls(bits, sites, step, largest, noise / step)

    def wrap_bits(self, length: int) -> float:
        """-log2 of the bound on P[any of `length` sums wraps]; infinite where none can."""
        room = 2 ** (self.bits - 1) - 1 - self.sites * self.largest
        if room < 0:
            return 0.0
        if not self.noise:
            return math.inf
        return float((room / self.noise) ** 2) / 2 / math.log(2) - math.log2(2 * length)

    def mean_error(self, survivors: int) -> float:
        """Root mean square error that rounding adds to a coordinate of the mean, at most; units of the vector."""
        return self.step / (2 * math.sqrt(survivors))


def integer_norm_bound(norm: float, step: float, length: int) -> float:
    """The L2 norm of the integers of a vector of norm `norm` is below this, always: each is less than 1 off."""
    return norm / step + math.sqrt(length)


def likely_norm_bound(norm: float, step: float, length: int, beta: float) -> float:
    """It is below this with a probability of at least 1 - beta (arXiv 2102.06387, proposition 22). Integers."""
    scaled, root = norm / step, math.sqrt(length)
    spread = math.sqrt(2 * math.log(1 / beta)) * (scaled + root / 2)
    return min(scaled + root, math.sqrt(scaled**2 + length / 4 + spread))


class Quantizer:
    """One vector on its way into the ring. Its integers follow from `key`, which is drawn for it and forgotten."""

    def __init__(self, grid: Grid, vector: FloatArray, key: bytes, factor: float = 1.0) -> None:
        """vector: [d] float32, not copied, multiplied by `factor`: clipping and the weight. key: 32 fresh bytes."""
        self._grid = grid
        self._vector = vector
        self._scale = np.float32(factor / grid.step)
        self._stream = Keystream(key)
        self._next = 0
        self._buffer = keystream_buffer(2 * _CHUNK)
        self._random: npt.NDArray[np.uint16] = np.frombuffer(self._buffer, "<u2", _CHUNK)
        self._floats = np.empty((2, _CHUNK), np.float32)

    def fill(self, start: int, words: npt.NDArray[Any]) -> None:
        """The integers from `start` on into all of `words`, modulo the word. Called once for each stretch, in order.

        Raises ValueError for another order, which would round with other stretches' randomness.
        """
        if start != self._next:
            raise ValueError("a vector is quantised once, from its beginning to its end")
        self._next += len(words)
        signed = words.view(words.dtype.str.replace("u", "i"))
        for at in range(0, len(words), _CHUNK):
            part = self._vector[start + at : start + min(at + _CHUNK, len(words))]
            signed[at : at + len(part)] = self._rounded(part)

    def _rounded(self, part: FloatArray) -> FloatArray:
        """[m] whole floats, within the grid."""
        size = len(part)
        scaled, random = self._floats[0, :size], self._floats[1, :size]
        self._stream.next_into(self._buffer, 2 * size)
        np.multiply(self._random[:size], _RESOLUTION, out=random, dtype=np.float32)
        np.multiply(part, self._scale, out=scaled)
        np.add(scaled, random, out=scaled)
        np.floor(scaled, out=scaled)
        np.clip(scaled, -self._grid.largest, self._grid.largest, out=scaled)
        return scaled

    def __repr__(self) -> str:
        return f"Quantizer({len(self._vector)})"


def integer_norm(grid: Grid, vector: FloatArray, key: bytes, factor: float = 1.0) -> float:
    """L2 norm of the integers that `Quantizer` gives under this key."""
    quantizer, words, total = Quantizer(grid, vector, key, factor), np.zeros(_CHUNK, np.int32), 0.0
    for start in range(0, len(vector), _CHUNK):
        part = words[: min(_CHUNK, len(vector) - start)]
        quantizer.fill(start, part.view(np.uint32))
        total += float(np.dot(part.astype(np.float64), part.astype(np.float64)))
    return math.sqrt(total)


def draw_key(
    grid: Grid, vector: FloatArray, limit: float, entropy: Callable[[int], bytes], factor: float = 1.0
) -> bytes:
    """A key under which the integers' norm is at most `limit`, drawn again until it is.

    limit: `likely_norm_bound`, of which a draw exceeds only a share beta. Raises ValueError where no draw stays below.
    """
    for _ in range(_TRIES):
        key = entropy(KEY_SIZE)
        if integer_norm(grid, vector, key, factor) <= limit:
            return key
    raise ValueError("the integers' norm stays above its bound: was the vector clipped?")


def dequantize(grid: Grid, integers: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The sum in the units of the vector; float64."""
    return integers.astype(np.float64) * np.float64(grid.step)


def _deviations(length: int) -> float:
    """Standard deviations that none of `length` sub-Gaussian values exceeds, but for a probability of 2^-40."""
    return math.sqrt(2 * (math.log(2 * length) + WRAP_BITS * math.log(2)))
