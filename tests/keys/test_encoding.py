from __future__ import annotations

import pytest
import zmq.utils.z85
from hypothesis import given
from hypothesis import strategies as st

from keys.encoding import prefixed, u64, z85


@given(st.binary(min_size=32, max_size=32))
def test_z85_is_zeromqs(raw: bytes) -> None:
    assert z85(raw).encode() == zmq.utils.z85.encode(raw)


def test_z85_of_its_specification() -> None:
    assert z85(bytes.fromhex("864fd26fb559f75b")) == "HelloWorld"  # ZeroMQ RFC 32


def test_z85_refuses_odd_lengths() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        z85(b"abc")


@given(st.lists(st.binary(max_size=8)), st.lists(st.binary(max_size=8)))
def test_different_parts_give_different_bytes(first: list[bytes], second: list[bytes]) -> None:
    assert (prefixed(*first) == prefixed(*second)) == (first == second)


def test_prefixed_by_hand() -> None:
    assert prefixed(b"ab", b"") == b"\0\0\0\2ab\0\0\0\0"


def test_u64() -> None:
    assert u64(258) == b"\0\0\0\0\0\0\1\2"
    with pytest.raises(OverflowError):
        u64(-1)
