"""Clipping: a vector's L2 norm is at most a bound that the study states.

Nothing is copied: a vector of millions is scaled on its way through the quantiser, by the factor found here.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from fedsecure.types import FloatArray

_CHUNK: Final = 1 << 16
_SHAVE: Final = 1 - 2.0**-20  # more than float32 products can round up


def l2_norm(vector: FloatArray) -> float:
    """Of a float32 vector [d], summed in float64. Raises ValueError for a value that is not finite."""
    total = 0.0
    for start in range(0, len(vector), _CHUNK):
        part = vector[start : start + _CHUNK].astype(np.float64)
        total += float(np.dot(part, part))
    if not math.isfinite(total):
        raise ValueError("a vector with values that are not finite has no norm")
    return math.sqrt(total)


def clip_factor(vector: FloatArray, bound: float) -> float:
    """The factor in (0, 1] by which `vector` has an L2 norm of at most `bound`, also when it is multiplied in float32.

    Raises ValueError for a bound that is not positive or a vector that is not finite.
    """
    if not 0 < bound < math.inf:
        raise ValueError("a clipping bound is positive and finite")
    norm = l2_norm(vector)
    return 1.0 if norm <= bound * _SHAVE else bound * _SHAVE / norm
