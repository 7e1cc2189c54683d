"""Greetings: exactly one signed encoding, of one peer to one node; what they say about studies and versions."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from fedsecure.config import Study, parse_study
from fedsecure.greeting import (
    GREETINGS,
    MAXIMUM,
    Greeting,
    Verdict,
    differing,
    settings_of,
    software,
    works_with,
)
from keys.identity import Identity
from protocols.envelope import MAXIMUM_HEADER
from protocols.errors import BadSignature, FaultyPeer, Malformed, Oversize, WrongRecipient, WrongSender

OFF = {"secagg": False}
STUDY = parse_study({"sites": [{"name": "north", "weight": 3}], "security": OFF})
NORTH = Identity.generate()


def greeting(**changes: object) -> Greeting:
    made = Greeting(
        "north", "hub", STUDY.digest(), tuple(settings_of(STUDY).values()), "0.1.0", 3, b"s" * 16, 10, 12, 10**12,
        Verdict.UNKNOWN,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def opened(frame: bytes) -> Greeting:
    return GREETINGS.open(frame, peer="north", me="hub", public=NORTH.public)


def signed(body: bytes) -> bytes:
    return GREETINGS.magic + NORTH.sign(GREETINGS.label, body) + body


def test_what_was_written_is_read() -> None:
    frame = GREETINGS.write(greeting(), NORTH)
    assert GREETINGS.is_one(frame)
    assert opened(frame) == greeting()
    proof = GREETINGS.write(greeting(verdict=Verdict.RESTORED, proof=frame), NORTH)
    assert opened(proof).proof == frame
    assert len(proof) < MAXIMUM
    assert repr(opened(frame)) == "Greeting()"


def test_no_frame_of_a_study_is_taken_for_one() -> None:
    assert int.from_bytes(GREETINGS.magic[:2], "big") > 2 + MAXIMUM_HEADER


BODY = msgspec.msgpack.encode(greeting())


@dataclass(frozen=True)
class Case:
    reason: str
    frame: bytes
    error: type[FaultyPeer]


CASES = [
    Case("too large", GREETINGS.magic + bytes(MAXIMUM), Oversize),
    Case("cut inside the signature", GREETINGS.write(greeting(), NORTH)[:40], Malformed),
    Case("cut at its end", GREETINGS.write(greeting(), NORTH)[:-1], BadSignature),
    Case("another's signature", GREETINGS.write(greeting(), Identity.generate()), BadSignature),
    Case("signed under another label", GREETINGS.magic + NORTH.sign(b"fedsecure/frame/v1", BODY) + BODY, BadSignature),
    Case("bytes behind it", signed(BODY + b"\0"), Malformed),
    Case("not its shortest encoding", signed(BODY.replace(b"\x03\xc4\x10", b"\xcc\x03\xc4\x10")), Malformed),
    Case("a field too many", signed(msgspec.msgpack.encode((*msgspec.to_builtins(greeting()), 0))), Malformed),
    Case("another's name", GREETINGS.write(greeting(sender="south"), NORTH), WrongSender),
    Case("made for another", GREETINGS.write(greeting(recipient="south"), NORTH), WrongRecipient),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.reason)
def test_anything_else_is_refused_and_blames_the_peer(case: Case) -> None:
    with pytest.raises(case.error) as refusal:
        opened(case.frame)
    assert refusal.value.peer == "north"


@pytest.mark.parametrize("software", ["0.1.0.dev1", "1", "a.b", "0.1.0 please", "99999.1"])
def test_a_version_holds_no_text(software: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        GREETINGS.write(greeting(software=software), NORTH)


def test_two_studies_are_told_apart_by_setting() -> None:
    changed: Study = parse_study(
        {"sites": [{"name": "north", "weight": 4}], "pretrain": {"rounds": 99}, "security": OFF}
    )
    assert differing(STUDY, tuple(settings_of(changed).values())) == ("pretrain.rounds", "sites")
    assert differing(STUDY, tuple(settings_of(STUDY).values())) == ()
    assert differing(STUDY, ()) == ("the list of settings itself",)


VERSIONS = [("1.2.0", "1.2.9", True), ("1.2", "1.2.1", True), ("1.2.0", "1.3.0", False), ("1.2.0", "2.2.0", False)]


@pytest.mark.parametrize(("ours", "theirs", "works"), VERSIONS)
def test_one_study_is_run_with_one_minor_version(ours: str, theirs: str, works: bool) -> None:
    assert works_with(ours, theirs) is works


def test_this_version_can_be_said() -> None:
    GREETINGS.write(greeting(software=software()), NORTH)
