"""Heads of logs, and the three messages by which members pass them on and vouch for them (SPEC.md, Gossip).

log-head      site -> coordinator    my log's head after this round, and that it begins with the one before
log-heads     coordinator -> site    the heads of all members in the order in which I took them, from a number on
log-witness   site -> coordinator    how many of them I hold, and signatures for those that I am the witness of
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from protocols.fields import Count, Digest, Name, Signature, Wire
from protocols.tlog.merkle import EMPTY

LONGEST_PROOF: Final = 64  # hashes: of a tree of 2^63 leaves
MOST_HEADS: Final = 64  # of one message: what is more goes in the next
NO_LEDGER: Final = bytes(32)  # of a node that keeps no budget ledger
NO_VIEW: Final = bytes(32)  # of whoever has seen no head

Hashes = Annotated[tuple[Digest, ...], Meta(max_length=LONGEST_PROOF)]


class Head(Wire, frozen=True):
    """A member's log after `round` of a study: `size` leaves with this root.

    round: counted over all stages. ledger: the head of its budget ledger, NO_LEDGER if it keeps none. seen, view: how
    many heads the coordinator had shown it, and `checkpoint.viewed` of them: what was shown to two members can be
    compared.
    """

    version: Literal[1]
    study: Digest
    member: Name
    round: Count
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    root: Digest
    ledger: Digest
    seen: Count
    view: Digest

    def __post_init__(self) -> None:
        if (self.size == 0) != (self.root == EMPTY):
            raise ValueError("the empty log, and no other, has the root of no leaves")
        if (self.seen == 0) != (self.view == NO_VIEW):
            raise ValueError("who has seen no head, and nobody else, has no view")


class SignedHead(Wire, frozen=True):
    """A head and its member's signature."""

    head: Head
    signature: Signature


class Countersignature(Wire, frozen=True):
    """`member` saw that the log only grew."""

    member: Name
    signature: Signature


class Shown(Wire, frozen=True):
    """A head as the coordinator passes it on. proof: from its author's last head before it, from the empty tree if
    there is none. countersigned: by the coordinator, which signs its own head and does not countersign it."""

    signed: SignedHead
    proof: Hashes
    countersigned: Annotated[tuple[Countersignature, ...], Meta(max_length=1)]


class Vouch(Wire, frozen=True):
    """A witness' signature for the head of `author` after `round`."""

    author: Name
    round: Count
    signature: Signature


class LogHead(Wire, frozen=True, tag="log-head"):
    """Site: my log after this round. proof: from my last head in the list that I was shown, or from
    the empty tree."""

    signed: SignedHead
    proof: Hashes


class LogHeads(Wire, frozen=True, tag="log-heads"):
    """Coordinator: heads number first, first + 1, ... of the one list that all sites are shown."""

    first: Count
    heads: Annotated[tuple[Shown, ...], Meta(max_length=MOST_HEADS)]


class LogWitness(Wire, frozen=True, tag="log-witness"):
    """Site: I hold the first `seen` heads of the list, and vouch for these."""

    seen: Count
    vouches: Annotated[tuple[Vouch, ...], Meta(max_length=MOST_HEADS)]
