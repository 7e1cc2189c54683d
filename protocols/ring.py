"""Vectors over the integers modulo 2^bits: adding masks, packing, unpacking. Chunk by chunk, in buffers that stay.

Words are unsigned and at least as wide as the ring, uint16 for 16 bits and uint32 for more: sums run modulo the word,
of which the ring's modulus is a divisor, and are cut to `bits` when they are packed. Packed vectors are little-endian,
`bits` a value, values without a gap, the last byte filled up with zeros.

The one module of `protocols` that knows numpy: its subject are ring integers, numpy is the machine that adds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from protocols.xof import CHUNK, Keystream, keystream_buffer

Words = npt.NDArray[Any]  # uint16 or uint32: the ring's `dtype`
Bytes = npt.NDArray[np.uint8]

RINGS: Final = (16, 20, 24, 32)
_ALIGNED: Final = 2  # values of a 20-bit ring that fill whole bytes


@dataclass(frozen=True, slots=True)
class Ring:
    """The integers modulo 2^bits, of which 16, 20, 24 and 32 are offered. Raises ValueError for others."""

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in RINGS:
            raise ValueError(f"a ring has {', '.join(map(str, RINGS))} bits")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.bits == 16 else "<u4")

    @property
    def chunk(self) -> int:
        """Values that are worked on at a time: CHUNK bytes of words."""
        return CHUNK // self.dtype.itemsize

    def packed_size(self, length: int) -> int:
        """Bytes of `length` packed values."""
        return (length * self.bits + 7) // 8

    def chunks(self, length: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of each chunk of a vector. All but the last are whole bytes long when packed."""
        for start in range(0, length, self.chunk):
            yield start, min(length, start + self.chunk)

    def words(self, length: int) -> Words:
        """A buffer of zeros."""
        return np.zeros(length, self.dtype)

    def packed(self, length: int) -> Bytes:
        """A buffer for `length` packed values."""
        return np.empty(self.packed_size(length), np.uint8)


class Masks:
    """Keystreams that are added to or subtracted from one vector, chunk after chunk from its beginning."""

    def __init__(self, ring: Ring, plus: tuple[bytes, ...], minus: tuple[bytes, ...]) -> None:
        """plus, minus: mask keys of 32 bytes."""
        self._buffer = keystream_buffer(CHUNK)
        self._view: Words = np.frombuffer(self._buffer, ring.dtype, ring.chunk)
        self._plus = [Keystream(key) for key in plus]
        self._minus = [Keystream(key) for key in minus]

    def apply(self, words: Words) -> None:
        """Mask the next chunk in place; every chunk but the last has `Ring.chunk` values."""
        size, mask = words.nbytes, self._view[: len(words)]
        for stream in self._plus:
            stream.next_into(self._buffer, size)
            np.add(words, mask, out=words)
        for stream in self._minus:
            stream.next_into(self._buffer, size)
            np.subtract(words, mask, out=words)

    def __repr__(self) -> str:
        return f"Masks({len(self._plus)}, {len(self._minus)})"


def pack_into(ring: Ring, words: Words, out: Bytes) -> None:
    """`len(words)` values, cut to the ring, into exactly `packed_size` bytes."""
    match ring.bits:
        case 16 | 32:
            out.view(ring.dtype)[:] = words
        case 24:
            quads = words.view(np.uint8).reshape(-1, 4)
            triples = out.reshape(-1, 3)
            for place in range(3):
                triples[:, place] = quads[:, place]
        case _:
            _pack_twenty(words, out)


def unpack_into(ring: Ring, packed: Bytes, words: Words) -> None:
    """Inverse of `pack_into`: values from 0 to 2^bits - 1."""
    match ring.bits:
        case 16 | 32:
            words[:] = packed.view(ring.dtype)
        case 24:
            quads = words.view(np.uint8).reshape(-1, 4)
            quads[:, 3] = 0
            for place, column in enumerate(packed.reshape(-1, 3).T):
                quads[:, place] = column
        case _:
            _unpack_twenty(packed, words)


def add_packed(ring: Ring, total: Words, packed: bytes) -> None:
    """Add a packed vector to `total`. Raises ValueError unless it has exactly the bytes of as many values."""
    require_packed(ring, len(total), packed)
    raw, scratch = np.frombuffer(packed, np.uint8), ring.words(min(len(total), ring.chunk))
    for start, stop in ring.chunks(len(total)):
        chunk = scratch[: stop - start]
        unpack_into(ring, raw[ring.packed_size(start) : ring.packed_size(stop)], chunk)
        total[start:stop] += chunk


def require_packed(ring: Ring, length: int, packed: bytes) -> None:
    """Raises ValueError unless `packed` is the one encoding of some `length` values: its size, and zeros to fill up."""
    if len(packed) != ring.packed_size(length):
        raise ValueError("a packed vector of another length")
    if length * ring.bits % 8 and packed[-1] >> 4:
        raise ValueError("a packed vector is filled up with zeros")


def signed(ring: Ring, words: Words) -> npt.NDArray[np.int32]:
    """Representatives from -2^(bits-1) to 2^(bits-1) - 1: what a sum means that did not wrap."""
    shift = 8 * ring.dtype.itemsize - ring.bits
    kind = np.int16 if ring.bits == 16 else np.int32
    result: npt.NDArray[np.int32] = np.right_shift(np.left_shift(words, shift).view(kind), shift).astype(np.int32)
    return result


def _pack_twenty(words: Words, out: Bytes) -> None:
    """Two values in five bytes. An odd last value takes two and a half."""
    even = len(words) // _ALIGNED
    pairs = words[: 2 * even].reshape(-1, 2)
    both = (pairs[:, 1].astype(np.uint64) << 20) | (pairs[:, 0] & 0xFFFFF)
    octets = both.view(np.uint8).reshape(-1, 8)
    fives = out[: 5 * even].reshape(-1, 5)
    for place in range(5):
        fives[:, place] = octets[:, place]
    if len(words) % _ALIGNED:
        last = int(words[-1]) & 0xFFFFF
        out[5 * even :] = np.frombuffer(last.to_bytes(3, "little"), np.uint8)


def _unpack_twenty(packed: Bytes, words: Words) -> None:
    even = len(words) // _ALIGNED
    octets = np.zeros((even, 8), np.uint8)
    for place, column in enumerate(packed[: 5 * even].reshape(-1, 5).T):
        octets[:, place] = column
    both = octets.reshape(-1).view(np.uint64)
    pairs = words[: 2 * even].reshape(-1, 2)
    pairs[:, 0] = both & 0xFFFFF
    pairs[:, 1] = both >> 20
    if len(words) % _ALIGNED:
        words[-1] = int.from_bytes(packed[5 * even :].tobytes(), "little")
