"""The Merkle tree of RFC 9162 section 2.1 (RFC 6962 has the same), over SHA-256.

    MTH([])  = SHA-256()                        MTH([leaf]) = SHA-256(0x00 || leaf)
    MTH(D)   = SHA-256(0x01 || MTH(D[:k]) || MTH(D[k:]))       k: the largest power of two below len(D)

Leaves and inner nodes are hashed with different first bytes: else an inner node could be shown as a leaf.
Functions take hashes of leaves, not leaves, so that nobody needs to keep what was logged to prove that it was.
A proof is a tuple of hashes of 32 bytes, in the RFC's order: from the leaves up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

from protocols.tlog.errors import InvalidProof

HASH_SIZE: Final = 32
EMPTY: Final = hashlib.sha256().digest()  # the root of no leaves

Proof = tuple[bytes, ...]


def leaf_hash(leaf: bytes) -> bytes:
    """The 32 bytes that stand for a leaf."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The root of a tree, of the roots of its left and right part."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class Frontier:
    """A tree that can only grow, as small as it can be kept: the root of each perfect subtree, the largest first.

    size: leaves. roots: one for each bit that is set in `size`, so that at most 63 hashes are kept.
    Raises ValueError if their number is another.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.roots) != self.size.bit_count() or any(len(h) != HASH_SIZE for h in self.roots):
            raise ValueError("a frontier has a root of 32 bytes for each bit that is set in its size")

    def append(self, leaf: bytes) -> Frontier:
        """With the leaf whose hash this is behind all others. At most log2(size + 1) hashes are computed."""
        roots, size = [*self.roots, leaf], self.size
        while size & 1:  # two perfect trees of one size become one
            right = roots.pop()
            roots[-1] = node_hash(roots[-1], right)
            size >>= 1
        return Frontier(self.size + 1, tuple(roots))

    @property
    def root(self) -> bytes:
        """MTH of all leaves appended."""
        if not self.roots:
            return EMPTY
        return reduce(lambda right, left: node_hash(left, right), reversed(self.roots))


def root_of(leaves: Sequence[bytes]) -> bytes:
    """MTH of the leaves with these hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier = frontier.append(leaf)
    return frontier.root


def inclusion_proof(leaves: Sequence[bytes], index: int) -> Proof:
    """PATH(index, D[len(leaves)]), RFC 9162 section 2.1.3.1. Raises ValueError if there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise ValueError("there is no leaf with this index")
    if len(leaves) == 1:
        return ()
    left, right = _halves(leaves)
    if index < len(left):
        return (*inclusion_proof(left, index), root_of(right))
    return (*inclusion_proof(right, index - len(left)), root_of(left))


def consistency_proof(leaves: Sequence[bytes], size: int) -> Proof:
    """PROOF(size, D[len(leaves)]), RFC 9162 section 2.1.4.1: that these leaves begin with the first `size` of them.

    Nothing is to be proved from the empty tree, or of a tree from itself: the proof is empty.
    Raises ValueError if there are fewer leaves than `size`.
    """
    if not 0 <= size <= len(leaves):
        raise ValueError("a tree is consistent with smaller ones")
    return _subproof(leaves, size, whole=True) if size else ()


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Proof, root: bytes) -> None:
    """RFC 9162 section 2.1.3.2: the tree of `size` leaves with this root has, at `index`, the leaf with hash `leaf`.

    Raises InvalidProof.
    """
    if not 0 <= index < size:
        raise InvalidProof("the index is not below the size")
    position, last, computed = index, size - 1, leaf
    for sibling in _hashes(proof):
        if last == 0:
            raise InvalidProof("the proof is too long")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:  # levels at which a right edge has no sibling
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last != 0:
        raise InvalidProof("the proof is too short")
    if computed != root:
        raise InvalidProof("the proof gives another root")


def verify_consistency(size: int, root: bytes, later_size: int, later_root: bytes, proof: Proof) -> None:
    """RFC 9162 section 2.1.4.2: the later tree begins with all leaves of the earlier one. Raises InvalidProof."""
    if not 0 <= size <= later_size:
        raise InvalidProof("the later tree is the smaller one")
    if size in (0, later_size):
        if proof or root != (later_root if size else EMPTY) or (later_size == 0 and later_root != EMPTY):
            raise InvalidProof("nothing is to be proved, and something does not fit")
        return
    # A perfect earlier tree is a node of the later one, which the verifier has already.
    first, *path = _hashes(proof if size & (size - 1) else (root, *proof)) or (b"",)
    position, last = size - 1, later_size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    computed = later = first
    for sibling in path:
        if last == 0:
            raise InvalidProof("the proof is too long")
        if position & 1 or position == last:
            computed, later = node_hash(sibling, computed), node_hash(sibling, later)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            later = node_hash(later, sibling)
        position, last = position >> 1, last >> 1
    if last != 0:
        raise InvalidProof("the proof is too short")
    if computed != root or later != later_root:
        raise InvalidProof("the proof gives another root")


def _subproof(leaves: Sequence[bytes], size: int, *, whole: bool) -> Proof:
    """SUBPROOF. `whole`: these leaves began the earlier tree, so that the verifier has the root of all `size`."""
    if size == len(leaves):
        return () if whole else (root_of(leaves),)
    left, right = _halves(leaves)
    if size <= len(left):
        return (*_subproof(left, size, whole=whole), root_of(right))
    return (*_subproof(right, size - len(left), whole=False), root_of(left))


def _halves(leaves: Sequence[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Split at the largest power of two below their number."""
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return leaves[:split], leaves[split:]


def _hashes(proof: Proof) -> Proof:
    """A hash of another length would move the boundary between left and right. Raises InvalidProof."""
    if any(len(part) != HASH_SIZE for part in proof):
        raise InvalidProof("a proof is made of hashes")
    return proof
