"""Frames: a header, the sender's signature over it, and the body it announces. Opening one is a list of checks.

    frame = length of header (2 bytes, big-endian) || header || Ed25519 signature (64 bytes) || body

The signature covers the header, the header covers the body by its length and SHA-256: a large body is hashed once.
Frames are signed, not encrypted: the channel encrypts them, and what the coordinator must not read is in a box.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple

from msgspec import Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from keys.errors import InvalidSignature
from keys.identity import SIGNATURE_SIZE
from keys.roster import Roster
from protocols.codec import decode, exactly
from protocols.errors import (
    BadDigest,
    BadSignature,
    Malformed,
    Oversize,
    Replayed,
    UnexpectedMessage,
    UnknownPeer,
    WrongRecipient,
    WrongSender,
    WrongStudy,
)
from protocols.fields import Digest, Name
from protocols.messages import BankRelay, FeatureBank, Kind, Message, Role, role_of

FRAME_LABEL: Final = b"fedsecure/frame/v1"
MAXIMUM_HEADER: Final = 256  # bytes; two names of 32 characters give 164
_LENGTH: Final = 2  # bytes of the header's length

KINDS_OF: Final[Mapping[Role, frozenset[Kind]]] = {
    Role.SITE: frozenset({Kind.RELEASE, Kind.CONTROL, Kind.SHARE}),
    Role.COORDINATOR: frozenset({Kind.PUBLISH, Kind.CONTROL, Kind.SHARE}),
}


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the sender signs. Everything that a body could be moved away from stands here."""

    version: Literal[1]
    kind: Kind
    study: Digest
    sender: Name
    recipient: Name
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]  # boot << 32 | counter: rises with every frame, also over restarts
    length: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    digest: Digest


_ENCODER: Final = Encoder()
_DECODER: Final = Decoder(Header)


class Opened(NamedTuple):
    sender: str
    seq: int
    message: Message


class ReplayGuard:
    """The last number accepted from each sender, so that no frame is accepted twice.

    A node keeps `export()` with the state that the frame changed, in one transaction, and begins from it after a
    restart. A frame that may be lost is therefore sealed again and not sent again: its number may have been passed.
    """

    def __init__(self, last: Mapping[str, int] | None = None) -> None:
        self._last = dict(last or {})

    def check(self, sender: str, seq: int) -> None:
        """Raises Replayed unless `seq` is above the last one accepted from `sender`."""
        if seq <= self._last.get(sender, 0):
            raise Replayed(sender, "a frame's number is above that of the frame before it")

    def accept(self, sender: str, seq: int) -> None:
        """Check, and from now on refuse `seq` and all below it."""
        self.check(sender, seq)
        self._last[sender] = seq

    def export(self) -> dict[str, int]:
        return dict(self._last)


def open_frame(
    frame: bytes, *, peer: str, me: str, study: bytes, roster: Roster, replay: ReplayGuard, maximum: int
) -> Opened:
    """Check everything about a frame and decode its message. `replay` advances only if all checks pass.

    peer: the member that the transport authenticated as the one who delivered it; at a site, the coordinator.
    maximum: bytes of a whole frame that this node takes.
    Raises a FaultyPeer that blames `peer`. What the message means in this stage and round is the caller's to check.
    """
    # 1. The peer is a member, and in the other role: sites do not write to each other.
    if peer not in roster.members or peer == me:
        raise UnknownPeer(peer, "whoever sends a frame is another member of the roster")
    role = role_in(roster, peer)
    if role is role_in(roster, me):
        raise UnexpectedMessage(peer, "sites and coordinator write to each other, sites do not")
    # 2. The frame is not larger than this node takes.
    if len(frame) > maximum:
        raise Oversize(peer, f"a frame has at most {maximum} bytes here")
    # 3. The header is one canonical version 1 header.
    raw_header, signature, body = _split(frame, peer)
    header = exactly(_DECODER, raw_header, peer, "a version 1 header")
    # 4. It names this study, the peer, and me.
    if header.study != study:
        raise WrongStudy(peer, "a frame carries the digest of the study it belongs to")
    if header.sender != peer:
        raise WrongSender(peer, "a frame is delivered by its sender")
    if header.recipient != me:
        raise WrongRecipient(peer, "a frame is delivered to its recipient")
    # 5. The sender's role may send this kind.
    if header.kind not in KINDS_OF[role]:
        raise UnexpectedMessage(peer, f"a {role} does not send the kind {header.kind}")
    # 6. The sender signed the header.
    try:
        roster.members[peer].verify(FRAME_LABEL, raw_header, signature)
    except InvalidSignature:
        raise BadSignature(peer, "a frame's header is signed by its sender") from None
    # 7. The number is new. The guard is advanced last.
    replay.check(peer, header.seq)
    # 8. The body is the one announced.
    if len(body) != header.length or hashlib.sha256(body).digest() != header.digest:
        raise BadDigest(peer, "a body has the length and SHA-256 that its header announces")
    # 9. The body is one canonical message of the kind announced: `decode` knows no others.
    message = decode(header.kind, body, peer)
    # 10. The sender's role may send this message, and a box that comes from its maker carries its maker's name.
    if role_of(message) is not role:
        raise UnexpectedMessage(peer, f"a {role} does not send {type(message).__name__}")
    if isinstance(message, FeatureBank) and message.box.sender != peer:
        raise WrongSender(peer, "a site sends boxes of its own")
    if isinstance(message, BankRelay) and message.site not in roster.sites:
        raise Malformed(peer, "a relayed box is a site's")
    replay.accept(peer, header.seq)
    return Opened(peer, header.seq, message)


def header_bytes(header: Header) -> bytes:
    """The canonical encoding, which is what `FRAME_LABEL` signs. Raises ValueError if a field is out of bounds."""
    raw = _ENCODER.encode(header)
    _DECODER.decode(raw)
    return raw


def join(raw_header: bytes, signature: bytes, body: bytes) -> bytes:
    """A frame of its parts."""
    return b"".join((len(raw_header).to_bytes(_LENGTH, "big"), raw_header, signature, body))


def role_in(roster: Roster, name: str) -> Role:
    """Raises KeyError if `name` is not a member: for `me`, that is a bug of the caller's."""
    roster.members[name]
    return Role.COORDINATOR if name == roster.coordinator else Role.SITE


def _split(frame: bytes, peer: str) -> tuple[bytes, bytes, bytes]:
    """Header, signature, body; the body is whatever is left. Raises Malformed."""
    end = _LENGTH + int.from_bytes(frame[:_LENGTH], "big")
    start = end + SIGNATURE_SIZE
    if end > _LENGTH + MAXIMUM_HEADER or start > len(frame):
        raise Malformed(peer, "the bytes are not a frame")
    return frame[_LENGTH:end], frame[end:start], frame[start:]
