"""Discrete Gaussian noise in grid units, from the operating system's entropy, at the speed of a table.

    N_Z(0, sigma^2):  P[X = x] = exp(-x^2 / 2 sigma^2) / sum_y exp(-y^2 / 2 sigma^2)     (arXiv 2004.00010)

Sampling is inversion: 128 random bits u give the number of thresholds T_i = round(2^128 P[X <= x_i]) that are at most
u. The first 64 bits decide nearly always; a draw that they do not decide is settled by the other 64, exactly. What is
left is the rounding of the thresholds and the cut tail: `distance` bounds the total variation distance of one draw from
the exact law, and the accountant adds it to delta.

No generator of torch or NumPy is used: their state can be recovered from their output, and with it the noise.
"""

from __future__ import annotations

import math
import os
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

LEAST_SIGMA: Final = 3.0  # grid units a site: below, a sum of discrete Gaussians is measurably no discrete Gaussian
MOST_SIGMA: Final = 2.0**16  # grid units: above, the grid is finer than any use and the table takes seconds
_CUT: Final = 13.5  # standard deviations; the tail beyond is under 2^-130
_CELLS: Final = 16  # bits of the guide table
_DIGITS: Final = 60
_BLOCK: Final = 1 << 16  # draws at a time, so that what is worked on stays in the cache


class Entropy(Protocol):
    """Random bytes. Nodes use `OsEntropy`; only tests play a recorded tape, and a run with one prints no epsilon."""

    def read(self, count: int) -> bytes: ...


class OsEntropy:
    """AES-256-CTR under a key that the operating system gave this object alone, and that never leaves it."""

    __slots__ = ("_stream",)

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()

    def read(self, count: int) -> bytes:
        return self._stream.update(bytes(count))

    def __repr__(self) -> str:
        return "OsEntropy()"


class DiscreteGaussianTable:
    """The law of one parameter `sigma` (grid units), ready to be drawn from."""

    def __init__(self, sigma: float) -> None:
        """Raises ValueError outside LEAST_SIGMA..MOST_SIGMA."""
        if not LEAST_SIGMA <= sigma <= MOST_SIGMA:
            raise ValueError(
                f"noise of {sigma:.3g} grid units a site is outside {LEAST_SIGMA:g}..{MOST_SIGMA:g}: "
                + ("make the grid finer (more bits a coordinate)" if sigma < LEAST_SIGMA else "make the grid coarser")
            )
        self.sigma = sigma
        self._largest = math.ceil(_CUT * sigma)
        # A threshold that rounds to 2^128 is above every u.
        thresholds = [t for t in _thresholds(sigma, self._largest) if t < 2**128]
        self._high: _Words = np.array([t >> 64 for t in thresholds], np.uint64)
        self._low = [t & (2**64 - 1) for t in thresholds]
        self.distance = distance(sigma)
        # Guide: for the first 16 bits of u, the answer, or -1 where a threshold lies among the u that begin so.
        edges = np.searchsorted(self._high, np.arange(1 << _CELLS, dtype=np.uint64) << np.uint64(64 - _CELLS))
        ends = np.append(edges[1:], len(self._high))
        self._guide = np.where(edges == ends, edges - self._largest, _UNDECIDED).astype(np.int32)

    def draw(self, count: int, entropy: Entropy) -> Integers:
        """[count] independent draws."""
        drawn = np.empty(count, np.int64)
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            drawn[start : start + size] = self._block(size, entropy)
        return drawn

    def _block(self, size: int, entropy: Entropy) -> npt.NDArray[np.int32]:
        u = np.frombuffer(entropy.read(8 * size), "<u8")
        drawn: npt.NDArray[np.int32] = self._guide[(u >> np.uint64(64 - _CELLS)).astype(np.intp)]
        open_ = np.flatnonzero(drawn == _UNDECIDED)
        place = np.searchsorted(self._high, u[open_])  # thresholds whose high half is below
        drawn[open_] = place - self._largest
        tied = open_[self._high[np.minimum(place, len(self._high) - 1)] == u[open_]]
        for at in tied:
            drawn[at] = self._settled(int(u[at]), int.from_bytes(entropy.read(8), "little")) - self._largest
        return drawn

    def _settled(self, high: int, low: int) -> int:
        """Number of thresholds at most (high, low), for a `high` that some of them have."""
        place = int(np.searchsorted(self._high, np.uint64(high)))
        while place < len(self._low) and int(self._high[place]) == high and self._low[place] <= low:
            place += 1
        return place


_UNDECIDED: Final = np.iinfo(np.int32).min


@lru_cache(maxsize=8)
def table(sigma: float) -> DiscreteGaussianTable:
    """The table of `sigma`, made once."""
    return DiscreteGaussianTable(sigma)


def distance(sigma: float) -> float:
    """Bound on the total variation distance of one draw from the exact law.

    Rounding moves each threshold by at most half a unit of 2^-128. The tails: the integral of the density beyond the
    largest value is at most sigma^2/x exp(-x^2 / 2 sigma^2), and the normaliser is at least 2 sigma.
    """
    largest = math.ceil(_CUT * sigma)
    return (2 * largest + 1) * 2.0**-128 + math.exp(-((largest / sigma) ** 2) / 2)


def _thresholds(sigma: float, largest: int) -> list[int]:
    """round(2^128 P[X <= x]) for x = -largest..largest-1, computed with 60 digits."""
    with localcontext() as context:
        context.prec = _DIGITS
        variance = Decimal(sigma) ** 2
        # exp(-x^2 / 2s^2) by steps: the ratio of neighbours, exp(-(2x+1) / 2s^2), itself shrinks by exp(-1/s^2).
        shrink = (-1 / variance).exp()
        ratio = (-1 / (2 * variance)).exp()
        weights = [Decimal(1)]
        for _ in range(largest):
            weights.append(weights[-1] * ratio)
            ratio *= shrink
        total = 2 * sum(weights[1:]) + 1
        scale = Decimal(2**128) / total
        upto, thresholds = Decimal(0), []
        for weight in (*reversed(weights[1:]), *weights[:-1]):
            upto += weight
            thresholds.append(int((upto * scale).to_integral_value()))
        return thresholds
