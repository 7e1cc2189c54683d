"""RFC 9180 itself is checked in tests/interop, where a second implementation meets this one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import hpke
from keys.errors import CannotOpen
from keys.identity import Identity

IDENTITY = Identity.generate()
PUBLIC = IDENTITY.public.sealing


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_is_sealed_is_opened(plaintext: bytes, info: bytes) -> None:
    sealed = hpke.seal(PUBLIC, plaintext, info)
    assert len(sealed) == len(plaintext) + hpke.OVERHEAD
    assert hpke.open_(IDENTITY, sealed, info) == plaintext


def test_sealing_twice_gives_two_ciphertexts() -> None:
    assert hpke.seal(PUBLIC, b"same", b"") != hpke.seal(PUBLIC, b"same", b"")


def test_only_the_recipient_opens_and_only_in_context() -> None:
    sealed = hpke.seal(PUBLIC, b"secret text", b"round 1")
    for identity, info in ((Identity.generate(), b"round 1"), (IDENTITY, b"round 2"), (IDENTITY, b"")):
        with pytest.raises(CannotOpen) as caught:
            hpke.open_(identity, sealed, info)
        assert "secret" not in str(caught.value)


def test_the_channel_key_does_not_open() -> None:
    with pytest.raises(CannotOpen):
        hpke.open_(IDENTITY, hpke.seal(IDENTITY.public.channel, b"x", b""), b"")


@given(st.data())
def test_altered_bytes_do_not_open(data: st.DataObject) -> None:
    sealed = bytearray(hpke.seal(PUBLIC, b"0123456789", b""))
    place = data.draw(st.integers(0, len(sealed) - 1))
    if place == 31:  # X25519 ignores the top bit of the encapsulated key; HPKE binds it by its bytes
        sealed[place] ^= 0x80
    else:
        sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CannotOpen):
        hpke.open_(IDENTITY, bytes(sealed), b"")


@given(st.binary(max_size=100))
def test_garbage_does_not_open(raw: bytes) -> None:
    with pytest.raises(CannotOpen):
        hpke.open_(IDENTITY, raw, b"")
