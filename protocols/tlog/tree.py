"""A log's tree as its owner keeps it: every perfect subtree's root, so that roots and proofs cost a few hashes each.

Gives what `merkle` gives, whose functions are the RFC's definitions and hash all leaves again at each call.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from protocols.tlog.merkle import EMPTY, Proof, node_hash


class Tree:
    """Grows by `append` alone. `levels[k][i]` is the root of leaves i 2^k to (i + 1) 2^k."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        """leaves: their hashes."""
        self._levels: list[list[bytes]] = [[]]
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """The leaf with this hash comes last."""
        self._levels[0].append(leaf)
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            self._levels[level + 1].append(node_hash(*self._levels[level][-2:]))
            level += 1

    def root(self, size: int | None = None) -> bytes:
        """Of the first `size` leaves; None: of all. Raises ValueError if there are fewer."""
        end = len(self) if size is None else size
        if not 0 <= end <= len(self):
            raise ValueError("there are not so many leaves")
        return self._root(0, end) if end else EMPTY

    def consistency(self, size: int) -> Proof:
        """`merkle.consistency_proof` of the first `size` leaves. Raises ValueError if there are fewer."""
        if not 0 <= size <= len(self):
            raise ValueError("a tree is consistent with smaller ones")
        return self._subproof(0, len(self), size, whole=True) if size else ()

    def _root(self, start: int, end: int) -> bytes:
        """Of leaves start to end, at least one. `start`: a multiple of a power of two, no less than their number."""
        roots, at = [], start
        while at < end:
            level = min((end - at).bit_length() - 1, (at & -at).bit_length() - 1 if at else 63)
            roots.append(self._levels[level][at >> level])
            at += 1 << level
        return reduce(lambda right, left: node_hash(left, right), reversed(roots))

    def _subproof(self, start: int, end: int, size: int, *, whole: bool) -> Proof:
        """SUBPROOF of RFC 9162 section 2.1.4.1, `size` counted from `start`."""
        count = end - start
        if size == count:
            return () if whole else (self._root(start, end),)
        half = 1 << ((count - 1).bit_length() - 1)
        if size <= half:
            return (*self._subproof(start, start + half, size, whole=whole), self._root(start + half, end))
        return (*self._subproof(start + half, end, size - half, whole=False), self._root(start, start + half))
