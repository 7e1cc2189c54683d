from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.errors import CannotOpen
from keys.hybrid import OVERHEAD, PUBLIC_SIZE, HybridKey, require_sound, seal
from keys.kdf import derive

KEY, OTHER = HybridKey(bytes(32)), HybridKey(b"\1" * 32)


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_is_sealed_opens_for_its_key_and_context(plaintext: bytes, info: bytes) -> None:
    sealed = seal(KEY.public, plaintext, info)
    assert len(sealed) == len(plaintext) + OVERHEAD
    assert KEY.open(sealed, info) == plaintext
    for key, context in ((OTHER, info), (KEY, info + b"!")):
        with pytest.raises(CannotOpen):
            key.open(sealed, context)


@pytest.mark.parametrize("place", [0, 1087, 1088, 1119, 1120, -1])
def test_no_part_of_it_can_be_changed(place: int) -> None:
    """Encapsulation of ML-KEM, of X25519, ciphertext, tag."""
    sealed = bytearray(seal(KEY.public, b"share", b""))
    sealed[place] ^= 1
    with pytest.raises(CannotOpen):
        KEY.open(bytes(sealed), b"")


@pytest.mark.parametrize("cut", [0, 31, 1120, OVERHEAD])
def test_what_is_cut_does_not_open(cut: int) -> None:
    with pytest.raises(CannotOpen):
        KEY.open(seal(KEY.public, b"share", b"")[:cut], b"")


def test_both_ends_agree() -> None:
    assert KEY.exchange(OTHER.public) == OTHER.exchange(KEY.public)
    assert HybridKey(bytes(32)).public == KEY.public
    assert len(KEY.public) == PUBLIC_SIZE
    require_sound(KEY.public)


@pytest.mark.parametrize(
    "public",
    [b"", KEY.public[:-1], KEY.public + b"\0", KEY.public[:1184] + bytes(32), b"\xff" * 1184 + KEY.public[1184:]],
)
def test_unsound_keys(public: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the library's texts
        require_sound(public)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        HybridKey(bytes(size))


def test_derived_keys_are_bound_to_label_and_context() -> None:
    """RFC 5869 itself is the library's; that no two contexts give one key is ours."""
    keys = {derive(bytes(32), *parts) for parts in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"ab", b"c", b""))}
    assert len(keys) == 4
    assert len(derive(bytes(32), b"a", size=64)) == 64


def test_a_key_prints_nothing() -> None:
    assert repr(KEY) == "HybridKey(...)"
