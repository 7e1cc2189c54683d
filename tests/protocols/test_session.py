"""Chunks of a session, and everything that somebody between two nodes could do to them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import CannotDecrypt, FaultyPeer, Incomplete, Malformed, Oversize, Replayed, UnexpectedMessage
from protocols.handshake import SessionKeys
from protocols.session import CHUNK, CHUNK_TYPE, CREDIT_TYPE, HEADER, MAXIMUM_PACKET, TAG, WINDOW, Buffers, Session

KEYS = SessionKeys(b"8 bytes.", bytes(range(32)), bytes(range(32, 64)))
MAXIMUM = 20 * CHUNK
FRAME = os.urandom(3 * CHUNK + 1000)


def pair(maximum: int = MAXIMUM) -> tuple[Session, Session]:
    """A site's end and the coordinator's."""
    site = Session(KEYS, peer="hub", to_coordinator=True, maximum=maximum, buffers=Buffers())
    return site, Session(KEYS, peer="north", to_coordinator=False, maximum=maximum, buffers=Buffers())


def packets(session: Session, frame: bytes) -> list[bytes]:
    """All packets of a frame that fits the window."""
    session.begin(frame)
    made = []
    while (packet := session.next_packet()) is not None:
        made.append(bytes(packet))
    return made


def carry(source: Session, sink: Session, frame: bytes) -> bytes | None:
    """The frame as it arrives, credits carried back."""
    source.begin(frame)
    arrived = None
    while arrived is None and (packet := source.next_packet()) is not None:
        arrived = sink.receive(packet)
        while (credit := sink.next_packet()) is not None:
            assert source.receive(credit) is None
    return arrived


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 20 * CHUNK])
def test_frames_arrive_as_they_were(size: int) -> None:
    site, hub = pair()
    frame = os.urandom(size)
    assert carry(site, hub, frame) == frame
    assert carry(hub, site, frame) == frame
    assert carry(site, hub, b"next") == b"next"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=20), st.integers(1, 700))
def test_any_frames_in_any_chunks(sizes: list[int], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("protocols.session.CHUNK", chunk)
        site, hub = pair()
        for size in sizes:
            frame = os.urandom(size)
            assert carry(site, hub, frame) == frame


def test_the_two_directions_have_keys_of_their_own() -> None:
    site, hub = pair()
    (packet,) = packets(site, b"x")
    with pytest.raises(CannotDecrypt):
        site.receive(packet)  # reflected to its maker
    assert hub.receive(packet) == b"x"


def test_no_more_is_sent_than_was_granted() -> None:
    site, hub = pair()
    sent = packets(site, bytes(MAXIMUM))
    assert len(sent) == WINDOW
    for packet in sent[: WINDOW // 2]:
        hub.receive(packet)
    credit = hub.next_packet()
    assert credit is not None
    site.receive(credit)
    more = []
    while (packet := site.next_packet()) is not None:
        more.append(bytes(packet))
    assert len(more) == WINDOW // 2


# --- what is done to packets on their way: (how, error, whether the session ends) ---

Fault = Callable[[list[bytes]], list[bytes]]
FAULTS: dict[str, tuple[Fault, type[FaultyPeer], bool]] = {
    "first dropped": (lambda p: p[1:], Incomplete, True),
    "one dropped": (lambda p: [p[0], *p[2:]], Incomplete, True),
    "one repeated": (lambda p: [p[0], p[0], *p[1:]], Replayed, False),
    "all repeated": (lambda p: [*p, *p], Replayed, False),
    "two exchanged": (lambda p: [p[1], p[0], *p[2:]], Incomplete, True),
    "one cut short": (lambda p: [p[0][:-1], *p[1:]], CannotDecrypt, True),
    "one cut to nothing": (lambda p: [b"", *p[1:]], Malformed, True),
    "one cut to its header": (lambda p: [p[0][: HEADER.size], *p[1:]], Malformed, True),
    "one with a byte more": (lambda p: [*p[:-1], p[-1] + b"x"], CannotDecrypt, False),
    "one far too long": (lambda p: [bytes(MAXIMUM_PACKET + 1), *p], Oversize, False),
    "ends of two joined": (lambda p: [p[0][:1000] + p[1][1000:], *p[1:]], CannotDecrypt, True),
    "headers exchanged": (lambda p: [p[1][: HEADER.size] + p[0][HEADER.size :], *p[1:]], CannotDecrypt, True),
}


@pytest.mark.parametrize("how", FAULTS)
def test_a_fault_is_named_and_never_gives_a_frame_that_was_not_sent(how: str) -> None:
    fault, error, ends = FAULTS[how]
    site, hub = pair()
    errors, frames = [], []
    for packet in fault(packets(site, FRAME)):
        try:
            frame = hub.receive(packet)
        except FaultyPeer as caught:
            errors.append(caught)
            if hub.broken:
                break
        else:
            frames += [] if frame is None else [frame]
    assert type(errors[0]) is error
    assert {caught.peer for caught in errors} == {"north"}
    assert hub.broken is ends
    assert frames in ([], [FRAME])
    assert (frames == [FRAME]) is (not ends and how != "one with a byte more")


@pytest.mark.parametrize("at", [*range(HEADER.size), HEADER.size, HEADER.size + 500, -TAG, -1])
def test_every_bit_of_header_and_content_is_authenticated(at: int) -> None:
    site, hub = pair()
    (packet,) = packets(site, bytes(1000))
    altered = bytearray(packet)
    altered[at] ^= 1
    with pytest.raises((CannotDecrypt, Malformed)):
        hub.receive(bytes(altered))
    assert not hub.broken
    assert hub.receive(packet) == bytes(1000)


def test_a_packet_of_another_session_does_not_open() -> None:
    other = Session(
        KEYS._replace(to_coordinator=bytes(32)), peer="hub", to_coordinator=True, maximum=9, buffers=Buffers()
    )
    _, hub = pair()
    with pytest.raises(CannotDecrypt):
        hub.receive(packets(other, b"x")[0])


# --- what only a member could do, who has the keys: the session ends ---


def forged(session: Session, kind: int, size: int, index: int, content: bytes) -> bytes:
    return bytes(session._packet(kind, size, index, memoryview(content)))


WRONG: dict[str, tuple[list[tuple[int, int, int, bytes]], type[FaultyPeer]]] = {
    "larger than taken": ([(CHUNK_TYPE, MAXIMUM + 1, 0, bytes(CHUNK))], Oversize),
    "begins in the middle": ([(CHUNK_TYPE, 2 * CHUNK, 1, bytes(CHUNK))], Incomplete),
    "begins anew": ([(CHUNK_TYPE, 2 * CHUNK, 0, bytes(CHUNK)), (CHUNK_TYPE, 2 * CHUNK, 0, bytes(CHUNK))], Incomplete),
    "leaves one out": (
        [(CHUNK_TYPE, 3 * CHUNK, 0, bytes(CHUNK)), (CHUNK_TYPE, 3 * CHUNK, 2, bytes(CHUNK))],
        Incomplete,
    ),
    "changes its size": (
        [(CHUNK_TYPE, 3 * CHUNK, 0, bytes(CHUNK)), (CHUNK_TYPE, 2 * CHUNK, 1, bytes(CHUNK))],
        Incomplete,
    ),
    "a short chunk": ([(CHUNK_TYPE, 2 * CHUNK, 0, bytes(CHUNK - 1))], Malformed),
    "a long last chunk": ([(CHUNK_TYPE, 5, 0, bytes(6))], Malformed),
    "a credit with content": ([(CREDIT_TYPE, WINDOW, 0, b"x")], Malformed),
    "a credit with an index": ([(CREDIT_TYPE, WINDOW, 1, b"")], Malformed),
    "a credit that falls": ([(CREDIT_TYPE, WINDOW - 1, 0, b"")], UnexpectedMessage),
    "a credit beyond the window": ([(CREDIT_TYPE, WINDOW + 1, 0, b"")], UnexpectedMessage),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_member_that_breaks_the_rules_ends_the_session(how: str) -> None:
    made, error = WRONG[how]
    site, hub = pair()
    *before, last = (forged(site, *packet) for packet in made)
    for packet in before:
        hub.receive(packet)
    with pytest.raises(error) as caught:
        hub.receive(last)
    assert caught.value.peer == "north"
    assert hub.broken
    assert hub.unfinished is None
    assert hub.next_packet() is None
    with pytest.raises(UnexpectedMessage, match="has ended"):
        hub.receive(forged(site, CHUNK_TYPE, 1, 0, b"x"))


def test_a_chunk_that_was_not_granted_ends_the_session() -> None:
    site, hub = pair()
    hub._granted = 1  # a receiver that grants slowly
    hub.receive(forged(site, CHUNK_TYPE, 1, 0, b"x"))
    hub._granted = 1
    with pytest.raises(UnexpectedMessage, match="not granted"):
        hub.receive(forged(site, CHUNK_TYPE, 1, 0, b"y"))
    assert hub.broken


def test_a_session_seals_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = pair()
    monkeypatch.setattr("protocols.session._PACKETS", 2)
    assert len(packets(site, bytes(3 * CHUNK))) == 2
    assert site.spent
    site.confirm()
    assert site.next_packet() is None


def test_an_announced_size_takes_no_memory() -> None:
    """Whoever announces much and sends little holds as much memory as it has sent."""
    import tracemalloc

    maximum = 1 << 40
    site, hub = pair(maximum)
    tracemalloc.start()
    hub.receive(forged(site, CHUNK_TYPE, maximum, 0, bytes(CHUNK)))
    assert tracemalloc.get_traced_memory()[1] < 4 * CHUNK
    tracemalloc.stop()


def test_nothing_secret_in_a_repr() -> None:
    assert repr(KEYS) == f"SessionKeys({KEYS.id.hex()})"
    assert repr(pair()[0]) == f"Session({KEYS.id.hex()}, hub)"
