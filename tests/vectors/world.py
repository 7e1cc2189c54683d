"""The small world that all vectors play in: four members with fixed keys, one study, one message of each type."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import msgspec

from keys import hpke
from keys.edition import LIFETIME, NOTHING, Edition, Member
from keys.identity import Identity
from keys.roster import Roster
from protocols.box import box_digest
from protocols.messages import (
    AskTargets,
    BankRef,
    BankRelay,
    CloseReason,
    DistanceReport,
    FeatureBank,
    Hello,
    Leave,
    LeaveReason,
    MetricReport,
    PrototypeSum,
    RoundDone,
    RoundOpen,
    SealedBox,
    StudyClosed,
    TargetModel,
    TargetRef,
    TargetUpdate,
    WantTarget,
    WeightUpdate,
)
from protocols.seal import Sealer
from protocols.tlog.checkpoint import sign_head
from protocols.tlog.messages import (
    NO_LEDGER,
    NO_VIEW,
    Countersignature,
    Head,
    LogHead,
    LogHeads,
    LogWitness,
    Shown,
    SignedHead,
    Vouch,
)

MAXIMUM = 4096
Case = dict[str, Any]

pack = msgspec.msgpack.encode


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


READER = load(Path(__file__).parents[1] / "interop" / "reader.py")


def fixed(*names: object) -> bytes:
    """32 bytes that stand for entropy."""
    return hashlib.sha256("/".join(map(str, ("fedsecure vectors", *names))).encode()).digest()


def identity(name: str) -> Identity:
    return Identity(*(fixed(name, use) for use in ("signing", "sealing", "channel")))


NAMES = ("coordinator", "site-a", "site-b", "site-c")
IDENTITIES = {name: identity(name) for name in NAMES}
ROSTER = Roster("coordinator", {name: IDENTITIES[name].public for name in NAMES})
INSTITUTIONS = dict(zip(NAMES, ("trust-centre", "st-mary", "charite", "mgh"), strict=True))
FEDERATION = fixed("federation")[:16]
ISSUED = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
STUDY = fixed("study")
FLOATS = b"".join(bytes.fromhex(word) for word in ("0000803f", "000000c0", "0000003f"))  # 1, -2, 0.5


def edition(*signers: str, **changes: Any) -> Edition:
    """Version 1 with all four members, or with `changes`, signed by these sites."""
    members = {name: Member(INSTITUTIONS[name], IDENTITIES[name].public) for name in NAMES}
    fields: dict[str, Any] = {"members": members, "version": 1, "previous": NOTHING, "federation": FEDERATION}
    fields |= {"issued": ISSUED, "expires": ISSUED + LIFETIME, "coordinator": "coordinator", **changes}
    made = Edition(**fields)
    for name in signers:
        made = made.signed(name, IDENTITIES[name])
    return made


class Tape:
    """Entropy that repeats: the n-th draw is always the same."""

    def __init__(self, name: str) -> None:
        self.name, self.draws = name, 0

    def __call__(self, size: int) -> bytes:
        self.draws += 1
        return (fixed(self.name, self.draws) * (size // 32 + 1))[:size]


def sealer(name: str, boot: int = 1) -> Sealer:
    return Sealer(IDENTITIES[name], name, STUDY, boot, entropy=Tape(f"{name}/{boot}"))


@contextmanager
def fixed_encapsulation() -> Iterator[None]:
    """HPKE draws its ephemeral key inside the library. Here the independent reader seals, with a key from a tape."""
    tape = Tape("ephemeral")

    def seal(recipient: bytes, plaintext: bytes, info: bytes) -> bytes:
        sealed: bytes = READER.hpke_seal(tape(32), recipient, plaintext, info)
        return sealed

    with mock.patch.object(hpke, "seal", seal):
        yield


def make_box(
    sender: str = "site-a", to: tuple[str, ...] = ("site-b", "site-c"), content: bytes = b"bank of a", round_: int = 2
) -> SealedBox:
    with fixed_encapsulation():
        return sealer(sender).box({name: IDENTITIES[name].public for name in to}, content, 0, round_)


def messages() -> dict[str, Any]:
    """One valid message of each type, under its tag."""
    box, digest = make_box(), hashlib.sha256(FLOATS).digest()
    return {
        "hello": Hello(3, 0, 2, True),
        "hello-first": Hello(0, -1, -1, False),
        "round-done": RoundDone(0, 2),
        "leave": Leave(LeaveReason.VETOED),
        "study-closed": StudyClosed(CloseReason.FINISHED),
        "weight-update": WeightUpdate(0, 2, digest, FLOATS),
        "feature-bank": FeatureBank(0, 2, box),
        "metric-report": MetricReport(1, 0, FLOATS),
        "prototype-sum": PrototypeSum(0, 2, digest, FLOATS),
        "round-open": RoundOpen(0, 3, digest, (BankRef("site-a", box_digest(box)),), (), b"", b"", FLOATS),
        "round-open-prototypes": RoundOpen(0, 3, digest, (), (), FLOATS[:8], b"", FLOATS),
        "round-open-values": RoundOpen(0, 3, digest, (), (), b"", FLOATS[:8], b""),
        "bank-relay": BankRelay(0, 2, "site-a", box),
        "round-open-target": RoundOpen(0, 3, digest, (), (TargetRef(fixed("target"), False, True),), b"", b"", FLOATS),
        "target-update": TargetUpdate(0, 2, digest, FLOATS),
        "distance-report": DistanceReport(0, 2, FLOATS[:4]),
        "target-model": TargetModel(0, 3, digest, FLOATS),
        "want-target": WantTarget(0, 3),
        "ask-targets": AskTargets(0, 2),
        "log-head": LogHead(signed_head("site-a"), (fixed("left"), fixed("right"))),
        "log-heads": LogHeads(4, tuple(shown_head(name) for name in ("coordinator", "site-b"))),
        "log-witness": LogWitness(6, (Vouch("site-b", 2, bytes(range(64))),)),
    }


def signed_head(member: str, round_: int = 2) -> SignedHead:
    return sign_head(IDENTITIES[member], Head(1, STUDY, member, round_, 6, fixed("root"), NO_LEDGER, 0, NO_VIEW))


def shown_head(member: str) -> Shown:
    """As the coordinator passes it on."""
    signed = signed_head(member)
    by = () if member == "coordinator" else (Countersignature("coordinator", bytes(range(64))),)
    return Shown(signed, (fixed("left"),), by)


def ok(name: str, **fields: Any) -> Case:
    return {"name": name, **fields, "expect": "ok"}


def bad(name: str, error: str, blame: str, rule: str, **fields: Any) -> Case:
    return {"name": name, **fields, "expect": error, "blame": blame, "rule": rule}
