"""The tree against the RFC's definition, known answers, an independent implementation, and everything one bit away."""

from __future__ import annotations

import hashlib
from typing import Any

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle.proof import ConsistencyProof

from protocols.tlog.errors import InvalidProof
from protocols.tlog.merkle import (
    EMPTY,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# The leaves that Certificate Transparency's implementations test with, and the root after each.
LEAVES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MOST = 64
ENTRIES = [f"leaf {index}".encode() for index in range(MOST)]
HASHES = [leaf_hash(entry) for entry in ENTRIES]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if len(leaves) < 2:
        return hashlib.sha256(b"\x00" + leaves[0] if leaves else b"").digest()
    k = max(2**power for power in range(10) if 2**power < len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


TREES = [mth(ENTRIES[:size]) for size in range(MOST + 1)]


def refused(verify: Any, *arguments: Any) -> None:
    with pytest.raises(InvalidProof):
        verify(*arguments)


def test_the_empty_tree() -> None:
    assert Frontier().root == EMPTY == mth([])
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_known_answers() -> None:
    entries, frontier = [bytes.fromhex(leaf) for leaf in LEAVES], Frontier()
    for size, (entry, root) in enumerate(zip(entries, ROOTS, strict=True), 1):
        frontier = frontier.append(leaf_hash(entry))
        assert frontier.root.hex() == root == mth(entries[:size]).hex()


def test_appending_gives_every_root_and_keeps_little() -> None:
    frontier = Frontier()
    for size, leaf in enumerate(HASHES, 1):
        frontier = frontier.append(leaf)
        assert frontier == Frontier(size, frontier.roots)  # the state is all there is to it
        assert frontier.root == TREES[size] == root_of(HASHES[:size])


@pytest.mark.parametrize(("size", "roots"), [(-1, ()), (1, ()), (0, (EMPTY,)), (2, (EMPTY, EMPTY)), (1, (b"",))])
def test_a_frontier_that_cannot_be(size: int, roots: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="for each bit"):
        Frontier(size, roots)


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_each_leaf_of_each_tree_is_proved_and_nothing_else(size: int) -> None:
    for index in range(size):
        proof = inclusion_proof(HASHES[:size], index)
        verify_inclusion(HASHES[index], index, size, proof, TREES[size])
        assert len(proof) <= (size - 1).bit_length()
        for other in range(-1, size + 1):
            if other != index:
                refused(verify_inclusion, HASHES[index], other, size, proof, TREES[size])


def sides(index: int, size: int) -> str:
    """On which side the siblings of a leaf stand, from the root down."""
    if size == 1:
        return ""
    k = max(2**power for power in range(10) if 2**power < size)
    return "r" + sides(index, k) if index < k else "l" + sides(index - k, size - k)


@pytest.mark.parametrize("size", range(1, MOST + 1))
def test_a_proof_holds_for_another_size_only_where_its_siblings_stand_the_same(size: int) -> None:
    """The root does not bind the size: leaf 0 of 7 and of 8 have proofs of one form. A signed head binds both."""
    for index in range(size):
        proof = inclusion_proof(HASHES[:size], index)
        for other in range(MOST + 2):
            if index < other and sides(index, other) == sides(index, size):
                verify_inclusion(HASHES[index], index, other, proof, TREES[size])
            else:
                refused(verify_inclusion, HASHES[index], index, other, proof, TREES[size])


@pytest.mark.parametrize("size", range(MOST + 1))
def test_each_tree_is_proved_of_each_smaller_one_and_nothing_else(size: int) -> None:
    later = TREES[size]
    for before in range(size + 1):
        proof = consistency_proof(HASHES[:size], before)
        verify_consistency(before, TREES[before], size, later, proof)
        for other in range(size + 1):
            if other != before:
                refused(verify_consistency, before, TREES[other], size, later, proof)
                refused(verify_consistency, other, TREES[before], size, later, proof)
        if before:
            refused(verify_consistency, before, TREES[before], size, TREES[size - 1], proof)


def test_what_is_not_there_is_not_proved() -> None:
    for index in (-1, 3):
        with pytest.raises(ValueError, match="no leaf"):
            inclusion_proof(HASHES[:3], index)
    for size in (-1, 4):
        with pytest.raises(ValueError, match="smaller ones"):
            consistency_proof(HASHES[:3], size)


logs = st.lists(st.binary(max_size=8).map(leaf_hash), min_size=1, max_size=200)
bits = st.integers(0, 255)


def flipped(raw: bytes, bit: int) -> bytes:
    return (int.from_bytes(raw, "big") ^ (1 << bit)).to_bytes(len(raw), "big")


def altered(proof: tuple[bytes, ...], data: st.DataObject) -> tuple[bytes, ...]:
    """Another proof: a bit flipped, a hash dropped, doubled or added."""
    at = data.draw(st.integers(0, len(proof) - 1)) if proof else 0
    ways = [(*proof, data.draw(st.sampled_from([EMPTY, *proof])))]
    if proof:
        ways += [
            (*proof[:at], flipped(proof[at], data.draw(bits)), *proof[at + 1 :]),
            (*proof[:at], *proof[at + 1 :]),
            (*proof[: at + 1], *proof[at:]),
        ]
    return data.draw(st.sampled_from(ways))


@given(logs, st.data())
def test_inclusion(log: list[bytes], data: st.DataObject) -> None:
    index, size, root = data.draw(st.integers(0, len(log) - 1)), len(log), root_of(log)
    leaf, proof = log[index], inclusion_proof(log, index)
    verify_inclusion(leaf, index, size, proof, root)
    refused(verify_inclusion, leaf, index, size, altered(proof, data), root)
    refused(verify_inclusion, flipped(leaf, data.draw(bits)), index, size, proof, root)
    refused(verify_inclusion, leaf, index, size, proof, flipped(root, data.draw(bits)))


@given(logs, st.data())
def test_consistency(log: list[bytes], data: st.DataObject) -> None:
    before, size = data.draw(st.integers(0, len(log))), len(log)
    root, later, proof = root_of(log[:before]), root_of(log), consistency_proof(log, before)
    verify_consistency(before, root, size, later, proof)
    refused(verify_consistency, before, root, size, later, altered(proof, data))
    refused(verify_consistency, before, flipped(root, data.draw(bits)), size, later, proof)
    refused(verify_consistency, size + 1, later, size, later, proof)
    if before:  # of the empty tree, every tree is a continuation
        refused(verify_consistency, before, root, size, flipped(later, data.draw(bits)), proof)


def test_pymerkle_has_the_same_trees_and_believes_the_same_proofs() -> None:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for size, entry in enumerate(ENTRIES, 1):
        assert tree.append_entry(entry) == size
        assert tree.get_root() == TREES[size]
        for index in range(size):
            theirs = tree.prove_inclusion(index + 1, size)
            assert tuple(theirs.path) == (HASHES[index], *inclusion_proof(HASHES[:size], index))
        for before in range(1, size):
            # It begins at a leaf where the RFC begins at the largest whole subtree: the same roots from other hashes.
            shown = tree.prove_consistency(before, size)
            assert isinstance(shown, ConsistencyProof)
            pymerkle.verify_consistency(TREES[before], root_of(HASHES[:size]), shown, before, size)
