from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ring import RINGS, Masks, Ring, add_packed, pack_into, require_packed, signed, unpack_into
from protocols.xof import CHUNK, Keystream, keystream_buffer

KEY = bytes(range(32))
rings = st.sampled_from(RINGS)


@given(rings, st.integers(1, 40), st.randoms(use_true_random=False))
def test_packing_is_the_identity_on_the_ring(bits: int, length: int, draw: object) -> None:
    ring = Ring(bits)
    values = [draw.randrange(2**bits) for _ in range(length)]  # type: ignore[attr-defined]
    words, packed, back = np.array(values, ring.dtype), ring.packed(length), ring.words(length)
    pack_into(ring, words, packed)
    require_packed(ring, length, packed.tobytes())
    unpack_into(ring, packed, back)
    assert back.tolist() == values


@given(rings, st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20))
def test_small_integers_survive_masks_and_their_removal(bits: int, values: list[int]) -> None:
    ring = Ring(bits)
    words = np.array(values, np.int64).astype(ring.dtype)
    Masks(ring, (KEY, bytes(32)), (b"\1" * 32,)).apply(words)
    packed = ring.packed(len(values))
    pack_into(ring, words, packed)
    total = ring.words(len(values))
    add_packed(ring, total, packed.tobytes())
    Masks(ring, (b"\1" * 32,), (KEY, bytes(32))).apply(total)
    assert signed(ring, total).tolist() == values


def test_every_sum_in_the_smallest_ring_wraps_as_it_should() -> None:
    """All 16-bit values at once, twice: the sum is right modulo 2^16."""
    ring = Ring(16)
    every = np.arange(2**16, dtype="<u2")
    total = ring.words(2**16)
    for vector in (every, every[::-1].copy(), every):
        add_packed(ring, total, vector.tobytes())
    assert total.tolist() == [(2 * v + 2**16 - 1 - v) % 2**16 for v in range(2**16)]


@pytest.mark.parametrize("bits", [0, 8, 17, 64])
def test_other_rings_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="16, 20, 24, 32"):
        Ring(bits)


@pytest.mark.parametrize("packed", [bytes(7), bytes(9), bytes(7) + b"\x10"])
def test_a_packed_vector_has_one_form(packed: bytes) -> None:
    with pytest.raises(ValueError, match="packed vector"):
        require_packed(Ring(20), 3, packed)
    with pytest.raises(ValueError, match="packed vector"):
        add_packed(Ring(20), Ring(20).words(3), packed)


def test_chunks_are_whole_bytes_and_cover_the_vector() -> None:
    for bits in RINGS:
        ring = Ring(bits)
        spans = list(ring.chunks(2 * ring.chunk + 5))
        assert [start for start, _ in spans] == [0, ring.chunk, 2 * ring.chunk]
        assert spans[-1][1] == 2 * ring.chunk + 5
        assert all(start * bits % 8 == 0 for start, _ in spans)


def test_a_keystream_goes_on_where_it_stopped() -> None:
    whole, buffer = b"", keystream_buffer(CHUNK)
    stream = Keystream(KEY)
    for size in (16, 48, 7):
        stream.next_into(buffer, size)
        whole += bytes(buffer[:size])
    again = keystream_buffer(71)
    Keystream(KEY).next_into(again, 71)
    assert whole == bytes(again[:71])
    # AES-256 of the counter block 0 under 00..1f: FIPS 197's cipher, first block of the stream.
    assert whole[:4].hex() == "f29000b6"


def test_nothing_prints_a_key() -> None:
    assert repr(Keystream(KEY)) == "Keystream()"
    assert repr(Masks(Ring(20), (KEY,), ())) == "Masks(1, 0)"
