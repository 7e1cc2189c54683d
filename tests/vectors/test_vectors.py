"""The implementation against the frozen vectors, and the frozen vectors against the script that writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import keys.errors
import protocols.errors
from keys import keystore
from keys.identity import Identity
from keys.roster import Roster
from protocols.box import BoxContext, open_box
from protocols.codec import decode, encode
from protocols.envelope import ReplayGuard, open_frame
from protocols.messages import Kind, SealedBox, kind_of, role_of

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


CONTEXT = vectors("frames")["context"]
STUDY = bytes.fromhex(CONTEXT["study"])
ROSTER = Roster.from_bytes(CONTEXT["roster"].encode())
IDENTITIES = {name: Identity(*map(bytes.fromhex, keys)) for name, keys in CONTEXT["private"].items()}


def test_the_script_still_writes_these_files(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, FOLDER / "generate.py", tmp_path], env=environment, cwd=ROOT, check=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}


def test_most_vectors_must_fail() -> None:
    every = [case["expect"] for path in FOLDER.glob("*.json") for case in vectors(path.stem)["cases"]]
    assert sum(expect != "ok" for expect in every) > 0.8 * len(every)


def test_every_way_to_break_the_protocol_has_a_vector() -> None:
    expected = {case["expect"] for path in FOLDER.glob("*.json") for case in vectors(path.stem)["cases"]}
    assert {cls.__name__ for cls in protocols.errors.FaultyPeer.__subclasses__()} <= expected


@pytest.mark.parametrize("case", cases("frames"))
def test_frames(case: dict[str, Any]) -> None:
    replay = ReplayGuard(case["last"])

    def run() -> Any:
        frame = bytes.fromhex(case["frame"])
        place = {"peer": case["peer"], "me": case["me"], "study": STUDY, "roster": ROSTER}
        return open_frame(frame, **place, replay=replay, maximum=CONTEXT["maximum"])

    if case["expect"] == "ok":
        opened = run()
        assert opened.sender == case["peer"]
        assert replay.export() == {**case["last"], case["peer"]: opened.seq}
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            run()
        blamed(caught.value, case)
        assert replay.export() == case["last"]  # a refused frame changes nothing


@pytest.mark.parametrize("case", cases("messages"))
def test_messages(case: dict[str, Any]) -> None:
    kind, body = Kind(case["kind"]), bytes.fromhex(case["body"])
    if case["expect"] == "ok":
        message = decode(kind, body, "site-a")
        assert encode(message) == body
        assert kind_of(message) is kind
        assert role_of(message) in ("site", "coordinator")
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            decode(kind, body, "site-a")
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("boxes"))
def test_boxes(case: dict[str, Any]) -> None:
    box = msgspec.msgpack.decode(bytes.fromhex(case["box"]), type=SealedBox)
    context = BoxContext(STUDY, case["stage"], case["round"], case["sender"])

    def run() -> bytes:
        return open_box(box, context, identity=IDENTITIES[case["me"]], me=case["me"], roster=ROSTER)

    if case["expect"] == "ok":
        assert run() == bytes.fromhex(case["content"])
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            run()
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("identity"))
def test_identity_files(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_bytes(case["file"].encode())
    path.chmod(0o600)
    if case["expect"] == "ok":
        public = keystore.load(path).public
        assert public.fingerprint == case["fingerprint"]
        assert {"signing": public.signing, "sealing": public.sealing, "channel": public.channel} == {
            use: bytes.fromhex(key) for use, key in case["public"].items()
        }
    else:
        with pytest.raises(keys.errors.IdentityError, match=case["rule"]):
            keystore.load(path)


@pytest.mark.parametrize("case", cases("signatures"))
def test_signatures(case: dict[str, Any]) -> None:
    label, data, signature = (bytes.fromhex(case[field]) for field in ("label", "data", "signature"))
    member = ROSTER.members[case["signer"]]
    if case["expect"] == "ok":
        member.verify(label, data, signature)
        assert IDENTITIES[case["signer"]].sign(label, data) == signature  # Ed25519 is deterministic
    else:
        with pytest.raises(keys.errors.InvalidSignature):
            member.verify(label, data, signature)


@pytest.mark.parametrize("case", cases("roster"))
def test_rosters(case: dict[str, Any]) -> None:
    raw = case["file"].encode()
    if case["expect"] == "ok":
        roster = Roster.from_bytes(raw)
        assert roster.to_bytes() == raw
        assert roster.digest.hex() == case["digest"]
    else:
        with pytest.raises(keys.errors.RosterError, match=case["rule"]):
            Roster.from_bytes(raw)


def blamed(error: protocols.errors.FaultyPeer, case: dict[str, Any]) -> None:
    """The right class, the right culprit, the right rule; and a text of these two and nothing else."""
    assert type(error).__name__ == case["expect"], error
    assert error.peer == case["blame"]
    assert case["rule"] in error.rule
    assert str(error) == f"{error.peer}: {error.rule}"
