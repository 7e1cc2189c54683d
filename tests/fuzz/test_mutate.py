"""A share of `make fuzz`, and packets that are well formed and mean nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import FaultyPeer
from protocols.handshake import SessionKeys
from protocols.session import CHUNK_TYPE, CREDIT_TYPE, Buffers, Session

SPEC = importlib.util.spec_from_file_location("mutate", Path(__file__).with_name("mutate.py"))
assert SPEC is not None
assert SPEC.loader is not None
mutate = importlib.util.module_from_spec(SPEC)
sys.modules["mutate"] = mutate
SPEC.loader.exec_module(mutate)

KEYS = SessionKeys(b"8 bytes.", bytes(32), bytes(range(32)))
SMALL = st.integers(0, 20)


def test_mutated_bytes_end_in_typed_errors() -> None:
    outcomes = mutate.run(20_000)
    assert outcomes["accepted"] < 2_000  # changed, and well formed: a digest or a float, which another check tells
    assert {"Malformed", "BadSignature", "BadDigest", "CannotDecrypt", "Incomplete", "Oversize"} <= outcomes.keys()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CHUNK_TYPE, CREDIT_TYPE]), SMALL | st.integers(0, 2**64 - 1), SMALL, st.binary(max_size=20)
        ),
        max_size=30,
    )
)
def test_a_member_with_the_keys_gets_nothing_but_frames_and_errors(
    packets: list[tuple[int, int, int, bytes]],
) -> None:
    """Whatever it seals, a frame that comes out was sent as one chunk of its whole size."""
    liar = Session(KEYS, peer="hub", to_coordinator=True, maximum=10, buffers=Buffers())
    hub = Session(KEYS, peer="north", to_coordinator=False, maximum=10, buffers=Buffers())
    for kind, size, index, content in packets:
        packet = bytes(liar._packet(kind, size, index, memoryview(content)))
        try:
            frame = hub.receive(packet)
        except FaultyPeer:
            assert hub.broken
            break
        if frame is not None:
            assert (frame, size, index) == (content, len(content), 0)
            assert len(frame) <= 10
        if (credit := hub.next_packet()) is not None:
            liar.receive(credit)
