"""The evidence of a run, read by the independent reader: leaves, trees, heads and both signatures of each."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedsecure.audit import evidence
from fedsecure.bench.logs import HUB, LogWorld, write_logs


def load_reader() -> ModuleType:
    path = Path(__file__).with_name("log_reader.py")
    spec = importlib.util.spec_from_file_location("log_reader_of_evidence", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reader: Any = load_reader()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> LogWorld:
    return write_logs(tmp_path_factory.mktemp("logs") / "run", 3, 2)


def items(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "big")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def root(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, from the top."""
    if len(hashes) < 2:
        return hashes[0] if hashes else bytes(reader.sha256())
    k = reader.half(len(hashes))
    return bytes(reader.node(root(hashes[:k]), root(hashes[k:])))


def signed_head(shown: bytes) -> bytes:
    """Of an array of three, the first: a head and its signature, which end before the array of the proof."""
    fields = reader.Fields(shown)
    assert fields.array() == 3
    start = fields.raw
    checker = reader.Reader(b"", "", {})
    checker._head(fields)
    return bytes(start[: len(start) - len(fields.raw)])


def test_another_reader_comes_to_the_same_roots_and_believes_the_same_heads(world: LogWorld) -> None:
    signing = {name: identity.public.signing for name, identity in world.identities.items()}
    checker = reader.Reader(world.study.digest(), HUB, signing)
    hashes, heads = {}, []
    for name, node in world.nodes.items():
        folder = node.folder / evidence.FOLDER
        leaves = items((folder / evidence.LEAVES).read_bytes())
        hashes[name] = [reader.read_leaf(leaf, index).hash for index, leaf in enumerate(leaves)]
        closing = (folder / evidence.CLOSING).read_bytes()
        checker.verify(name, b"fedsecure/closing/v1", closing[64:], closing[:64])
        assert root(hashes[name]) in closing
        heads += [checker.head(signed_head(shown)) for shown in items((folder / evidence.HEADS).read_bytes())]
    assert len(heads) == 4 * (2 * 4 + 1)  # four members hold the list: four heads a round, and the coordinator's last
    for head in heads:
        assert root(hashes[head.member][: head.size]) == head.root
