"""The tree that a log's owner keeps gives the roots and proofs of the RFC's definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.tlog.merkle import consistency_proof, leaf_hash, root_of, verify_consistency
from protocols.tlog.tree import Tree

LEAVES = [leaf_hash(bytes((index,))) for index in range(67)]


def test_every_tree_and_every_earlier_one() -> None:
    tree = Tree()
    for count in range(len(LEAVES) + 1):
        assert (len(tree), tree.root()) == (count, root_of(LEAVES[:count]))
        for size in range(count + 1):
            assert tree.root(size) == root_of(LEAVES[:size])
            assert tree.consistency(size) == consistency_proof(LEAVES[:count], size)
        tree.append(LEAVES[count % len(LEAVES)])


@given(st.integers(1, 5000), st.data())
def test_a_large_tree_proves_what_it_began_with(count: int, data: st.DataObject) -> None:
    tree = Tree(LEAVES[index % 67] for index in range(count))
    size = data.draw(st.integers(0, count))
    verify_consistency(size, tree.root(size), count, tree.root(), tree.consistency(size))


def test_no_more_leaves_than_there_are() -> None:
    tree = Tree(LEAVES[:3])
    for size in (-1, 4):
        with pytest.raises(ValueError, match="leaves"):
            tree.root(size)
        with pytest.raises(ValueError, match="smaller"):
            tree.consistency(size)
