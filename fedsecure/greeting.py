"""Greetings: what two nodes tell each other before any frame of a study counts, and what each must not have forgotten.

    greeting = "fedsecure/greeting/v1\\0" || Ed25519 signature (64 bytes) || body

The body says which study, software and start of the node this is, and how long the record of what it sent has become.
None of these can go back in a folder that was not restored from an older copy. Whoever claims that they did shows the
node's own earlier greeting: a claim without that signature is worth nothing.

Integers, digests and members of closed lists only, and a version number of at most three parts.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from importlib.metadata import version
from typing import Annotated, Final

from msgspec import Meta, json

from fedsecure.config import Study
from fedsecure.notes import Notes
from keys.encoding import prefixed
from protocols.fields import Count, Digest, Name, Wire

MAXIMUM: Final = 8192  # bytes: one greeting as proof inside another
START_SIZE: Final = 16
_PART_SIZE: Final = 8  # bytes of a setting's digest: equal or not, among settings that all sites know
_PART_LABEL: Final = b"fedsecure/greeting/setting/v1"


_Part = Annotated[bytes, Meta(min_length=_PART_SIZE, max_length=_PART_SIZE)]
_Start = Annotated[bytes, Meta(min_length=START_SIZE, max_length=START_SIZE)]


class Verdict(StrEnum):
    """What the sender thinks of the recipient."""

    UNKNOWN = "unknown"  # has not greeted since the sender started
    WELCOME = "welcome"
    STUDY = "other-study"
    SOFTWARE = "other-software"
    RESTORED = "restored"  # its folder is an older copy; `proof` shows it


class Greeting(Wire, frozen=True):
    """`parts`: a digest of each setting of the study, in the order of `settings_of`. `boot` counts the node's starts,
    `start` is drawn anew at each. `began`, `head`: frames on the record of what the node sent, when it started and now.
    `at_ms`: its clock, Unix time. `proof`: empty, or a greeting of the recipient's that this node has."""

    sender: Name
    recipient: Name
    study: Digest
    parts: Annotated[tuple[_Part, ...], Meta(max_length=200)]
    software: Annotated[str, Meta(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){1,2}$")]
    boot: Count
    start: _Start
    began: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    head: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    at_ms: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    verdict: Verdict
    proof: Annotated[bytes, Meta(max_length=MAXIMUM // 2)] = b""


GREETINGS: Final[Notes[Greeting]] = Notes("fedsecure/greeting/v1", Greeting, MAXIMUM)


def settings_of(study: Study) -> dict[str, bytes]:
    """Setting, as "pretrain.rounds" -> its digest; sorted."""
    flat: dict[str, object] = {}
    for name, value in study.model_dump(mode="json").items():
        flat |= {f"{name}.{inner}": held for inner, held in value.items()} if isinstance(value, dict) else {name: value}
    return {
        name: hashlib.sha256(prefixed(_PART_LABEL, name.encode(), json.encode(flat[name]))).digest()[:_PART_SIZE]
        for name in sorted(flat)
    }


def differing(study: Study, parts: tuple[bytes, ...]) -> tuple[str, ...]:
    """The settings in which another study differs from this one, of which only digests are known."""
    own = settings_of(study)
    if len(parts) != len(own):
        return ("the list of settings itself",)
    return tuple(name for (name, digest), other in zip(own.items(), parts, strict=True) if digest != other)


def software() -> str:
    """This software's version."""
    return version("fedsecure")


def works_with(ours: str, theirs: str) -> bool:
    """One study, one major.minor: what two of them compute or write may differ (docs/pilot.md)."""
    return ours.split(".")[:2] == theirs.split(".")[:2]
