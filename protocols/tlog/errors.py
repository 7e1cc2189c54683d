"""What can be wrong with a log that a peer shows.

    InvalidProof                these hashes do not prove what they were to prove; says nothing about who made them
    FaultyPeer
    ├── BadProof                showed a proof that does not hold
    ├── Unwitnessed             passed on a checkpoint without its countersignatures
    ├── DifferentView           (an Inconsistent) showed different lists of heads to two members
    └── SplitView               signed two heads that are not of one log
        └── Rollback            and the later one has fewer leaves

Of these only a split view is evidence: two signatures of its author's. A proof that does not hold may be anybody's.
"""

from __future__ import annotations

from protocols.errors import FaultyPeer, Inconsistent


class InvalidProof(Exception):
    """An inclusion or a consistency proof does not hold."""


class BadProof(FaultyPeer):
    """`peer` showed a proof that does not hold."""


class Unwitnessed(FaultyPeer):
    """A checkpoint lacks the countersignature of the coordinator or of a second site."""


class DifferentView(Inconsistent):
    """`peer`, the coordinator, showed two members different lists of heads; or one of the two lies about its own."""


class SplitView(FaultyPeer):
    """`peer` signed two heads that are not of one log.

    evidence: the encodings of both signed heads. Whoever has the roster can read them and come to the same verdict.
    """

    def __init__(self, peer: str, rule: str, evidence: tuple[bytes, bytes]) -> None:
        super().__init__(peer, rule)
        self.evidence = evidence


class Rollback(SplitView):
    """A split view in time: of two heads the later one has fewer leaves."""
