"""A random rotation that spreads a vector over its coordinates: block-diagonal, signs then Hadamard, 2^16 a block.

After Suresh et al., ICML 2017 (arXiv 1611.00429): a rotated vector of norm C has coordinates of about C / 2^8,
whatever it was, so that one grid fits all. A block is at most 2^16 wide: it stays in the cache, and a wider one would
gain little. The signs come from a public seed in the manifest. Rotation is no protection; it makes quantising cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from fedsecure.privacy.clip import clip_factor
from fedsecure.types import FloatArray
from protocols.xof import Keystream, keystream_buffer

BLOCK: Final = 1 << 16


def block_size(length: int) -> int:
    """2^16, or the next power of two for a shorter vector."""
    return BLOCK if length >= BLOCK else 1 << max(0, length - 1).bit_length()


def rotated_length(length: int) -> int:
    """`length` filled up to whole blocks."""
    size = block_size(length)
    return -(-length // size) * size


def rotate(vector: FloatArray, seed: bytes) -> FloatArray:
    """[d] float32 to [rotated_length(d)] float32 of the same norm. seed: 32 bytes, public."""
    blocks = _filled(vector)
    for block, signs in zip(blocks, _signs(seed, blocks.shape), strict=True):
        np.multiply(block, signs, out=block)
        _hadamard(block)
    return blocks.reshape(-1)


def rotate_clipped(vector: FloatArray, seed: bytes, bound: float) -> tuple[FloatArray, float]:
    """The rotated vector and the factor that clips *it* to L2 norm `bound`: float32 rotates not quite to the same norm,
    and it is the rotated coordinates that are summed. Raises ValueError as `clip_factor`."""
    turned = rotate(vector, seed)
    return turned, clip_factor(turned, bound)


def unrotate(vector: FloatArray, seed: bytes, length: int) -> FloatArray:
    """Inverse of `rotate`: [rotated_length(length)] to [length]. Also for a sum of rotated vectors."""
    blocks = vector.astype(np.float32).reshape(-1, block_size(length))
    for block, signs in zip(blocks, _signs(seed, blocks.shape), strict=True):
        _hadamard(block)
        np.multiply(block, signs, out=block)
    return blocks.reshape(-1)[:length]


def reach_factor(length: int, failure_bits: int) -> float:
    """tau: no coordinate of a rotated vector of norm C is beyond tau C, but for a probability of 2^-failure_bits.

    Coordinates are sub-Gaussian with variance C^2 / B over the random signs (Hoeffding); union over all. At most 1.
    """
    size = block_size(length)
    deviation = math.sqrt(2 * (math.log(2 * rotated_length(length)) + failure_bits * math.log(2)) / size)
    return min(1.0, deviation)


def _filled(vector: FloatArray) -> FloatArray:
    size = block_size(len(vector))
    filled = np.zeros(rotated_length(len(vector)), np.float32)
    filled[: len(vector)] = vector
    return filled.reshape(-1, size)


def _signs(seed: bytes, shape: tuple[int, ...]) -> Iterator[FloatArray]:
    """+1 and -1 for one block after the other, a bit each of the seed's keystream."""
    count, size = shape
    width = -(-size // 8)
    stream, buffer = Keystream(seed), keystream_buffer(width)
    for _ in range(count):
        stream.next_into(buffer, width)
        bits = np.unpackbits(np.frombuffer(buffer, np.uint8, width))[:size]
        yield 1 - 2 * bits.astype(np.float32)


def _hadamard(block: FloatArray) -> None:
    """The orthonormal fast Walsh-Hadamard transform, in place; its own inverse. `len(block)` is a power of two."""
    size, half = len(block), 1
    while half < size:
        pairs = block.reshape(-1, 2, half)
        upper = pairs[:, 0] - pairs[:, 1]
        pairs[:, 0] += pairs[:, 1]
        pairs[:, 1] = upper
        half *= 2
    block *= np.float32(1 / math.sqrt(size))
