"""Each check of `open_frame` has its vectors (tests/vectors/frames.json). Here: properties, and what spans frames."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import Identity
from keys.roster import Roster
from protocols.envelope import (
    KINDS_OF,
    MAXIMUM_HEADER,
    Header,
    Opened,
    ReplayGuard,
    header_bytes,
    open_frame,
)
from protocols.errors import FaultyPeer, Malformed, ProtocolError, Replayed
from protocols.messages import Hello, Kind, Role, RoundDone, WeightUpdate
from protocols.seal import Sealer

HELLO = Hello(0, -1, -1, False)
STUDY = bytes(range(32))
IDENTITIES = {name: Identity.generate() for name in ("hub", "north", "south")}
ROSTER = Roster("hub", {name: identity.public for name, identity in IDENTITIES.items()})


def opens(frame: bytes, replay: ReplayGuard | None = None, peer: str = "north", maximum: int = 1 << 20) -> Opened:
    guard = replay if replay is not None else ReplayGuard()
    return open_frame(frame, peer=peer, me="hub", study=STUDY, roster=ROSTER, replay=guard, maximum=maximum)


def north(boot: int = 0) -> Sealer:
    return Sealer(IDENTITIES["north"], "north", STUDY, boot)


GOOD = north().seal("hub", WeightUpdate(0, 1, bytes(32), bytes(400)))


@given(st.binary(max_size=400))
def test_garbage_is_the_peers_fault(frame: bytes) -> None:
    with pytest.raises(FaultyPeer) as caught:
        opens(frame)
    assert caught.value.peer == "north"


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_byte_of_a_frame_can_be_changed(place: int, change: int) -> None:
    frame = bytearray(GOOD)
    frame[place] ^= change
    guard = ReplayGuard()
    with pytest.raises(ProtocolError) as caught:
        opens(bytes(frame), guard)
    assert caught.value.peer == "north"
    assert guard.export() == {}


@given(st.integers(0, len(GOOD) - 1), st.integers(0, len(GOOD)), st.binary(max_size=20))
def test_no_piece_of_a_frame_can_be_exchanged(start: int, end: int, piece: bytes) -> None:
    frame = GOOD[:start] + piece + GOOD[max(start, end) :]
    if frame != GOOD:
        with pytest.raises(ProtocolError):
            opens(frame)


def test_numbers_rise_over_frames_recipients_and_restarts() -> None:
    guard = ReplayGuard()
    first, second = north(), north(boot=1)
    frames = [first.seal("hub", HELLO), first.seal("hub", HELLO), second.seal("hub", HELLO)]
    assert [opens(frame, guard).seq for frame in frames] == [1, 2, 1 << 32 | 1]
    for frame in frames:
        with pytest.raises(Replayed):
            opens(frame, guard)


def test_a_frame_that_was_overtaken_is_refused_and_its_message_sealed_again_is_not() -> None:
    guard, sealer = ReplayGuard(), north()
    lost, later = sealer.seal("hub", RoundDone(0, 1)), sealer.seal("hub", HELLO)
    opens(later, guard)
    with pytest.raises(Replayed):
        opens(lost, guard)
    assert opens(sealer.seal("hub", RoundDone(0, 1)), guard).message == RoundDone(0, 1)


def test_replay_state_survives_a_restart() -> None:
    guard = ReplayGuard()
    frame = north().seal("hub", HELLO)
    opens(frame, guard)
    kept = guard.export()
    assert kept == {"north": 1}
    with pytest.raises(Replayed):
        opens(frame, ReplayGuard(kept))


def test_a_guard_shares_nothing_with_what_it_began_from_or_exported() -> None:
    start = {"north": 5}
    guard = ReplayGuard(start)
    start["north"] = 0
    guard.export()["north"] = 0
    with pytest.raises(Replayed):
        guard.accept("north", 5)


def test_one_senders_numbers_are_not_anothers() -> None:
    guard = ReplayGuard()
    opens(north(boot=9).seal("hub", HELLO), guard)
    south = Sealer(IDENTITIES["south"], "south", STUDY, 0)
    assert opens(south.seal("hub", HELLO), guard, peer="south").seq == 1


def test_an_unknown_peer_is_refused_before_anything_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Callable[..., object]:
        return lambda *_: pytest.fail(f"{name} was reached")

    for name in ("_split", "exactly", "decode"):
        monkeypatch.setattr(f"protocols.envelope.{name}", fail(name))
    with pytest.raises(FaultyPeer, match="member of the roster"):
        opens(GOOD, peer="stranger")


def test_nothing_is_decoded_before_the_signature_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.envelope.decode", lambda *_: pytest.fail("the body was decoded"))
    forged = bytearray(GOOD)
    forged[-500] ^= 1  # in the signature, which stands before a body of some 460 bytes
    with pytest.raises(FaultyPeer):
        opens(bytes(forged))


def test_nothing_of_a_replayed_frame_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.envelope.decode", lambda *_: pytest.fail("the body was decoded"))
    with pytest.raises(Replayed):
        opens(GOOD, ReplayGuard({"north": 1}))


def test_a_receiver_outside_the_roster_is_a_bug() -> None:
    with pytest.raises(KeyError):
        open_frame(GOOD, peer="north", me="west", study=STUDY, roster=ROSTER, replay=ReplayGuard(), maximum=1 << 20)


def test_the_largest_header_fits() -> None:
    longest = Header(1, Kind.RELEASE, STUDY, "a" * 32, "b" * 32, 2**63 - 1, 2**63 - 1, STUDY)
    assert len(header_bytes(longest)) == 164 <= MAXIMUM_HEADER


def test_no_invalid_header_is_signed() -> None:
    with pytest.raises(ValueError, match="regex"):
        north().seal("Hub", HELLO)


def test_no_role_sends_both_release_and_publish() -> None:
    assert set(KINDS_OF) == set(Role)
    assert not any({Kind.RELEASE, Kind.PUBLISH} <= kinds for kinds in KINDS_OF.values())


def test_a_refusal_prints_no_content() -> None:
    frame = Sealer(IDENTITIES["north"], "mrs-smith", STUDY, 0).seal("hub", HELLO)
    with pytest.raises(FaultyPeer) as caught:
        opens(frame)
    assert "smith" not in str(caught.value)
    with pytest.raises(Malformed) as caught_too:
        opens(b"\0\x09mrs smith" + bytes(100))
    assert "smith" not in str(caught_too.value)
