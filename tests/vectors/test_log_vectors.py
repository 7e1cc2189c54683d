"""Logs against their frozen vectors; that the script still writes these is checked with all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import protocols.tlog.errors
from keys.edition import Edition
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import FaultyPeer, Inconsistent
from protocols.tlog.checkpoint import compare, countersign, encode, read_checkpoint, read_head
from protocols.tlog.leaf import Received, commitment, decode_leaf, encode_leaf
from protocols.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion

FOLDER = Path(__file__).parent


def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


CONTEXT = vectors("heads")["context"]
STUDY = bytes.fromhex(CONTEXT["study"])
EDITION = Edition.from_bytes(CONTEXT["roster"].encode())
ROSTER = Roster(EDITION.coordinator, {name: member.public for name, member in EDITION.members.items()})
IDENTITIES = {name: Identity(*map(bytes.fromhex, keys)) for name, keys in CONTEXT["private"].items()}


def blamed(error: FaultyPeer, case: dict[str, Any]) -> None:
    assert type(error).__name__ == case["expect"], error
    assert error.peer == case["blame"]
    assert case["rule"] in error.rule
    assert str(error) == f"{error.peer}: {error.rule}"


def test_every_way_to_break_a_log_has_a_vector() -> None:
    expected = {case["expect"] for name in ("proofs", "heads", "checkpoints") for case in vectors(name)["cases"]}
    errors = {value.__name__ for value in vars(protocols.tlog.errors).values() if isinstance(value, type)}
    errors -= {FaultyPeer.__name__, Inconsistent.__name__, "DifferentView"}  # the last takes two lists of heads
    assert errors <= expected


@pytest.mark.parametrize("case", cases("leaves"))
def test_leaves(case: dict[str, Any]) -> None:
    raw = bytes.fromhex(case["leaf"])
    if case["expect"] == "ok":
        leaf = decode_leaf(raw, case["index"], case["peer"])
        assert encode_leaf(leaf) == raw
        assert leaf_hash(raw).hex() == case["hash"]
        if not isinstance(leaf, Received):
            assert leaf.commitment == commitment(bytes.fromhex(case["nonce"]), bytes.fromhex(case["plaintext"]))
    else:
        with pytest.raises(FaultyPeer) as caught:
            decode_leaf(raw, case["index"], case["peer"])
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("proofs"))
def test_proofs(case: dict[str, Any]) -> None:
    proof = tuple(map(bytes.fromhex, case["proof"]))
    root = bytes.fromhex(case["root"])

    def run() -> None:
        if case["of"] == "leaf":
            verify_inclusion(bytes.fromhex(case["leaf"]), case["index"], case["size"], proof, root)
        else:
            verify_consistency(case["size"], root, case["later_size"], bytes.fromhex(case["later_root"]), proof)

    if case["expect"] == "ok":
        run()
    else:
        with pytest.raises(protocols.tlog.errors.InvalidProof, match=case["rule"]):
            run()


@pytest.mark.parametrize("case", cases("heads"))
def test_heads(case: dict[str, Any]) -> None:
    raw, me, peer = bytes.fromhex(case["head"]), case["me"], case["peer"]
    place: dict[str, Any] = {"study": STUDY, "roster": ROSTER}
    last = read_head(bytes.fromhex(case["last"]), peer="site-a", **place) if case["last"] else None
    proof = tuple(map(bytes.fromhex, case["proof"]))

    def run() -> Any:
        new = read_head(raw, peer=peer, **place)
        assert encode(new) == raw
        return countersign(IDENTITIES[me], me, last, new, proof, peer=peer)

    if case["expect"] == "ok":
        assert run().signature.hex() == case["countersignature"]
        return
    with pytest.raises(FaultyPeer) as caught:
        run()
    blamed(caught.value, case)
    if isinstance(caught.value, protocols.tlog.errors.SplitView):
        # Anybody who has the roster comes to the same verdict from the evidence, whoever lays it before him.
        first, second = (read_head(each, peer="anybody", **place) for each in caught.value.evidence)
        assert caught.value.evidence == (bytes.fromhex(case["last"]), raw)
        for pair in ((first, second), (second, first)):
            with pytest.raises(type(caught.value)) as again:
                compare(*pair)
            assert again.value.peer == "site-a"


@pytest.mark.parametrize("case", cases("checkpoints"))
def test_checkpoints(case: dict[str, Any]) -> None:
    raw = bytes.fromhex(case["checkpoint"])
    if case["expect"] == "ok":
        assert encode(read_checkpoint(raw, peer=case["peer"], study=STUDY, roster=ROSTER)) == raw
    else:
        with pytest.raises(FaultyPeer) as caught:
            read_checkpoint(raw, peer=case["peer"], study=STUDY, roster=ROSTER)
        blamed(caught.value, case)
