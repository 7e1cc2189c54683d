"""What one secure sum costs one site in bytes, by the protocol: messages of the right form, encoded, in frames.

All sites of the study stay to its end. A mean over sites: who is low in the cohort makes more offers and gets fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import msgspec

from fedsecure.config import Study
from fedsecure.node import sum_terms
from fedsecure.node.sum_terms import Ground
from fedsecure.types import Flow, Schema
from keys.hybrid import PUBLIC_SIZE
from keys.identity import SIGNATURE_SIZE
from protocols.codec import encode
from protocols.envelope import Header
from protocols.messages import Message, kind_of
from protocols.secagg.messages import (
    BUNDLE_SIZE,
    OFFER_SIZE,
    AdvertiseKeys,
    AgreedResult,
    ConsistencyCheck,
    Held,
    KeyDigest,
    Keyset,
    MaskedInput,
    RelayShares,
    ResultAgreement,
    SecAggOpen,
    ShareKeys,
    SharesFor,
    Signed,
    SumResult,
    Survivors,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.shamir import SHARE_SIZE

_DIGEST: Final = b"\0" * 32
_SIGNATURE: Final = b"\0" * SIGNATURE_SIZE
_PUBLIC: Final = b"\0" * PUBLIC_SIZE
_HEADER_LENGTH: Final = 2
_NUMBER: Final = 1 << 32  # of a frame: 9 bytes, as all are after a node's first start
_COORDINATOR: Final = "coordinator"


@dataclass(frozen=True, slots=True)
class SumBytes:
    """Of one site. vector: the frame with its masked vector; up, down: all other frames, keys, shares, signatures."""

    vector: float
    up: float
    down: float


def sum_bytes(study: Study, flows: Sequence[Flow], model: Schema, target: Schema = ()) -> SumBytes:
    """flows: in the vector's order. model: what weights are of; target: of a target network, if one is predicted.

    Raises ValueError for a ring that is too small for the study's sites.
    """
    ground = Ground(0, 0, _DIGEST, model, target, {"target": _DIGEST} if target else {})
    expected = sum_terms.expected(study, ground, flows, _DIGEST)
    opened = SecAggOpen(sum_terms.manifest(expected, 0, _DIGEST), _SIGNATURE)
    n, names = len(study.sites), [member.name for member in study.sites]
    k = opened.manifest.neighbours or n - 1
    up, down = _from_site(k), _to_site(opened, n, k)
    dealt = [_dealt(k // 2, k), _dealt(-(-k // 2), k)]  # the mean of two where half of k is none
    relayed = [_relayed(k // 2, k, n), _relayed(-(-k // 2), k, n)]
    packed = -(-sum(part.length for part in expected.flows) * study.security.ring // 8)
    return SumBytes(
        vector=_framed(MaskedInput(_DIGEST, bytes(packed)), names),
        up=sum(_framed(message, names) for message in up) + fmean(_framed(message, names) for message in dealt),
        down=sum(_framed(message, names) for message in down) + fmean(_framed(message, names) for message in relayed),
    )


def _from_site(k: int) -> tuple[Message, ...]:
    held = tuple(Held(rank, b"\0" * SHARE_SIZE) for rank in range(k + 1))
    return (
        _advertised(k), ConsistencyCheck(_DIGEST, _SIGNATURE), UnmaskShares(_DIGEST, held, ()),
        ResultAgreement(_DIGEST, _SIGNATURE),
    )  # fmt: skip


def _to_site(opened: SecAggOpen, n: int, k: int) -> tuple[Message, ...]:
    signed = tuple(Signed(rank, _SIGNATURE) for rank in range(n))
    digests = tuple(KeyDigest(rank, _DIGEST) for rank in range(n))
    return (
        opened, Keyset(_DIGEST, _DIGEST, digests, tuple(map(_advertised, range(k)))),
        Survivors(_DIGEST, tuple(range(n)), ()), UnmaskRequest(_DIGEST, signed),
        SumResult(_DIGEST, _DIGEST, _SIGNATURE), AgreedResult(_DIGEST, signed),
    )  # fmt: skip


def _advertised(rank: int) -> AdvertiseKeys:
    return AdvertiseKeys(rank, _DIGEST, _PUBLIC, _PUBLIC, _DIGEST, _SIGNATURE)


def _dealt(me: int, k: int) -> ShareKeys:
    """By whom has `me` of its k neighbours below it: to each an entry, and one to itself."""
    return ShareKeys(_DIGEST, tuple(_entry(me, holder) for holder in range(k + 1)))


def _relayed(me: int, k: int, n: int) -> RelayShares:
    return RelayShares(_DIGEST, tuple(range(n)), tuple(_entry(dealer, me) for dealer in range(k + 1) if dealer != me))


def _entry(dealer: int, holder: int) -> SharesFor:
    sealed = b"" if dealer == holder else b"\0" * BUNDLE_SIZE
    offer = b"\0" * OFFER_SIZE if dealer < holder else b""
    return SharesFor(dealer, holder, sealed, offer, _DIGEST, _DIGEST, _SIGNATURE)


def _framed(message: Message, names: Sequence[str]) -> float:
    """Bytes of the frame, mean over the sites' names."""
    body = encode(message)
    headers = (Header(1, kind_of(message), _DIGEST, name, _COORDINATOR, _NUMBER, len(body), _DIGEST) for name in names)
    return len(body) + SIGNATURE_SIZE + _HEADER_LENGTH + fmean(len(msgspec.msgpack.encode(each)) for each in headers)
