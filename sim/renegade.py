"""A coordinator that does not keep to the protocol, against a site: what the site's own node refuses of it.

It holds the coordinator's keys and line. What it may do by right (close the study, average badly) is no abuse that a
site could see, and is not here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import safetensors.numpy

from fedsecure.greeting import GREETINGS, Verdict
from fedsecure.learning.shapes import model_schema
from fedsecure.node.wiring import COORDINATOR
from fedsecure.packing import pack_model, unpack_model
from fedsecure.plan import frame_limit, has_target, opens_with_sum, places, schedule
from protocols.codec import decode, encode
from protocols.messages import (
    AskTargets,
    BankRef,
    CloseReason,
    Kind,
    RoundDone,
    RoundOpen,
    StudyClosed,
    TargetRef,
    model_digest,
)
from sim.adversary import FLOOD, Abuse, Insider

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


def _opening(me: Insider, left_out: int = 0, **changes: object) -> RoundOpen:
    """The round after the last one that was opened, well formed but for these fields. Its model is all zeros.
    left_out: rounds that come in between."""
    last, following = openings(me.line.sent)[-1], places(me.study)
    stage, round_ = following[following.index((last.stage, last.round)) + 1 + left_out]
    fields: dict[str, Any] = {
        "stage": stage,
        "round": round_,
        "banks": (),
        "target": last.target if has_target(me.study, stage, round_) else (),
        "prototypes": last.prototypes if opens_with_sum(me.study, stage, round_) else b"",
        "values": b"",
        "model": _model(me, stage),
    } | changes
    return RoundOpen(model_digest=model_digest(fields["model"]), **fields)


def _model(me: Insider, stage: int) -> bytes:
    return pack_model({spec.name: np.zeros(spec.shape, np.float32) for spec in model_schema(me.study, stage)})


def _bent(me: Insider, value: float, dtype: type = np.float32, more: int = 0) -> RoundOpen:
    """The next round with a model whose last tensor holds `value`, has another dtype, or `more` values than it had."""
    honest = _opening(me)
    tensors = dict(unpack_model(honest.model))
    name, last = list(tensors.items())[-1]
    size = last.size + more
    tensors[name] = np.full(size if more else last.shape, value, dtype)
    return _opening(me, model=safetensors.numpy.save(tensors))


def _other_target(me: Insider) -> tuple[TargetRef, ...]:
    """A target network where the study has none, and none where it has one."""
    return () if _opening(me).target else (TargetRef(bytes(32), follows=False, asked=False),)


def _other_model(me: Insider) -> bytes:
    """A round whose model is not the one that its digest announces."""
    last = _opening(me)
    body = encode(last).replace(last.model_digest, bytes(32), 1)
    return me.frame(last, body=body)


def _last(me: Insider) -> RoundOpen:
    stage, round_ = places(me.study)[-1]
    return _opening(me, stage=stage, round=round_, target=(), prototypes=b"", model=_model(me, stage))


def _asking(me: Insider) -> list[bytes]:
    """For the target networks that the last round ended with."""
    last = openings(me.line.sent)[-1]
    return [me.frame(AskTargets(last.stage, last.round)) for _ in range(FLOOD)]


AT_A_SITE: Final[dict[str, Abuse]] = {
    "an older model": lambda me, _: me.frame(openings(me.line.sent)[0]),
    "a model of another shape": lambda me, _: me.frame(_bent(me, 0.0, more=1)),
    "a model of other numbers": lambda me, _: me.frame(_bent(me, 0.0, np.float64)),
    "a model that is not finite": lambda me, _: me.frame(_bent(me, float("nan"))),
    "a model that is none": lambda me, _: me.frame(_opening(me, model=b"x" * 100)),
    "a model that was not announced": lambda me, _: _other_model(me),
    "another study's frame": lambda me, _: me.frame(_CLOSED, study=bytes(32)),
    "another study file": lambda me, _: me.greeting(study=bytes(32)),
    "the last round, over and over": lambda me, _: [me.frame(openings(me.line.sent)[-1]) for _ in range(FLOOD)],
    "target networks asked for, over and over": lambda me, _: _asking(me),
    "a round left out": lambda me, _: me.frame(_opening(me, left_out=1)),
    "the last round at once": lambda me, _: me.frame(_last(me)),
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
