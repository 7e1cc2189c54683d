"""Floats to integers of a ring, rounded at random so that the mean is unbiased, and back.

Stochastic rounding to a grid: s = x / step becomes floor(s), and one more with the probability of its fraction. In
float64, so that of a float32 vector no bit is lost: an integer is less than 1 + 2^-20 from s, the term being float64's
at 2^31; the probability is right to 2^-33, that of 32 random bits taken at the middle of their interval. Nothing is cut
to fit: what is out of reach is refused.

What is bounded after that is the norm of the *integers*, which is what a mechanism must be calibrated to (Kairouz, Liu,
Steinke, ICML 2021, arXiv 2102.06387, section 4): `integer_norm_bound` holds always, `likely_norm_bound` after drawing
again until it does (which conditions the rounding, and so is unbiased only but for a share beta of the draws).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedsecure.types import FloatArray
from protocols.xof import Keystream, keystream_buffer

BETA: Final = math.exp(-0.5)  # of draws that a bound lets be drawn again, at most: arXiv 2102.06387's choice
WRAP_BITS: Final = 40  # P[a sum leaves the ring] <= 2^-40, noise included
KEY_SIZE: Final = 32
_CHUNK: Final = 1 << 16  # values: buffers that stay in the cache
_TRIES: Final = 64
_FINEST: Final = 2**21  # steps within reach of weight 1: finer ones would be below float32's own precision
_RESOLUTION: Final = 2.0**-32  # of the random bits
_FLOAT: Final = 2.0**-20  # steps that float64 may be off besides
_TOLERANCE: Final = 1 + 2.0**-40  # of reach: float64's rounding of a clipped vector, and no more


@dataclass(frozen=True, slots=True)
class Grid:
    """The integers that stand for a coordinate of a weighted sum.

    step: units of the vector a grid step. reach: grid steps that a vector of weight 1 is away from 0 at most. room: of
    all sites' integers together. noise: standard deviation of the sum's noise, in grid steps.
    """

    bits: int
    step: float
    reach: float
    room: int
    noise: float = 0.0

    @classmethod
    def fit(cls, bits: int, weights: Sequence[int], reach: float, length: int, noise: float = 0.0) -> Grid:
        """The finest grid of a ring of 2^bits on which a sum of vectors of `length` coordinates, each multiplied by its
        site's weight, wraps with a probability of at most 2^-40. No finer than float32.

        weights: of all sites of the study. reach: the most a coordinate is away from 0 before it is multiplied (the
        clipping bound, or less after a rotation). noise: standard deviation of the sum's, sub-Gaussian, in the units of
        the vector. Raises ValueError if the ring is too small for so many sites.
        """
        half, tail, total, sites = 2 ** (bits - 1) - 1, noise * _deviations(length), sum(weights), len(weights)
        if half <= 2 * sites or min(weights, default=0) < 1:
            raise ValueError(f"a ring of {bits} bits is too small for {sites} sites, or a weight is below 1")
        # sum of (weight * reach / step + 1) + tail / step <= half
        step = max((total * reach + tail) / (half - sites), reach / _FINEST)
        while (room := sum(_largest(weight, reach / step) for weight in weights)) + tail / step > half:
            step *= 1 + 2.0**-20
        return cls(bits, step, reach / step, room, noise / step)

    def largest(self, weight: int) -> int:
        """The most that an integer of a site of this weight is away from 0."""
        return _largest(weight, self.reach)

    def wrap_bits(self, length: int) -> float:
        """-log2 of the bound on P[any of `length` sums wraps]; infinite where none can."""
        room = 2 ** (self.bits - 1) - 1 - self.room
        if room < 0:
            return 0.0
        if not self.noise:
            return math.inf
        return float((room / self.noise) ** 2) / 2 / math.log(2) - math.log2(2 * length)

    def mean_error(self, weights: Sequence[int]) -> float:
        """Root mean square error that rounding adds to a coordinate of the weighted mean of survivors with these
        weights, at most; units of the vector."""
        return self.step * math.sqrt(len(weights)) / (2 * sum(weights))


def integer_norm_bound(norm: float, step: float, length: int) -> float:
    """The L2 norm of the integers of a vector of norm `norm`, weight included, is at most this, always."""
    return norm / step + math.sqrt(length) * (1 + _FLOAT)


def likely_norm_bound(norm: float, step: float, length: int, beta: float) -> float:
    """It is below this with a probability of at least 1 - beta (arXiv 2102.06387, proposition 22). Integers."""
    scaled, root = norm / step, math.sqrt(length)
    spread = math.sqrt(2 * math.log(1 / beta)) * (scaled + root / 2)
    return min(integer_norm_bound(norm, step, length), math.sqrt(scaled**2 + length / 4 + spread) + root * _FLOAT)


class Quantizer:
    """One vector on its way into the ring. Its integers follow from `key`, which is drawn for it and forgotten."""

    def __init__(self, grid: Grid, vector: FloatArray, key: bytes, factor: float = 1.0, weight: int = 1) -> None:
        """vector: [d] float32, not copied, multiplied by `factor` (clipping) and the site's weight, which the grid was
        fitted to. key: 32 fresh bytes."""
        self._vector = vector
        self._scale = factor * weight / grid.step
        self._reach = weight * grid.reach * _TOLERANCE
        self._largest = grid.largest(weight)
        self._stream = Keystream(key)
        self._next = 0
        self._buffer = keystream_buffer(4 * _CHUNK)
        self._random: npt.NDArray[np.uint32] = np.frombuffer(self._buffer, "<u4", _CHUNK)
        self._floats = np.empty((3, _CHUNK), np.float64)

    def fill(self, start: int, words: npt.NDArray[Any]) -> None:
        """The integers from `start` on into all of `words`, modulo the word. Called once for each stretch, in order.

        Raises ValueError for another order, which would round with other stretches' randomness, and for a value that is
        not finite or out of the grid's reach.
        """
        if start != self._next:
            raise ValueError("a vector is quantised once, from its beginning to its end")
        self._next += len(words)
        signed = words.view(words.dtype.str.replace("u", "i"))
        for at in range(0, len(words), _CHUNK):
            part = self._vector[start + at : start + min(at + _CHUNK, len(words))]
            signed[at : at + len(part)] = self._rounded(part)

    def _rounded(self, part: FloatArray) -> npt.NDArray[np.float64]:
        """[m] whole numbers, within the grid."""
        size = len(part)
        scaled, whole, random = (row[:size] for row in self._floats)
        scaled[:] = part  # first: numpy multiplies float32 by a Python float in float32, wherever it puts the product
        np.multiply(scaled, self._scale, out=scaled)
        # Written so that what is not a number is refused as well.
        if not (scaled.max() <= self._reach and scaled.min() >= -self._reach):
            raise ValueError("a value beyond the grid: clip the vector, and fit the grid to its weight")
        self._stream.next_into(self._buffer, 4 * size)
        np.add(self._random[:size], 0.5, out=random)
        np.multiply(random, _RESOLUTION, out=random)
        np.floor(scaled, out=whole)
        np.subtract(scaled, whole, out=scaled)
        np.add(whole, scaled > random, out=whole)
        # The tolerance, which is less than a step, can round away from the grid's end.
        return np.clip(whole, -self._largest, self._largest, out=whole)

    def __repr__(self) -> str:
        return f"Quantizer({len(self._vector)})"


def integer_norm(grid: Grid, vector: FloatArray, key: bytes, factor: float = 1.0, weight: int = 1) -> float:
    """L2 norm of the integers that `Quantizer` gives under this key."""
    quantizer, words, total = Quantizer(grid, vector, key, factor, weight), np.zeros(_CHUNK, np.int32), 0.0
    for start in range(0, len(vector), _CHUNK):
        part = words[: min(_CHUNK, len(vector) - start)]
        quantizer.fill(start, part.view(np.uint32))
        total += float(np.dot(part.astype(np.float64), part.astype(np.float64)))
    return math.sqrt(total)


def draw_key(
    grid: Grid, vector: FloatArray, limit: float, entropy: Callable[[int], bytes], factor: float = 1.0,
    weight: int = 1,
) -> bytes:  # fmt: skip
    """A key under which the integers' norm is at most `limit`, drawn again until it is.

    limit: `likely_norm_bound`, of which a draw exceeds only a share beta. Raises ValueError where no draw stays below.
    """
    for _ in range(_TRIES):
        key = entropy(KEY_SIZE)
        if integer_norm(grid, vector, key, factor, weight) <= limit:
            return key
    raise ValueError("the integers' norm stays above its bound: was the vector clipped?")


def dequantize(grid: Grid, integers: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The sum in the units of the vector; float64."""
    return integers.astype(np.float64) * np.float64(grid.step)


def _largest(weight: int, reach: float) -> int:
    return math.ceil(weight * reach)


def _deviations(length: int) -> float:
    """Standard deviations that none of `length` sub-Gaussian values exceeds, but for a probability of 2^-40."""
    return math.sqrt(2 * (math.log(2 * length) + WRAP_BITS * math.log(2)))
