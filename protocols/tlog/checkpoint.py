"""Checkpoints: what a site's log is after a round, signed by the site and by others who saw that it only grew.

A site signs a head. The coordinator and another site, the witness, check it against the last head of that site which
they have seen, and countersign. So no site can rewrite what it logged, and nobody can be shown another log, without
two signed heads being left that contradict each other: `compare` blames their author, before whomever they are laid.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, msgpack

from keys.encoding import prefixed
from keys.errors import InvalidSignature
from keys.identity import Identity
from keys.roster import Roster
from protocols.codec import exactly
from protocols.errors import BadSignature, Replayed, UnknownPeer, WrongStudy
from protocols.fields import MAXIMUM_MEMBERS, Count, Digest, Name, Signature, Wire, require_ascending
from protocols.tlog.errors import BadProof, InvalidProof, Rollback, SplitView, Unwitnessed
from protocols.tlog.merkle import EMPTY, Proof, verify_consistency

HEAD_LABEL: Final = b"fedsecure/checkpoint/v1"
WITNESS_LABEL: Final = b"fedsecure/checkpoint/witness/v1"


class Head(Wire, frozen=True):
    """A site's log after `round` of a study: `size` leaves with this root. `ledger`: its budget ledger's head."""

    version: Literal[1]
    study: Digest
    site: Name
    round: Count
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    root: Digest
    ledger: Digest

    def __post_init__(self) -> None:
        if (self.size == 0) != (self.root == EMPTY):
            raise ValueError("the empty log, and no other, has the root of no leaves")


class SignedHead(Wire, frozen=True):
    """A head and its site's signature."""

    head: Head
    signature: Signature


class Countersignature(Wire, frozen=True):
    """`member` saw that the log only grew."""

    member: Name
    signature: Signature


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
    """By the head's site. Raises ValueError if a field is out of bounds: nothing invalid is ever signed."""
    raw = _ENCODER.encode(head)
    _HEAD.decode(raw)
    return SignedHead(head, identity.sign(HEAD_LABEL, raw))


def encode(value: SignedHead | Checkpoint) -> bytes:
    """The value's one encoding."""
    return _ENCODER.encode(value)


def read_head(raw: bytes, *, peer: str, study: bytes, roster: Roster) -> SignedHead:
    """A head of this study that its site signed. `peer`: who delivered it, which may be anybody.

    Raises Malformed, WrongStudy, UnknownPeer or BadSignature, which blame `peer`.
    """
    signed = exactly(_SIGNED_HEAD, raw, peer, "a version 1 signed head")
    _verify_head(signed, peer, study, roster)
    return signed


def read_checkpoint(raw: bytes, *, peer: str, study: bytes, roster: Roster) -> Checkpoint:
    """A checkpoint of this study, countersigned by the coordinator and at least one site that is not its author.

    All countersignatures must hold, not only enough of them. Raises as `read_head`, and Unwitnessed; all blame `peer`.
    """
    checkpoint = exactly(_CHECKPOINT, raw, peer, "a version 1 checkpoint")
    signed = checkpoint.signed
    _verify_head(signed, peer, study, roster)
    for each in checkpoint.countersignatures:
        if each.member not in roster.members or each.member == signed.head.site:
            raise UnknownPeer(peer, "whoever countersigns is another member of the roster")
        try:
            roster.members[each.member].verify(WITNESS_LABEL, _witnessed(each.member, signed), each.signature)
        except InvalidSignature:
            raise BadSignature(peer, "a countersignature is its member's over this signed head") from None
    members = {each.member for each in checkpoint.countersignatures}
    if roster.coordinator not in members or len(members) < 2:
        raise Unwitnessed(peer, "the coordinator and another site countersign a checkpoint")
    return checkpoint


def compare(first: SignedHead, second: SignedHead) -> None:
    """Whether one site can have signed both in good faith, as far as two heads alone tell. Both must have been read.

    Raises SplitView or Rollback, which blame the site and carry both heads; ValueError if they are not of one site.
    """
    earlier, later = sorted((first, second), key=lambda signed: signed.head.round)
    if (earlier.head.study, earlier.head.site) != (later.head.study, later.head.site):
        raise ValueError("heads of two logs")
    site, evidence = earlier.head.site, (encode(first), encode(second))
    if earlier.head.round == later.head.round and earlier.head != later.head:
        raise SplitView(site, "a site signs one head a round", evidence)
    if later.head.size < earlier.head.size:
        raise Rollback(site, "a log loses no leaf", evidence)
    if later.head.size == earlier.head.size and later.head.root != earlier.head.root:
        raise SplitView(site, "a log of one size has one root", evidence)


def follow(last: SignedHead | None, new: SignedHead, proof: Proof, *, peer: str) -> None:
    """That the log at `new` begins with the log at `last`; None: its member has seen no head of this site so far.

    proof: RFC 9162 consistency proof between the two. peer: who delivered it.
    Raises as `compare`; Replayed or BadProof, which blame `peer`. After that, `new` is the member's last head.
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
    """Vouch for a head that was read, if it follows `last`, the last one of this site that `me` has seen.

    The caller has `new` on disk as its last head before it sends what this returns: a witness that forgets can be made
    to vouch for two logs. Raises as `follow`; ValueError if the head is one's own.
    """
    if new.head.site == me:
        raise ValueError("nobody is his own witness")
    follow(last, new, proof, peer=peer)
    return Countersignature(me, identity.sign(WITNESS_LABEL, _witnessed(me, new)))


def _verify_head(signed: SignedHead, peer: str, study: bytes, roster: Roster) -> None:
    head = signed.head
    if head.study != study:
        raise WrongStudy(peer, "a head carries the digest of the study it belongs to")
    if head.site not in roster.sites:
        raise UnknownPeer(peer, "a log is a site's")
    try:
        roster.members[head.site].verify(HEAD_LABEL, _ENCODER.encode(head), signed.signature)
    except InvalidSignature:
        raise BadSignature(peer, "a head is signed by its site") from None


def _witnessed(member: str, signed: SignedHead) -> bytes:
    """What a member countersigns: its own name, and the head with its signature."""
    return prefixed(member.encode(), _ENCODER.encode(signed))
