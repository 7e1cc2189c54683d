"""Boxes: content that the coordinator relays between sites and cannot read, alter, split or move.

A box's content is encrypted once, under a key of its own; the key is sealed to every recipient; the author signs all.
Study, stage, round, author and recipients are bound three times over (as the content's associated data, in each sealed
key's context, under the signature), so that neither a piece nor the whole fits anywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec.msgpack import Encoder

from keys import hpke
from keys.encoding import prefixed, u64
from keys.errors import CannotOpen, InvalidSignature
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import BadSignature, CannotDecrypt, UnknownPeer, WrongRecipient, WrongSender
from protocols.messages import SealedBox, Wrap

CONTENT_LABEL: Final = b"fedsecure/box/content/v1"
KEY_LABEL: Final = b"fedsecure/box/key/v1"
BOX_LABEL: Final = b"fedsecure/box/v1"
DIGEST_LABEL: Final = b"fedsecure/box/digest/v1"

# A content key encrypts one content and is then forgotten, so that its only nonce may be constant.
NONCE: Final = bytes(12)

_ENCODER: Final = Encoder()


@dataclass(frozen=True, slots=True)
class BoxContext:
    """Where a box belongs. Author and reader each state it for themselves; it is not read from the box."""

    study: bytes  # the study's digest
    stage: int
    round: int
    sender: str

    def associated_data(self, recipients: Iterable[str]) -> bytes:
        """For AES-GCM: the context and who may read, sorted."""
        return prefixed(CONTENT_LABEL, *self._fields(), *(name.encode() for name in sorted(recipients)))

    def key_info(self, recipient: str, ciphertext_digest: bytes) -> bytes:
        """For HPKE: the context, whose key it is, and the one ciphertext that it opens."""
        return prefixed(KEY_LABEL, *self._fields(), recipient.encode(), ciphertext_digest)

    def signed_data(self, ciphertext_digest: bytes, wraps: Iterable[Wrap]) -> bytes:
        """For Ed25519: everything, so that the relay cannot leave out a recipient either."""
        pairs = (part for wrap in wraps for part in (wrap.recipient.encode(), wrap.key))
        return prefixed(*self._fields(), ciphertext_digest, *pairs)

    def _fields(self) -> tuple[bytes, ...]:
        return self.study, u64(self.stage), u64(self.round), self.sender.encode()


def box_digest(box: SealedBox) -> bytes:
    """SHA-256 over a label and the box's canonical encoding; 32 bytes. What RoundOpen announces."""
    return hashlib.sha256(prefixed(DIGEST_LABEL, _ENCODER.encode(box))).digest()


def verify_box(box: SealedBox, context: BoxContext, *, peer: str, roster: Roster) -> None:
    """That the author made this box for this context. Needs no private key: a relay checks before it passes on.

    peer: who delivered it, to be blamed if this raises (UnknownPeer, WrongSender, BadSignature).
    """
    if context.sender not in roster.sites:
        raise UnknownPeer(peer, "a box is a site's")
    if box.sender != context.sender:
        raise WrongSender(peer, "a box carries its maker's name")
    data = context.signed_data(hashlib.sha256(box.ciphertext).digest(), box.wraps)
    try:
        roster.members[box.sender].verify(BOX_LABEL, data, box.signature)
    except InvalidSignature:
        raise BadSignature(peer, "a box is signed by its maker for this study, stage and round") from None


def open_box(box: SealedBox, context: BoxContext, *, identity: Identity, me: str, roster: Roster) -> bytes:
    """The content of a box that the coordinator relayed.

    Raises as `verify_box` does, and then blames the coordinator, who had to check before it relayed; WrongRecipient or
    CannotDecrypt blame the maker, whose signature proves that it made the box so.
    """
    verify_box(box, context, peer=roster.coordinator, roster=roster)
    keys = {wrap.recipient: wrap.key for wrap in box.wraps}
    if me not in keys:
        raise WrongRecipient(box.sender, "a box has a key for whoever it is sent to")
    info = context.key_info(me, hashlib.sha256(box.ciphertext).digest())
    try:
        content_key = hpke.open_(identity, keys[me], info)
        return AESGCM(content_key).decrypt(NONCE, box.ciphertext, context.associated_data(keys))
    except (CannotOpen, InvalidTag):
        raise CannotDecrypt(box.sender, "a box opens for each of its recipients") from None
