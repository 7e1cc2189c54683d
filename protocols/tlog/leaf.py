"""Leaves: one closed record for each message that left a node, that its gate refused, and that it took from a peer.

A record holds numbers, digests and words of closed sets, so that a log can be shown to anybody. What was said is
committed to and not told: whoever kept nonce and plaintext can open one leaf and no other.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final, Literal, get_args

from msgspec import Meta, msgpack

from keys.encoding import prefixed
from protocols.codec import exactly
from protocols.errors import Malformed
from protocols.fields import Count, Digest, Name, Wire
from protocols.messages import (
    Control,
    Kind,
    Message,
    PrototypeSum,
    Publish,
    Release,
    RoundOpen,
    Share,
    WeightUpdate,
)
from protocols.secagg.messages import SecAggOpen

COMMITMENT_LABEL: Final = b"fedsecure/leaf/commitment/v1"
NONCE_SIZE: Final = 32
MAXIMUM_RANK: Final = 8
MAXIMUM_SHAPES: Final = 4096  # arrays of one message

_FLOWS: Final = {
    str(message.__struct_config__.tag): kind
    for kind, messages in (
        (Kind.RELEASE, Release),
        (Kind.CONTROL, Control),
        (Kind.SHARE, Share),
        (Kind.PUBLISH, Publish),
    )
    for message in get_args(messages)
}
_NOTES: Final = {  # what nodes say outside of a study's frames
    "greeting": Kind.CONTROL,
    "inquiry": Kind.CONTROL,
    "begin": Kind.CONTROL,
    "verdicts": Kind.CONTROL,
    "key-share": Kind.SHARE,
    "digests": Kind.RELEASE,
}
FLOWS: Final = _FLOWS | _NOTES

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
NumberOrNone = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: none
DigestOrNone = Annotated[bytes, Meta(max_length=32)]  # empty: none
Shape = Annotated[tuple[Annotated[int, Meta(ge=0, lt=2**31)], ...], Meta(max_length=MAXIMUM_RANK)]
Shapes = Annotated[tuple[Shape, ...], Meta(max_length=MAXIMUM_SHAPES)]


class Reason(StrEnum):
    """Why the gate let something not out."""

    SCHEMA = "schema"  # not of a known kind, type or shape, or not finite
    CAP = "cap"  # more bytes than may leave
    CONTENT = "content"  # looks like what must not leave
    BUDGET = "budget"  # privacy budget spent


class Sent(Wire, frozen=True, tag="sent"):
    """A message that left.

    seq: the leaf's index in the log. flow: the message's tag, of `kind`. stage, round: where its sender was.
    shapes: of the arrays that the gate was given, in order; of a message that it was given whole, none.
    size, ciphertext: bytes and SHA-256 of what was handed to the transport. commitment: `commitment` to the plaintext.
    model: digest of the model that the message brings or answers to; empty if it speaks of none.
    budget: millionths of epsilon that are left, rounded down; -1 where no bound holds.
    policy, code: SHA-256 of the policy that the gate enforced and of the code that it ran.
    """

    version: Literal[1]
    seq: Number
    kind: Kind
    peer: Name
    flow: str
    stage: Count
    round: Count
    shapes: Shapes
    size: Number
    ciphertext: Digest
    commitment: Digest
    model: DigestOrNone
    budget: NumberOrNone
    policy: Digest
    code: Digest

    def __post_init__(self) -> None:
        _require_flow(self.kind, self.flow)
        _require_digest_or_none(self.model)


class Received(Wire, frozen=True, tag="received"):
    """A message of `peer` that this node took, which acknowledges it. As `Sent`."""

    version: Literal[1]
    seq: Number
    kind: Kind
    peer: Name
    flow: str
    stage: Count
    round: Count
    size: Number
    ciphertext: Digest
    model: DigestOrNone

    def __post_init__(self) -> None:
        _require_flow(self.kind, self.flow)
        _require_digest_or_none(self.model)


class Refused(Wire, frozen=True, tag="refused"):
    """What did not leave. As `Sent`, but `size` is the plaintext's, and `flow` is empty if it is of no known type."""

    version: Literal[1]
    seq: Number
    kind: Kind
    peer: Name
    flow: str
    stage: Count
    round: Count
    shapes: Shapes
    size: Number
    reason: Reason
    commitment: Digest
    budget: NumberOrNone
    policy: Digest
    code: Digest

    def __post_init__(self) -> None:
        if self.flow:
            _require_flow(self.kind, self.flow)
        elif self.reason is not Reason.SCHEMA:
            raise ValueError("what is of no known type is refused for its schema")


Leaf = Sent | Received | Refused

_ENCODER: Final = msgpack.Encoder()
_DECODER: Final[msgpack.Decoder[Leaf]] = msgpack.Decoder(Leaf)


def commitment(nonce: bytes, plaintext: bytes) -> bytes:
    """SHA-256 over label, nonce and plaintext: 32 bytes that bind to the plaintext and, without the nonce, hide it.

    nonce: 32 bytes of the operating system's entropy for this leaf alone. Raises ValueError on another length.
    """
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes")
    digest = hashlib.sha256(prefixed(COMMITMENT_LABEL) + nonce)
    digest.update(plaintext)  # not joined: an update has hundreds of megabytes
    return digest.digest()


def flow_of(message: Message | type[Message]) -> str:
    """The message's tag, or that of messages of a type."""
    return str(message.__struct_config__.tag)


def model_of(message: Message) -> bytes:
    """Digest of the model that a message brings or answers to; empty if it speaks of none."""
    match message:
        case RoundOpen() | WeightUpdate() | PrototypeSum():
            return message.model_digest
        case SecAggOpen():
            return message.manifest.model
        case _:
            return b""


def place_of(message: Message) -> tuple[int, int] | None:
    """(stage, round) that a message is of, where it brings or answers to a model; else its sender's place counts."""
    match message:
        case RoundOpen() | WeightUpdate() | PrototypeSum():
            return message.stage, message.round
        case SecAggOpen():
            return message.manifest.stage, message.manifest.round
        case _:
            return None


def encode_leaf(leaf: Leaf) -> bytes:
    """The leaf's one encoding. Raises ValueError if a field is out of bounds: nothing invalid is ever logged."""
    raw = _ENCODER.encode(leaf)
    _DECODER.decode(raw)
    return raw


def decode_leaf(raw: bytes, index: int, peer: str) -> Leaf:
    """The one leaf that `raw` encodes, found at `index` of the log of `peer`. Raises Malformed, which blames `peer`."""
    leaf = exactly(_DECODER, raw, peer, "a version 1 leaf")
    if leaf.seq != index:
        raise Malformed(peer, "a leaf's number is its place in the log")
    return leaf


def _require_flow(kind: Kind, flow: str) -> None:
    """A closed set: a word of the trainer's choosing would be a way out."""
    if FLOWS.get(flow) is not kind:
        raise ValueError("a flow is the tag of a message of its kind")


def _require_digest_or_none(digest: bytes) -> None:
    if len(digest) not in (0, 32):
        raise ValueError("a model has a digest of 32 bytes")
