"""A random rotation that spreads a vector over its coordinates: block-diagonal, signs then Hadamard, 2^16 a block.

After Suresh et al., ICML 2017 (arXiv 1611.00429): a rotated vector of norm C has coordinates of about C / 2^8,
whatever it was, so that one grid fits all. A block is at most 2^16 wide: it stays in the cache, and a wider one would
gain little. The signs come from a public seed. Rotation is no protection; it makes quantising cheap.

Nothing is filled up: what whole blocks do not reach is covered by a last block that ends where the vector ends and
overlaps the one before it, which it turns once more. So a value of the ring is spent on no zero.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from fedsecure.privacy.clip import clip_factor
from fedsecure.types import FloatArray
from protocols.xof import Keystream, keystream_buffer

BLOCK: Final = 1 << 16

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def block_size(length: int) -> int:
    """2^16, or the largest power of two that is not above the length."""
    return min(BLOCK, 1 << (max(1, length).bit_length() - 1))


def rotate(vector: FloatArray, seed: bytes) -> FloatArray:
    """[d] float32 to [d] float32 of the same norm. seed: 32 bytes, public."""
    turned = np.array(vector, np.float32)
    rotate_in_place(turned, seed)
    return turned


def rotate_in_place(vector: Floats, seed: bytes) -> None:
    """`rotate` of a vector that its caller has no other use for."""
    size = block_size(len(vector))
    for start, bits in _blocks(len(vector), seed):
        block = vector[start : start + size]
        np.multiply(block, _signs(bits, size), out=block)
        _hadamard(block)


def rotate_clipped(vector: FloatArray, seed: bytes, bound: float) -> tuple[FloatArray, float]:
    """The rotated vector and the factor that clips *it* to L2 norm `bound`: float32 rotates not quite to the same norm,
    and it is the rotated coordinates that are summed. Raises ValueError as `clip_factor`."""
    turned = rotate(vector, seed)
    return turned, clip_factor(turned, bound)


def unrotate_in_place(vector: Floats, seed: bytes) -> None:
    """Inverse of `rotate`, [d] float32 or float64. Also for a sum of rotated vectors."""
    size = block_size(len(vector))
    for start, bits in reversed(_blocks(len(vector), seed)):
        block = vector[start : start + size]
        _hadamard(block)
        np.multiply(block, _signs(bits, size), out=block)


def reach_factor(length: int, failure_bits: int) -> float:
    """tau: no coordinate of a rotated vector of norm C is beyond tau C, but for a probability of 2^-failure_bits.

    Given the signs of all blocks but the last that turns it, a coordinate is sub-Gaussian with variance C^2 / B
    (Hoeffding); union over all. At most 1.
    """
    deviation = math.sqrt(2 * (math.log(2 * length) + failure_bits * math.log(2)) / block_size(length))
    return min(1.0, deviation)


def _blocks(length: int, seed: bytes) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """Where each block begins, and its signs, a bit each of the seed's keystream."""
    size = block_size(length)
    starts = [*range(0, length - size + 1, size), *([length - size] if length % size else [])]
    width = -(-size // 8)
    stream, buffer = Keystream(seed), keystream_buffer(width)
    blocks = []
    for start in starts:
        stream.next_into(buffer, width)
        blocks.append((start, np.frombuffer(buffer, np.uint8, width).copy()))
    return blocks


def _signs(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.int8]:
    """+1 for a 0, -1 for a 1; the highest bit of a byte is the first."""
    return 1 - 2 * np.unpackbits(bits, count=size).astype(np.int8)


def _hadamard(block: Floats) -> None:
    """The orthonormal fast Walsh-Hadamard transform, in place; its own inverse. `len(block)` is a power of two.

    Additions alone, in one order, so that every machine makes the same of the same floats. As the transform of the rows
    and of the columns of a square: then every addition is of long stretches, which takes numpy half the time.
    """
    size = len(block)
    square = block.reshape(1 << (size.bit_length() - 1) // 2, -1)
    _butterflies(square)
    columns = square.T.copy()
    _butterflies(columns)
    square[:] = columns.T
    block *= block.dtype.type(1 / math.sqrt(size))


def _butterflies(square: Floats) -> None:
    """Of each column."""
    half, width = 1, square.shape[1]
    while half < len(square):
        pairs = square.reshape(-1, 2, half, width)
        upper = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = upper
        half *= 2
