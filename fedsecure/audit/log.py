"""Leaves of a node's transparency log: what its gate let out, what it refused, and what the node took from a peer.

Format and meaning: protocols/tlog/SPEC.md. Who writes them puts them on disk in the transaction of what they tell of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct, json

from fedsecure.audit.sbom import release
from fedsecure.config import Study
from fedsecure.plan import frame_limit
from fedsecure.types import State
from protocols.messages import Kind
from protocols.tlog.leaf import (
    MAXIMUM_RANK,
    MAXIMUM_SHAPES,
    NONCE_SIZE,
    Leaf,
    Reason,
    Received,
    Refused,
    Sent,
    commitment,
    encode_leaf,
)

NO_BUDGET: Final = -1  # nothing is noised: no bound holds


class Entry(NamedTuple):
    """A leaf's encoding, and the nonce of its commitment, which stays here; empty where it commits to nothing."""

    leaf: bytes
    nonce: bytes = b""


class Told(NamedTuple):
    """What a leaf says of a message, but for its place in the log. flow: its tag; model: as in the leaf."""

    kind: Kind
    peer: str
    flow: str
    stage: int
    round: int
    model: bytes = b""


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """What a gate enforces beside the rules in its code. frames: bytes of one at most; uploads: of all, None: any."""

    study: str
    frames: int
    uploads: int | None
    content_tests: bool

    def to_bytes(self) -> bytes:
        """JSON, one encoding: its SHA-256 is in every leaf."""
        return json.encode(self)

    @classmethod
    def of(cls, study: Study, uploads: int | None, content_tests: bool) -> Policy:
        return cls(study.digest().hex(), frame_limit(study), uploads, content_tests)


class Scribe:
    """Writes the leaves of one gate. The caller says which place a leaf takes."""

    def __init__(self, policy: Policy) -> None:
        self._policy = hashlib.sha256(policy.to_bytes()).digest()
        self._code = code()

    def sent(
        self, seq: int, told: Told, size: int, ciphertext: bytes, plaintext: bytes, shapes: Sequence[tuple[int, ...]]
    ) -> Entry:
        """size, ciphertext: bytes and SHA-256 of what is handed to the transport."""
        nonce = os.urandom(NONCE_SIZE)
        leaf = Sent(
            1, seq, told.kind, told.peer, told.flow, told.stage, told.round, tuple(shapes), size, ciphertext,
            commitment(nonce, plaintext), told.model, NO_BUDGET, self._policy, self._code,
        )  # fmt: skip
        return Entry(encode_leaf(leaf), nonce)

    def refused(self, seq: int, told: Told, reason: Reason, arrays: State) -> Entry:
        """arrays: what did not leave, whatever it is: a leaf says of it what has room."""
        nonce = os.urandom(NONCE_SIZE)
        shapes = () if reason is Reason.SCHEMA else shapes_of(arrays)  # those are the trainer's own words
        raw = b"".join(arrays[name].tobytes() for name in sorted(arrays) if arrays[name].dtype != np.object_)
        leaf = Refused(
            1, seq, told.kind, told.peer, told.flow, told.stage, told.round, shapes, len(raw), reason,
            commitment(nonce, raw), NO_BUDGET, self._policy, self._code,
        )  # fmt: skip
        return Entry(encode_leaf(leaf), nonce)


def received(seq: int, told: Told, size: int, ciphertext: bytes) -> Entry:
    """That this node took a message."""
    leaf: Leaf = Received(1, seq, told.kind, told.peer, told.flow, told.stage, told.round, size, ciphertext, told.model)
    return Entry(encode_leaf(leaf))


def shapes_of(arrays: State) -> tuple[tuple[int, ...], ...]:
    """In the order of the arrays' names, as much as a leaf takes."""
    shapes = (arrays[name].shape[:MAXIMUM_RANK] for name in sorted(arrays))
    return tuple(shapes)[:MAXIMUM_SHAPES]


@cache
def code() -> bytes:
    """Digest of the release that this process runs (`sbom.release`)."""
    return bytes.fromhex(release())
