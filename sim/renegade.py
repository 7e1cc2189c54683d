"""A coordinator that does not keep to the protocol, against a site: what the site's own node refuses of it.

It holds the coordinator's keys and line. What it may do by right (close the study, average badly) is no abuse that a
site could see, and is not here.
"""

from __future__ import annotations

from typing import Final

from fedsecure.greeting import GREETINGS, Verdict
from fedsecure.node.wiring import COORDINATOR
from fedsecure.plan import frame_limit, has_target, schedule
from protocols.codec import decode, encode
from protocols.messages import BankRef, CloseReason, Kind, RoundDone, RoundOpen, StudyClosed, TargetRef
from sim.adversary import Abuse, Insider

_CLOSED: Final = StudyClosed(CloseReason.ABORTED)


def openings(frames: list[bytes]) -> list[RoundOpen]:
    """The rounds that these frames opened, in order."""
    found = []
    for frame in frames:
        if not GREETINGS.is_one(frame) and b"publish" in frame[2:40]:
            message = decode(Kind.PUBLISH, _body(frame), COORDINATOR)
            found += [message] if isinstance(message, RoundOpen) else []
    return found


def _body(frame: bytes) -> bytes:
    return frame[2 + int.from_bytes(frame[:2], "big") + 64 :]


def _opening(me: Insider, **changes: object) -> RoundOpen:
    """A round that is still to come, as it opened the last one but for these fields."""
    last = openings(me.line.sent)[-1]
    to_come = {"stage": len(schedule(me.study)) - 1, "round": 0}
    return RoundOpen(**{name: getattr(last, name) for name in last.__struct_fields__} | to_come | changes)


def _other_target(me: Insider) -> tuple[TargetRef, ...]:
    """A target network where the study has none, and none where it has one."""
    expected = has_target(me.study, len(schedule(me.study)) - 1, 0)
    return () if expected else (TargetRef(bytes(32), follows=False, asked=False),)


def _other_model(me: Insider) -> bytes:
    """A round whose model is not the one that its digest announces."""
    last = _opening(me)
    body = encode(last).replace(last.model_digest, bytes(32), 1)
    return me.frame(last, body=body)


AT_A_SITE: Final[dict[str, Abuse]] = {
    "an older model": lambda me, _: me.frame(openings(me.line.sent)[0]),
    "a model that was not announced": lambda me, _: _other_model(me),
    "another study's frame": lambda me, _: me.frame(_CLOSED, study=bytes(32)),
    "another study file": lambda me, _: me.greeting(study=bytes(32)),
    "a round outside of the schedule": lambda me, _: me.frame(_opening(me, stage=len(schedule(me.study)))),
    "a bank of a site that is none": lambda me, _: me.frame(_opening(me, banks=(BankRef("puppet", bytes(32)),))),
    "another target network's round": lambda me, _: me.frame(_opening(me, target=_other_target(me))),
    "a site's message": lambda me, _: me.frame(RoundDone(0, 0)),
    "a frame made for another site": lambda me, other: me.frame(_CLOSED, recipient=other),
    "impersonation of a site": lambda me, other: me.frame(RoundDone(0, 0), sender=other),
    "replay of a frame": lambda me, _: me.last(b"publish"),
    "downgrade of the format": lambda me, _: me.header(version=0),
    "downgrade of the software": lambda me, _: me.greeting(software="0.0.1"),
    "a coordinator's older folder": lambda me, _: me.greeting(boot=0),
    "a false claim of an older copy": lambda me, _: me.greeting(verdict=Verdict.RESTORED),
    "oversize frame": lambda me, _: bytes(frame_limit(me.study) + 1),
    "bytes that are no frame": lambda *_: b"\xff" * 100,
}  # fmt: skip
