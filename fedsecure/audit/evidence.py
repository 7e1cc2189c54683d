"""What a node leaves of its log when a study is over, for whoever checks it: nothing secret, and nothing of a volume.

evidence/leaves       every leaf in order            evidence/study.json    the study, as this node ran it
evidence/heads        the list of all heads          evidence/policy.json   what its gate enforced
evidence/vouches      witnesses' signatures          evidence/roster        the last roster it accepted
evidence/closing      signed: the log's size and root, the digest of each of these, digests of what came of the study

leaves, heads, vouches = (length (4 bytes, big-endian) || item) ...      items as in protocols/tlog/SPEC.md
closing = Ed25519 signature (64 bytes) || MessagePack, one canonical encoding
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, msgpack

from keys.errors import InvalidSignature
from keys.identity import SIGNATURE_SIZE, Identity, PublicIdentity
from protocols.codec import exactly
from protocols.errors import BadSignature, Malformed
from protocols.fields import Digest, Name, Signature, Wire
from protocols.tlog.messages import Shown

FOLDER: Final = "evidence"
LEAVES, HEADS, VOUCHES, STUDY, POLICY, ROSTER = "leaves", "heads", "vouches", "study.json", "policy.json", "roster"
FILES: Final = (HEADS, LEAVES, POLICY, ROSTER, STUDY, VOUCHES)
CLOSING: Final = "closing"
CLOSING_LABEL: Final = b"fedsecure/closing/v1"
_LENGTH: Final = 4
_T = TypeVar("_T")

Path_ = Annotated[str, Meta(pattern=r"^(?!.*\.\.)[a-z0-9][a-z0-9._/-]{0,99}$")]


class Named(Wire, frozen=True):
    """A file and its SHA-256."""

    name: Path_
    digest: Digest


class Witnessed(Wire, frozen=True):
    """The signature of `member` for the head of `author` after `round`."""

    author: Name
    round: Annotated[int, Meta(ge=0, lt=2**31)]
    member: Name
    signature: Signature


class Closing(Wire, frozen=True):
    """What a node says at its end. files: of the evidence; results: of what came of the study, in the node's folder."""

    version: Literal[1]
    study: Digest
    member: Name
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    root: Digest
    files: Annotated[tuple[Named, ...], Meta(max_length=64)]
    results: Annotated[tuple[Named, ...], Meta(max_length=4096)]


_ENCODER: Final = msgpack.Encoder()
_CLOSING: Final = msgpack.Decoder(Closing)
SHOWN: Final = msgpack.Decoder(Shown)
WITNESSED: Final = msgpack.Decoder(Witnessed)


def joined(items: Iterable[bytes]) -> bytes:
    """Items, each behind its length."""
    return b"".join(len(item).to_bytes(_LENGTH, "big") + item for item in items)


def split(raw: bytes, peer: str) -> list[bytes]:
    """Inverse of `joined`. Raises Malformed, which blames `peer`."""
    items, at = [], 0
    while at < len(raw):
        start = at + _LENGTH
        at = start + int.from_bytes(raw[at:start], "big")
        if start > len(raw) or at > len(raw):
            raise Malformed(peer, "a file of items ends with one")
        items.append(raw[start:at])
    return items


def items_of(decoder: msgspec.msgpack.Decoder[_T], raw: bytes, peer: str, what: str) -> list[_T]:
    """What a file of items holds. Raises Malformed."""
    return [exactly(decoder, item, peer, what) for item in split(raw, peer)]


def named(files: Mapping[str, bytes]) -> tuple[Named, ...]:
    """Files with their digests, by name."""
    return tuple(Named(name, hashlib.sha256(files[name]).digest()) for name in sorted(files))


def signed(identity: Identity, closing: Closing) -> bytes:
    """The file `closing`. Raises ValueError if a field is out of bounds."""
    raw = _ENCODER.encode(closing)
    _CLOSING.decode(raw)
    return identity.sign(CLOSING_LABEL, raw) + raw


def read_closing(raw: bytes, peer: str) -> Closing:
    """What a closing says; its signature is `check_closing`'s. Raises Malformed, which blames `peer`."""
    return exactly(_CLOSING, raw[SIGNATURE_SIZE:], peer, "a version 1 closing")


def check_closing(raw: bytes, peer: str, public: PublicIdentity) -> None:
    """Raises BadSignature, which blames `peer`."""
    try:
        public.verify(CLOSING_LABEL, raw[SIGNATURE_SIZE:], raw[:SIGNATURE_SIZE])
    except InvalidSignature:
        raise BadSignature(peer, "a closing is signed by its member") from None


def folders(run: Path) -> list[Path]:
    """The nodes' folders below a run's, a framework's or a node's own that hold evidence, sorted."""
    below = (run, run / "coordinator", *run.glob("sites/*"))
    return sorted(folder for folder in below if (folder / FOLDER).is_dir())
