"""Checkpoints: what a member's log is after a round, signed by the member and by others who saw that it only grew.

A member signs a head. The coordinator and a site, the witness, check it against the last head of that member which
they have seen, and countersign. So no member can rewrite what it logged, and nobody can be shown another log, without
two signed heads being left that contradict each other: `compare` blames their author, before whomever they are laid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta, msgpack

from keys.encoding import prefixed
from keys.errors import InvalidSignature
from keys.identity import Identity
from keys.roster import Roster
from protocols.codec import exactly
from protocols.errors import BadSignature, Replayed, UnknownPeer, WrongStudy
from protocols.fields import MAXIMUM_MEMBERS, Wire, require_ascending
from protocols.tlog.errors import BadProof, DifferentView, InvalidProof, Rollback, SplitView, Unwitnessed
from protocols.tlog.merkle import EMPTY, Proof, verify_consistency
from protocols.tlog.messages import Countersignature, Head, SignedHead

HEAD_LABEL: Final = b"fedsecure/checkpoint/v1"
WITNESS_LABEL: Final = b"fedsecure/checkpoint/witness/v1"
VIEW_LABEL: Final = b"fedsecure/checkpoint/view/v1"


class Checkpoint(Wire, frozen=True):
    """A signed head and who vouches for it, ascending by member, each once."""

    signed: SignedHead
    countersignatures: Annotated[tuple[Countersignature, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending(tuple(each.member for each in self.countersignatures))


_ENCODER: Final = msgpack.Encoder()
_HEAD: Final = msgpack.Decoder(Head)
_SIGNED_HEAD: Final = msgpack.Decoder(SignedHead)
_CHECKPOINT: Final = msgpack.Decoder(Checkpoint)


def sign_head(identity: Identity, head: Head) -> SignedHead:
    """By the head's member. Raises ValueError if a field is out of bounds: nothing invalid is ever signed."""
    raw = _ENCODER.encode(head)
    _HEAD.decode(raw)
    return SignedHead(head, identity.sign(HEAD_LABEL, raw))


def encode(value: SignedHead | Checkpoint) -> bytes:
    """The value's one encoding."""
    return _ENCODER.encode(value)


def read_head(raw: bytes, *, peer: str, study: bytes, roster: Roster) -> SignedHead:
    """A head of this study that its member signed. `peer`: who delivered it, which may be anybody.

    Raises Malformed, WrongStudy, UnknownPeer or BadSignature, which blame `peer`.
    """
    signed = exactly(_SIGNED_HEAD, raw, peer, "a version 1 signed head")
    check_head(signed, peer=peer, study=study, roster=roster)
    return signed


def check_head(signed: SignedHead, *, peer: str, study: bytes, roster: Roster) -> None:
    """What `read_head` checks of a head that is decoded. Raises as it does."""
    head = signed.head
    if head.study != study:
        raise WrongStudy(peer, "a head carries the digest of the study it belongs to")
    if head.member not in roster.members:
        raise UnknownPeer(peer, "a log is a member's")
    try:
        roster.members[head.member].verify(HEAD_LABEL, _ENCODER.encode(head), signed.signature)
    except InvalidSignature:
        raise BadSignature(peer, "a head is signed by its member") from None


def check_countersignature(signed: SignedHead, given: Countersignature, *, peer: str, roster: Roster) -> None:
    """That another member vouches for this head. Raises UnknownPeer or BadSignature, which blame `peer`."""
    if given.member not in roster.members or given.member == signed.head.member:
        raise UnknownPeer(peer, "whoever countersigns is another member of the roster")
    try:
        roster.members[given.member].verify(WITNESS_LABEL, _witnessed(given.member, signed), given.signature)
    except InvalidSignature:
        raise BadSignature(peer, "a countersignature is its member's over this signed head") from None


def witness_of(author: str, round_: int, sites: tuple[str, ...]) -> str | None:
    """The site whose turn it is to vouch for the head of `author` after `round_`; None if there is no other site.

    sites: of the roster, sorted.
    """
    others = [site for site in sites if site != author]
    return others[(round_ + sum(site < author for site in sites)) % len(others)] if others else None


