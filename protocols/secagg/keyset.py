"""The keys of one sum: what a site advertises, and the mask keys that follow.

A site draws three secrets for one sum and forgets them with it:

    mask   hybrid key; the pairwise masks follow from it. Shared out: opened if the site drops out
    self   32 bytes; the site's own mask follows from it. Shared out: opened if the site stays
    seal   hybrid key; what is dealt to the site is sealed to it. Shared with nobody
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.msgpack import Encoder

from keys import hybrid
from keys.encoding import prefixed, u64
from keys.errors import CannotOpen
from keys.hybrid import SEED_SIZE, HybridKey
from keys.identity import Identity, PublicIdentity
from keys.kdf import derive
from protocols.secagg.manifest import Cohort
from protocols.secagg.messages import AdvertiseKeys

ADVERTISE_LABEL: Final = b"fedsecure/secagg/advertise-keys/v1"
_DIGEST_LABEL: Final = b"fedsecure/secagg/advertise-keys/digest/v1"
_KEYSET_LABEL: Final = b"fedsecure/secagg/keyset/v1"
_SEED_LABEL: Final = b"fedsecure/secagg/seed/commitment/v1"
_OFFER_LABEL: Final = b"fedsecure/secagg/offer/v1"
_PAIR_LABEL: Final = b"fedsecure/secagg/mask/pair/v1"
_SELF_LABEL: Final = b"fedsecure/secagg/mask/self/v1"

_ENCODER: Final = Encoder()


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """32 bytes each."""

    mask: bytes
    self_seed: bytes
    seal: bytes

    def __repr__(self) -> str:
        return "Secrets(...)"


def draw_secrets(entropy: Callable[[int], bytes]) -> Secrets:
    return Secrets(entropy(SEED_SIZE), entropy(SEED_SIZE), entropy(SEED_SIZE))


def advertisement(secrets: Secrets, cohort: Cohort, rank: int, identity: Identity) -> AdvertiseKeys:
    """Signed by the site for this manifest and this rank alone."""
    mask, seal = HybridKey(secrets.mask).public, HybridKey(secrets.seal).public
    committed = seed_commitment(secrets.self_seed, cohort.digest, rank)
    data = _advertised(cohort.digest, rank, mask, seal, committed)
    return AdvertiseKeys(rank, cohort.digest, mask, seal, committed, identity.sign(ADVERTISE_LABEL, data))


def verify_advertisement(message: AdvertiseKeys, author: PublicIdentity) -> None:
    """Raises InvalidSignature unless `author` signed it, ValueError if he signed keys that are none."""
    data = _advertised(message.manifest, message.rank, message.mask, message.seal, message.seed_commitment)
    author.verify(ADVERTISE_LABEL, data, message.signature)
    for key in (message.mask, message.seal):
        hybrid.require_sound(key)
    if message.mask == message.seal:
        raise ValueError("one key for two uses: opening the masks would open the shares")


def advertisement_digest(message: AdvertiseKeys) -> bytes:
    """SHA-256 over a label and the canonical encoding, signature included; 32 bytes."""
    return hashlib.sha256(prefixed(_DIGEST_LABEL, _ENCODER.encode(message))).digest()


def keyset_digest(manifest: bytes, opening: bytes, digests: Iterable[tuple[int, bytes]]) -> bytes:
    """What names a keyset: the manifest, the graph's opening, and all advertisements, ascending by rank."""
    entries = (part for rank, digest in digests for part in (u64(rank), digest))
    return hashlib.sha256(prefixed(_KEYSET_LABEL, manifest, opening, *entries)).digest()


def seed_commitment(seed: bytes, manifest: bytes, rank: int) -> bytes:
    """The seed is uniform, so that its hash hides it."""
    return hashlib.sha256(prefixed(_SEED_LABEL, manifest, u64(rank), seed)).digest()


def offer(mask_secret: bytes, keyset: bytes, lower: int, higher: int) -> bytes:
    """The lower rank's post-quantum part of a pair's key: 32 bytes that follow from its secret and go sealed to the
    higher one, so that each of the two secrets gives it to whoever puts one together."""
    return derive(mask_secret, _OFFER_LABEL, keyset, u64(lower), u64(higher))


def offer_info(keyset: bytes, lower: int, higher: int) -> bytes:
    """HPKE's context of an offer."""
    return prefixed(_OFFER_LABEL, keyset, u64(lower), u64(higher))


def pair_key(cohort: Cohort, keyset: bytes, exchanged: bytes, offered: bytes, one: int, other: int) -> bytes:
    """The mask key of a pair; 32 bytes. exchanged: X25519 of both mask keys. Secret while one of both is."""
    lower, higher = (cohort.names[rank].encode() for rank in sorted((one, other)))
    return derive(exchanged + offered, _PAIR_LABEL, *cohort.binding, keyset, lower, higher)


def self_key(cohort: Cohort, keyset: bytes, seed: bytes, rank: int) -> bytes:
    """The key of a site's own mask; 32 bytes."""
    return derive(seed, _SELF_LABEL, *cohort.binding, keyset, cohort.names[rank].encode())


def pair_keys(
    cohort: Cohort, keyset: bytes, secret: bytes, rank: int, peers: Mapping[int, tuple[bytes, bytes]]
) -> dict[int, bytes]:
    """The mask keys of one site with each of its peers, from the site's mask secret alone.

    peers: rank -> (public mask key, sealed offer; empty where `rank` is the lower one).
    Raises CannotOpen, with the peer's rank in `.args[1]`, if a peer's offer does not open.
    """
    key = HybridKey(secret)
    result: dict[int, bytes] = {}
    for peer, (public, sealed) in peers.items():
        lower = rank < peer
        offered = offer(secret, keyset, rank, peer) if lower else _opened(key, sealed, keyset, peer, rank)
        result[peer] = pair_key(cohort, keyset, key.exchange(public), offered, rank, peer)
    return result


def split_signs(keys: Mapping[int, bytes], rank: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """(added, subtracted) by the site `rank`: it adds the masks it shares with higher ranks."""
    return (
        tuple(key for peer, key in sorted(keys.items()) if peer > rank),
        tuple(key for peer, key in sorted(keys.items()) if peer < rank),
    )


def _opened(key: HybridKey, sealed: bytes, keyset: bytes, lower: int, higher: int) -> bytes:
    try:
        offered = key.open(sealed, offer_info(keyset, lower, higher))
    except CannotOpen as error:
        raise CannotOpen(*error.args, lower) from None
    return offered


def _advertised(manifest: bytes, rank: int, mask: bytes, seal: bytes, committed: bytes) -> bytes:
    return prefixed(manifest, u64(rank), mask, seal, committed)
