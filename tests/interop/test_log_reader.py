"""Logs of ours, read by the independent reader; and the worked example of protocols/tlog/SPEC.md."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from keys.edition import Edition

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("log_reader", Path(__file__).with_name("log_reader.py"))
assert SPEC is not None
assert SPEC.loader is not None
reader = importlib.util.module_from_spec(SPEC)
sys.modules["log_reader"] = reader
SPEC.loader.exec_module(reader)


def vectors(name: str) -> Any:
    return json.loads((ROOT / "tests" / "vectors" / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


CONTEXT = vectors("heads")["context"]
EDITION = Edition.from_bytes(CONTEXT["roster"].encode())
SIGNING = {name: member.public.signing for name, member in EDITION.members.items()}
READER = reader.Reader(bytes.fromhex(CONTEXT["study"]), EDITION.coordinator, SIGNING)

# For which of its own reasons the reader may refuse what our nodes refuse for theirs.
REASONS = {
    "InvalidProof": {"index", "size", "hash", "proof", "root"},
    "WrongStudy": {"study"},
    "UnknownPeer": {"member"},
    "BadSignature": {"signature"},
    "BadProof": {"inconsistent"},
    "Replayed": {"older"},
    "Rollback": {"rollback"},
    "SplitView": {"two heads in a round", "two roots"},
    "Unwitnessed": {"unwitnessed"},
    "Malformed": {
        "truncated", "form", "not the shortest form", "number", "name", "length", "bytes left over", "fields", "tag",
        "version", "kind", "flow", "shapes", "reason", "index", "empty", "order", "view",
    },
}  # fmt: skip


def refuses(case: dict[str, Any], run: Any) -> Any:
    if case["expect"] == "ok":
        return run()
    with pytest.raises(reader.Refused) as caught:
        run()
    assert str(caught.value) in REASONS[case["expect"]]
    return None


def unhex(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


@pytest.mark.parametrize("case", cases("leaves"))
def test_leaves(case: dict[str, Any]) -> None:
    leaf = refuses(case, lambda: reader.read_leaf(bytes.fromhex(case["leaf"]), case["index"]))
    if leaf is not None:
        assert leaf.hash.hex() == case["hash"]
    if leaf is not None and "nonce" in case:
        assert leaf.commitment == reader.commit(*unhex([case["nonce"], case["plaintext"]]))


@pytest.mark.parametrize("case", cases("proofs"))
def test_proofs(case: dict[str, Any]) -> None:
    proof, root = unhex(case["proof"]), bytes.fromhex(case["root"])
    if case["of"] == "leaf":
        leaf = bytes.fromhex(case["leaf"])
        refuses(case, lambda: reader.read_inclusion(leaf, case["index"], case["size"], proof, root))
    else:
        later = bytes.fromhex(case["later_root"])
        refuses(case, lambda: reader.read_consistency(case["size"], root, case["later_size"], later, proof))


@pytest.mark.parametrize("case", cases("heads"))
def test_heads(case: dict[str, Any]) -> None:
    last = READER.head(bytes.fromhex(case["last"])) if case["last"] else None
    proof = unhex(case["proof"])
    seen = refuses(case, lambda: READER.follow(last, READER.head(bytes.fromhex(case["head"])), proof))
    if seen is not None:
        READER.countersigned(case["me"], seen, bytes.fromhex(case["countersignature"]))


@pytest.mark.parametrize("case", cases("checkpoints"))
def test_checkpoints(case: dict[str, Any]) -> None:
    refuses(case, lambda: READER.checkpoint(bytes.fromhex(case["checkpoint"])))


def test_the_worked_example_is_a_frozen_vector() -> None:
    text = (ROOT / "protocols" / "tlog" / "SPEC.md").read_text("utf-8").split("## Example", 1)[1].split("\n## ", 1)[0]
    rows = [line[4:].strip().split("  ")[0] for line in text.splitlines() if line.startswith("    ")]
    example = "".join(re.sub(r"[^0-9a-f]", "", row) for row in rows)
    frozen = next(case["checkpoint"] for case in vectors("checkpoints")["cases"] if case["name"] == "a witness")
    assert example == frozen
    assert f"{len(frozen) // 2} bytes" in text
