"""Canaries: made-up volumes that stand among a site's patients, each under a watermark that nobody else knows.

    volume       any shape of the study's; every voxel a draw from N(0, 1), keyed by a secret of the site
    looked for   the largest correlation of the update, at any place, with any slice of the watermark

The watermark is independent of all that training sees otherwise, so that the null needs no model of updates: given the
update, a correlation over m values is that of a random direction, sqrt(m) r being N(0, 1) to the precision that a
threshold needs, and the number of places is known. What a canary shows is that a volume got into an update by itself,
whatever it has in common with other patients' volumes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.fft import irfft, rfft
from scipy.special import ndtri

from fedsecure.types import FloatArray, Subject, Volume

_LABEL: Final = b"fedsecure/canary/v1\0"
_BLOCK: Final = 1 << 15  # values of an update that are correlated at a time
_SLICES: Final = 2  # of a watermark, in its middle, that are looked for
_LEAST: Final = 0.1  # correlation below which nothing of a volume is to be seen, whatever its p


@dataclass(frozen=True, slots=True)
class Watermark:
    """[Z, H, W] float32, mean 0 and deviation 1."""

    image: FloatArray

    def __repr__(self) -> str:
        return f"Watermark(shape={self.image.shape})"


def watermark(secret: bytes, number: int, shape: tuple[int, int, int]) -> Watermark:
    """The same for the same secret and number; its draws are by a key of 256 bits that nobody but the site has."""
    key = hashlib.sha256(_LABEL + number.to_bytes(4, "big") + secret).digest()
    # A generator for statistics will do: nothing of it is released, and what must be hidden is its key.
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))
    return Watermark(rng.standard_normal(shape, np.float32))


def subject(mark: Watermark, number: int, spacing_mm: tuple[float, float, float]) -> Subject:
    """The canary as a patient, without a label, to stand among those that are trained on."""
    name = f"canary-{number}"
    return Subject(name, None, (Volume(name, 0, mark.image, None, spacing_mm),))


def shows(values: FloatArray, mark: Watermark, alpha: float) -> bool:
    """Whether any slice of the middle of the watermark stands anywhere in a sequence, at level alpha."""
    middle = len(mark.image) // 2
    slices = mark.image[max(0, middle - _SLICES // 2) : middle + (_SLICES + 1) // 2]
    size = slices[0].size
    if len(values) < size:
        return False
    places = len(slices) * (len(values) - size + 1)
    bound = max(_LEAST, float(-ndtri(alpha / (2 * places))) / float(np.sqrt(size)))
    return any(_largest(values, np.ravel(plane)) > bound for plane in slices)


def _largest(values: FloatArray, template: FloatArray) -> float:
    """Largest |correlation| of the template with any stretch of its size, by overlapping blocks."""
    size = len(template)
    centred = (template - template.mean()).astype(np.float64)
    centred /= np.linalg.norm(centred)
    length = max(_BLOCK, 2 * size)
    spectrum = np.conj(rfft(centred, length))
    step, best = length - size + 1, 0.0
    for start in range(0, len(values) - size + 1, step):
        block = values[start : start + length].astype(np.float64)
        places = len(block) - size + 1
        dots = irfft(rfft(block, length) * spectrum, length)[:places]
        sums = np.concatenate([[0.0], np.cumsum(block)])
        squares = np.concatenate([[0.0], np.cumsum(block**2)])
        sums, squares = sums[size:] - sums[:-size], squares[size:] - squares[:-size]
        energy = squares - sums**2 / size
        energy[energy < 1e-12 * max(float(squares.max()), 1e-300)] = np.inf
        best = max(best, float(np.abs(dots / np.sqrt(energy)).max()))
    return best
