"""The fast implementation against the slow one: masks, packing, shares, keys, graphs, and whole sums by message."""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.msgpack import decode as unpack

from keys import hybrid
from keys.kdf import derive
from protocols.codec import encode
from protocols.ring import Masks, Ring, pack_into, signed, unpack_into
from protocols.secagg.graph import neighbours
from protocols.secagg.manifest import sign_manifest
from protocols.shamir import PRIME, combine, split


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__).parent
slow = _load(HERE / "secagg_reader.py")
party = _load(HERE.parent / "protocols" / "secagg" / "party.py")


def test_it_imports_nothing_of_ours() -> None:
    tree = ast.parse((HERE / "secagg_reader.py").read_text("utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"cryptography"}


def test_two_thousand_masked_vectors() -> None:
    draw = random.Random(1)
    for case in range(2000):
        ring, length = Ring((16, 20, 24, 32)[case % 4]), draw.randint(1, 33)
        vector = [draw.randrange(2**ring.bits) for _ in range(length)]
        plus, minus = ([draw.randbytes(32) for _ in range(draw.randint(0, 3))] for _ in range(2))
        words = np.array(vector, ring.dtype)
        Masks(ring, tuple(plus), tuple(minus)).apply(words)
        packed = ring.packed(length)
        pack_into(ring, words, packed)
        expected = slow.masked(vector, ring.bits, plus, minus)
        assert packed.tobytes() == slow.pack_vector(expected, ring.bits)
        back = ring.words(length)
        unpack_into(ring, packed, back)
        assert back.tolist() == slow.unpack_vector(packed.tobytes(), ring.bits, length) == expected
        assert signed(ring, back).tolist() == slow.signed(expected, ring.bits)


@pytest.mark.parametrize("ring", [16, 20, 24, 32])
def test_a_vector_over_several_chunks(ring: int) -> None:
    fast, key = Ring(ring), bytes(range(32))
    length = fast.chunk + 11
    masks, words = Masks(fast, (key,), ()), fast.words(length)
    for start, stop in fast.chunks(length):
        masks.apply(words[start:stop])
    assert (words & (2**ring - 1)).tolist() == slow.masked([0] * length, ring, [key], [])


def test_a_thousand_sharings() -> None:
    draw = random.Random(2)
    for case in range(1000):
        prime = PRIME if case % 2 else 2**13 - 1
        points = draw.sample(range(1, 200), draw.randint(1, 9))
        threshold = draw.randint(1, len(points))
        secret, drawn = draw.randrange(prime), []

        def entropy(size: int, drawn: list[int] = drawn) -> bytes:
            raw = draw.randbytes(size)
            drawn.append(int.from_bytes(raw, "big"))
            return raw

        shares = split(secret, points, threshold, entropy, prime)
        polynomial = [secret, *(value % prime for value in drawn)]
        assert shares == {x: slow.share(polynomial, x, prime) for x in points}
        some = {x: shares[x] for x in draw.sample(points, threshold)}
        assert combine(some, prime) == slow.combine(some, prime) == secret


def test_keys_and_seals_both_ways() -> None:
    draw = random.Random(3)
    for _ in range(30):
        seed, context = draw.randbytes(32), [draw.randbytes(draw.randint(0, 9)) for _ in range(3)]
        assert derive(seed, b"label", *context, size=77) == slow.derive(seed, b"label", *context, size=77)
        key = hybrid.HybridKey(seed)
        assert key.public == slow.public(seed)
        assert slow.hpke_open(seed, hybrid.seal(key.public, b"there", b"info"), b"info") == b"there"
        kem_secret, kem_sent = slow.hybrid(seed)[0].public_key().encapsulate()
        back = slow.hpke_seal(kem_sent, kem_secret, draw.randbytes(32), key.public, b"back", b"info")
        assert key.open(back, b"info") == b"back"


def test_graphs() -> None:
    draw = random.Random(4)
    for _ in range(300):
        ranks = sorted(draw.sample(range(400), draw.randint(1, 60)))
        degree, keyset, opening = draw.choice((0, 4, 10, 50)), draw.randbytes(32), draw.randbytes(32)
        assert dict(neighbours(ranks, degree, keyset, opening)) == slow.graph(ranks, degree, keyset, opening)


@pytest.mark.parametrize(("sites", "ring", "gone"), [(3, 20, 0), (5, 16, 1), (6, 24, 2), (8, 32, 2), (10, 20, 3)])
def test_whole_sums(sites: int, ring: int, gone: int) -> None:
    """From the messages of a sum alone, as bytes."""
    members, hub, roster = party.party(sites, 5, seed=sites, ring=ring)
    names = party.names(sites)
    what = party.manifest(sites, 5, ring=ring)
    done = party.run(members, hub, roster, what, drop={"mask": names[:gone]})
    assert sum_again(done, what, members, names) == done.total == party.plain_sum(members, names[gone:])


def sum_again(done: Any, what: Any, members: Any, names: list[str]) -> list[int]:
    said: dict[str, dict[int, Any]] = {}
    for (step, name), message in done.said.items():
        said.setdefault(step, {})[names.index(name)] = unpack(encode(message))
    vectors = {rank: message[2] for rank, message in said["mask"].items()}
    signing = {rank: members[name].identity.public.signing for rank, name in enumerate(names)}
    fields = unpack(encode(sign_manifest(what, members[names[0]].identity)))[1]
    result: list[int] = slow.total(fields, party.OPENING, said["open"], said["share"], vectors, said["unmask"], signing)
    return result


def test_the_frozen_sum() -> None:
    """From the messages in the vector file, with the keys of its roster."""
    frozen = json.loads((HERE.parent / "vectors" / "secagg.json").read_text("utf-8"))["context"]
    sites = sorted(frozen["vectors"])
    signing = {rank: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(frozen["private"][name][0])).public_key()
               for rank, name in enumerate(sites)}  # fmt: skip

    (opened,) = {row for at, row in frozen["to"].items() if at.startswith("open ")}
    manifest = unpack(bytes.fromhex(opened.split(" ")[1]))[1]
    advertised, dealt, answers = (
        {rank: unpack(bytes.fromhex(frozen["by"][f"{step} {name}"].split(" ")[1])) for rank, name in enumerate(sites)}
        for step in ("open", "share", "unmask")
    )
    vectors = {r: unpack(bytes.fromhex(frozen["by"][f"mask {n}"].split(" ")[1]))[2] for r, n in enumerate(sites)}
    opening = bytes.fromhex(frozen["opening"])
    assert slow.manifest_digest(manifest).hex() == frozen["manifest"]
    assert slow.keyset_digest(bytes.fromhex(frozen["manifest"]), opening, advertised).hex() == frozen["keyset"]
    raw = {rank: key.public_bytes_raw() for rank, key in signing.items()}
    assert slow.total(manifest, opening, advertised, dealt, vectors, answers, raw) == frozen["total"]
    assert frozen["total"] == [sum(column) for column in zip(*frozen["vectors"].values(), strict=True)]
