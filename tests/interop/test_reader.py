"""Frames and boxes of ours, opened by the independent reader; and the reader itself against RFC 9180."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from keys import hpke
from keys.identity import Identity
from keys.roster import Roster
from protocols.messages import FeatureBank, RoundOpen, model_digest
from protocols.seal import Sealer

VECTORS = Path(__file__).parents[1] / "vectors"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reader = _load("reader")
rosters = _load("roster_reader")


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


CONTEXT = vectors("frames")["context"]
STUDY = bytes.fromhex(CONTEXT["study"])
EDITION = rosters.read_roster(CONTEXT["roster"].encode())
ROSTER = reader.Roster(
    EDITION.coordinator, {name: reader.Member(*rosters.keys_of(key)) for name, (_, key) in EDITION.members.items()}
)


@pytest.mark.parametrize("file", ["reader.py", "roster_reader.py", "session_reader.py"])
def test_the_readers_are_independent(file: str) -> None:
    tree = ast.parse(Path(__file__).with_name(file).read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign == {"cryptography"}


def test_the_readers_hpke_is_rfc_9180s() -> None:
    """RFC 9180 A.1.1, first encryption (AES-128-GCM; the RFC has no vector of this KEM with AES-256-GCM)."""
    ephemeral = bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
    public = bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
    secret = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    info, plaintext = b"Ode on a Grecian Urn", b"Beauty is truth, truth beauty"
    sealed = reader.hpke_seal(ephemeral, public, plaintext, info, data=b"Count-0", key_size=16)
    assert sealed.hex() == (
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    assert reader.hpke_open(secret, sealed, info, data=b"Count-0", key_size=16) == plaintext


def test_hpke_both_ways() -> None:
    identity = Identity.generate()
    public, secret = identity.public.sealing, identity.raw[1]
    assert reader.hpke_open(secret, hpke.seal(public, b"there", b"info"), b"info") == b"there"
    assert hpke.open_(identity, reader.hpke_seal(bytes(range(32)), public, b"back", b"info"), b"info") == b"back"


# For which of its own reasons the reader may refuse what our nodes refuse for theirs.
REASONS = {
    "Oversize": {"oversize"},
    "UnknownPeer": {"unknown peer", "sender"},
    "WrongStudy": {"study"},
    "WrongSender": {"sender", "another's box"},
    "WrongRecipient": {"recipient", "not a recipient"},
    "UnexpectedMessage": {"two sites", "kind", "role"},
    "BadSignature": {"signature"},
    "Replayed": {"replayed"},
    "BadDigest": {"body digest"},
    "CannotDecrypt": {"tag", "encapsulated key"},
    "Malformed": {
        "truncated", "bytes left over", "header", "kind", "study", "sender", "recipient", "text is ASCII",
        "not the shortest form", "another kind's message", "not a site's box", "a form that no message uses",
        "no such message", "deeper than any message", "a field", "before the first round", "target digest",
        "model digest", "a box goes under its sender's name", "values in place of a model, after a round",
    },
}  # fmt: skip


@contextmanager
def refused(expect: str) -> Iterator[None]:
    """The reader refuses, and for a reason that fits what our nodes call it."""
    with pytest.raises(reader.Refused) as caught:
        yield
    assert str(caught.value) in REASONS[expect]


@pytest.mark.parametrize("case", cases("frames"))
def test_frame_vectors(case: dict[str, Any]) -> None:
    roster = ROSTER
    place = {"peer": case["peer"], "me": case["me"], "study": STUDY, "roster": roster, "last": case["last"]}
    frame = bytes.fromhex(case["frame"])
    if case["expect"] == "ok":
        _, tag, _ = reader.read_frame(frame, **place, maximum=CONTEXT["maximum"])
        assert case.get("message", "hello").startswith(tag)
    else:
        with refused(case["expect"]):
            reader.read_frame(frame, **place, maximum=CONTEXT["maximum"])


@pytest.mark.parametrize("case", cases("messages"))
def test_message_vectors(case: dict[str, Any]) -> None:
    body = bytes.fromhex(case["body"])
    if case["expect"] == "ok":
        assert case["message"].startswith(reader.read_message(case["kind"], body)[0])
    else:
        with refused(case["expect"]):
            reader.read_message(case["kind"], body)


@pytest.mark.parametrize("case", cases("boxes"))
def test_box_vectors(case: dict[str, Any]) -> None:
    place = {"study": STUDY, "stage": case["stage"], "round_": case["round"], "sender": case["sender"]}
    secret = bytes.fromhex(CONTEXT["private"][case["me"]][1])
    roster = ROSTER

    def run() -> bytes:
        box = reader.unpack(bytes.fromhex(case["box"]))
        content: bytes = reader.read_box(box, **place, me=case["me"], secret=secret, roster=roster)
        return content

    if case["expect"] == "ok":
        assert run() == bytes.fromhex(case["content"])
    else:
        with refused(case["expect"]):
            run()


def test_fresh_frames_and_boxes_end_to_end() -> None:
    """Fresh keys, the operating system's entropy, HPKE of the library: what a node really sends."""
    identities = {name: Identity.generate() for name in ("hub", "north", "south")}
    ours = Roster("hub", {name: member.public for name, member in identities.items()})
    theirs = reader.Roster("hub", {name: reader.Member(*public.keys) for name, public in ours.members.items()})
    sealer = Sealer(identities["north"], "north", STUDY, boot=7)
    box = sealer.box({"south": ours.members["south"]}, b"features" * 1000, 1, 2)
    frame = sealer.seal("hub", FeatureBank(1, 2, box))
    place = {"me": "hub", "study": STUDY, "roster": theirs, "last": {}, "maximum": 1 << 20}
    seq, tag, fields = reader.read_frame(frame, peer="north", **place)
    assert (seq, tag, fields[:2]) == (7 << 32 | 1, "feature-bank", [1, 2])
    context = {"study": STUDY, "stage": 1, "round_": 2, "sender": "north", "roster": theirs}
    secret = identities["south"].raw[1]
    assert reader.read_box(fields[2], **context, me="south", secret=secret) == b"features" * 1000

    model = bytes(4 * 100_000)
    frame = Sealer(identities["hub"], "hub", STUDY, boot=0).seal(
        "south", RoundOpen(0, 0, model_digest(model), (), (), b"", b"", model)
    )
    _, tag, fields = reader.read_frame(frame, peer="hub", **{**place, "me": "south"})
    assert (tag, fields[7]) == ("round-open", model)