def compare_views(held: Sequence[bytes], new: SignedHead, *, coordinator: str) -> None:
    """That the author of `new` was shown the list of heads that whoever looks was shown.

    held: `view` after 0, 1, 2, ... heads. A longer list than one's own cannot be compared yet.
    Raises DifferentView, which blames the coordinator.
    """
    if new.head.seen < len(held) and held[new.head.seen] != new.head.view:
        raise DifferentView(coordinator, f"all members are shown one list of heads, and {new.head.member} saw another")


def viewed(view: bytes, signed: SignedHead) -> bytes:
    """The view of whoever had `view` and is shown this head next: 32 bytes."""
    return hashlib.sha256(prefixed(VIEW_LABEL, view, _ENCODER.encode(signed))).digest()


def read_checkpoint(raw: bytes, *, peer: str, study: bytes, roster: Roster) -> Checkpoint:
    """A checkpoint of this study, countersigned by at least one site and the coordinator, other than its author.

    All countersignatures must hold, not only enough of them. Raises as `read_head`, and Unwitnessed; all blame `peer`.
    """
    checkpoint = exactly(_CHECKPOINT, raw, peer, "a version 1 checkpoint")
    signed = checkpoint.signed
    check_head(signed, peer=peer, study=study, roster=roster)
    for each in checkpoint.countersignatures:
        check_countersignature(signed, each, peer=peer, roster=roster)
    members = {each.member for each in checkpoint.countersignatures}
    if roster.coordinator not in members | {signed.head.member} or not members & set(roster.sites):
        raise Unwitnessed(peer, "the coordinator and another site countersign a checkpoint")
    return checkpoint


def compare(first: SignedHead, second: SignedHead) -> None:
    """Whether one member can have signed both in good faith, as far as two heads alone tell. Both must have been read.

    Raises SplitView or Rollback, which blame the member and carry both heads; ValueError if they are not of one member.
    """
    earlier, later = sorted((first, second), key=lambda signed: signed.head.round)
    if (earlier.head.study, earlier.head.member) != (later.head.study, later.head.member):
        raise ValueError("heads of two logs")
    author, evidence = earlier.head.member, (encode(first), encode(second))
    if earlier.head.round == later.head.round and earlier.head != later.head:
        raise SplitView(author, "a member signs one head a round", evidence)
    if later.head.size < earlier.head.size:
        raise Rollback(author, "a log loses no leaf", evidence)
    if later.head.size == earlier.head.size and later.head.root != earlier.head.root:
        raise SplitView(author, "a log of one size has one root", evidence)


def follow(last: SignedHead | None, new: SignedHead, proof: Proof, *, peer: str) -> None:
    """That the log at `new` begins with the log at `last`; None: whoever looks has seen no head of this member so far.

    proof: RFC 9162 consistency proof between the two. peer: who delivered it.
    Raises as `compare`; Replayed or BadProof, which blame `peer`. After that, `new` is the last head seen.
    """
    if last is not None:
        compare(last, new)
        if new.head.round < last.head.round:
            raise Replayed(peer, "a head is not older than the one before it")
    size, root = (last.head.size, last.head.root) if last else (0, EMPTY)
    try:
        verify_consistency(size, root, new.head.size, new.head.root, proof)
    except InvalidProof:
        raise BadProof(peer, "a log's next head comes with a proof that it begins with the last one") from None


def countersign(
    identity: Identity, me: str, last: SignedHead | None, new: SignedHead, proof: Proof, *, peer: str
) -> Countersignature:
    """Vouch for a head that was read, if it follows `last`, the last one of its member that `me` has seen.

    The caller has `new` on disk as its last head before it sends what this returns: a witness that forgets can be made
    to vouch for two logs. Raises as `follow`; ValueError if the head is one's own.
    """
    if new.head.member == me:
        raise ValueError("nobody is his own witness")
    follow(last, new, proof, peer=peer)
    return Countersignature(me, identity.sign(WITNESS_LABEL, _witnessed(me, new)))


def _witnessed(member: str, signed: SignedHead) -> bytes:
    """What a member countersigns: its own name, and the head with its signature."""
    return prefixed(member.encode(), _ENCODER.encode(signed))
