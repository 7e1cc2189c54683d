"""Notes: small signed messages outside of a study's frames, from one member to another.

    note = magic || Ed25519 signature (64 bytes) || body (MessagePack, one canonical encoding)

A frame begins with the length of its header, at most 256; every magic is text, which as a length says far more: no
frame is taken for a note. A body names its sender and its recipient.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from msgspec.msgpack import Decoder, Encoder

from keys.errors import InvalidSignature
from keys.identity import SIGNATURE_SIZE, Identity, PublicIdentity
from protocols.codec import exactly
from protocols.errors import BadSignature, Malformed, Oversize, WrongRecipient, WrongSender


class Note(Protocol):
    @property
    def sender(self) -> str: ...
    @property
    def recipient(self) -> str: ...


_Note = TypeVar("_Note", bound=Note)
_ENCODER = Encoder()


class Notes(Generic[_Note]):
    """One family of notes. `name` is both magic and signature label; `maximum`: bytes of a whole note."""

    def __init__(self, name: str, kind: Any, maximum: int) -> None:
        """kind: the struct, or the union of structs, that a body is."""
        self.name, self.maximum = name, maximum
        self.label = name.encode()
        self.magic = self.label + b"\0"
        self._decoder: Decoder[_Note] = Decoder(kind)

    def write(self, note: _Note, identity: Identity) -> bytes:
        """Signed bytes. For the gate alone. Raises msgspec.ValidationError if a field is out of bounds."""
        body = _ENCODER.encode(note)
        self._decoder.decode(body)
        return self.magic + identity.sign(self.label, body) + body

    def open(self, raw: bytes, *, peer: str, me: str, public: PublicIdentity) -> _Note:
        """A note of `peer`, whose keys are `public`, to `me`. Raises a FaultyPeer that blames `peer`."""
        if len(raw) > self.maximum:
            raise Oversize(peer, f"a {self.name} note has at most {self.maximum} bytes")
        start = len(self.magic)
        signature, body = raw[start : start + SIGNATURE_SIZE], raw[start + SIGNATURE_SIZE :]
        if not self.is_one(raw) or len(signature) != SIGNATURE_SIZE:
            raise Malformed(peer, f"the bytes are not a {self.name} note")
        try:
            public.verify(self.label, body, signature)
        except InvalidSignature:
            raise BadSignature(peer, "a note is signed by its sender") from None
        note = exactly(self._decoder, body, peer, f"a {self.name} note")
        if note.sender != peer:
            raise WrongSender(peer, "a note is delivered by its sender")
        if note.recipient != me:
            raise WrongRecipient(peer, "a note is delivered to its recipient")
        return note

    def is_one(self, raw: bytes) -> bool:
        return raw.startswith(self.magic)
