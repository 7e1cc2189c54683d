"""Messages to bytes and back: MessagePack, exactly one encoding for each value.

Decoding is strict three times: msgspec checks types, lengths and that nothing is left over; structs check themselves;
then the value is encoded again and must give the same bytes. Without the last step one message would have many
encodings (padded integers, long forms of lengths) and a digest would not identify what was said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec.msgpack import Decoder

from protocols.errors import Malformed
from protocols.messages import Control, Kind, Message, Publish, Release, Share, kind_of

_T = TypeVar("_T")

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final[Mapping[Kind, Decoder[Any]]] = {
    Kind.CONTROL: Decoder(Control),
    Kind.RELEASE: Decoder(Release),
    Kind.PUBLISH: Decoder(Publish),
    Kind.SHARE: Decoder(Share),
}


def encode(message: Message) -> bytes:
    """The message's one encoding. Raises ValueError if a field is out of bounds: nothing invalid is ever signed."""
    raw = _ENCODER.encode(message)
    _DECODERS[kind_of(message)].decode(raw)  # msgspec's errors are ValueErrors
    return raw


def decode(kind: Kind, raw: bytes, peer: str) -> Message:
    """The one message of this kind that `raw` encodes.

    Raises Malformed, which blames `peer`.
    """
    message: Message = exactly(_DECODERS[kind], raw, peer, f"a {kind} message")
    return message


def exactly(decoder: Decoder[_T], raw: bytes, peer: str, what: str) -> _T:
    """Decode, and demand the canonical encoding. Raises Malformed(peer), which names `what` and no content."""
    try:
        value = decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # msgspec's own text quotes field names of the peer's choosing: it stays here.
        raise Malformed(peer, f"the bytes are not {what}") from None
    if _ENCODER.encode(value) != raw:
        raise Malformed(peer, f"the bytes are not the canonical encoding of {what}")
    return value
