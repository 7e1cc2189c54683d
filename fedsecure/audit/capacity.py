"""How much an update could carry at most, whoever encodes it, beside how much a volume holds. In bits.

What no test of content can find (low bits, values drawn as noise would be) is bounded by these numbers alone. Without
noise a float32 carries what its format has room for, and no bound better than that is true.
"""

from __future__ import annotations

import lzma
import math
from typing import Final

import numpy as np

from fedsecure.types import FloatArray

FLOAT_BITS: Final = 32
_GREYS: Final = 255  # steps of a voxel that count as the picture's, from its least to its largest value


def noised(dimension: int, clip: float, deviation: float) -> float:
    """Of a vector of norm `clip` at most in Gaussian noise: d/2 log2(1 + C^2 / (d s^2)) (Shannon 1949, parallel
    channels under one power limit). Infinite without noise."""
    if deviation <= 0:
        return math.inf
    return dimension / 2 * math.log1p(clip**2 / (dimension * deviation**2)) / math.log(2)


def order(count: int) -> float:
    """Of the order in which rows stand: log2 of count!."""
    return math.lgamma(count + 1) / math.log(2)


def number(most: int) -> float:
    """Of how many rows there are, 0 to `most`."""
    return math.log2(most + 1)


def volume(image: FloatArray) -> int:
    """What a volume holds: its voxels in 256 greys, compressed without loss (LZMA)."""
    low, high = float(image.min()), float(image.max())
    greys = np.rint((image - low) * (_GREYS / max(high - low, 1e-12))).astype(np.uint8)
    return 8 * len(lzma.compress(np.ascontiguousarray(greys).tobytes(), preset=6))
