"""Two secrets of a dealer, dealt to its neighbours and itself: sealed, committed to, signed; and put together again.

The commitments go to the coordinator and to the holder, signed with the sealed share. So a holder finds out at once
that it was dealt another share than the dealer says, and the coordinator that a holder passes on another than it got.
Shares that fit their commitments and no polynomial are found when they are put together: the secret is then not the one
whose public key, or hash, was advertised, and the dealer is to blame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from keys import hybrid
from keys.encoding import prefixed, u64
from keys.hybrid import HybridKey
from keys.identity import Identity, PublicIdentity
from protocols.secagg.keyset import Secrets, offer, offer_info
from protocols.secagg.messages import AdvertiseKeys, SharesFor
from protocols.shamir import SHARE_SIZE, combine, parse_share, secret_bytes, share_bytes, split

SHARES_LABEL: Final = b"fedsecure/secagg/share-keys/v1"
_BUNDLE_LABEL: Final = b"fedsecure/secagg/bundle/v1"
_COMMITMENT_LABEL: Final = b"fedsecure/secagg/share/commitment/v1"
SEED: Final = b"seed"  # of the self mask
KEY: Final = b"key"  # of the pairwise masks


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """What one holder has of one dealer: a share of each secret, of which it gives away exactly one. 33 bytes each."""

    seed: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Pair(...)"


def deal(
    secrets: Secrets, dealer: int, holders: Mapping[int, AdvertiseKeys], threshold: int, keyset: bytes,
    identity: Identity, entropy: Callable[[int], bytes],
) -> tuple[Pair, tuple[SharesFor, ...]]:  # fmt: skip
    """What the dealer keeps, and what it sends: an entry for each of `holders` and one for itself, by rank.

    holders: rank -> verified advertisement, without the dealer's. threshold: shares that open a secret.
    """
    points = {rank: rank + 1 for rank in (*holders, dealer)}  # a share at 0 would be the secret
    seeds = split(int.from_bytes(secrets.self_seed, "big"), points.values(), threshold, entropy)
    keys = split(int.from_bytes(secrets.mask, "big"), points.values(), threshold, entropy)
    entries = []
    for holder, point in sorted(points.items()):
        pair = Pair(share_bytes(seeds[point]), share_bytes(keys[point]))
        sealed = offered = b""
        if holder == dealer:
            kept = pair
        else:
            sealed = hybrid.seal(holders[holder].seal, pair.seed + pair.key, bundle_info(keyset, dealer, holder))
        if dealer < holder:
            info = offer_info(keyset, dealer, holder)
            offered = hybrid.seal(holders[holder].mask, offer(secrets.mask, keyset, dealer, holder), info)
        entry = SharesFor(
            dealer, holder, sealed, offered, share_commitment(SEED, pair.seed, keyset, dealer, holder),
            share_commitment(KEY, pair.key, keyset, dealer, holder), bytes(64),
        )  # fmt: skip
        entries.append(_signed(entry, keyset, identity))
    return kept, tuple(entries)


def verify_shares(entry: SharesFor, keyset: bytes, dealer: PublicIdentity) -> None:
    """Raises InvalidSignature unless the dealer signed this for this keyset and holder. Needs no private key."""
    dealer.verify(SHARES_LABEL, _signed_data(entry, keyset), entry.signature)


def open_shares(entry: SharesFor, keyset: bytes, seal: HybridKey) -> Pair:
    """Raises CannotOpen if it is not sealed to this holder here, ValueError if it does not fit its commitments."""
    raw = seal.open(entry.sealed, bundle_info(keyset, entry.dealer, entry.holder))
    pair = Pair(raw[:SHARE_SIZE], raw[SHARE_SIZE:])
    require_fits(SEED, pair.seed, entry, keyset)
    require_fits(KEY, pair.key, entry, keyset)
    return pair


def require_fits(which: bytes, share: bytes, entry: SharesFor, keyset: bytes) -> None:
    """Raises ValueError unless `share` is an element of the field, and the one that the dealer committed to."""
    parse_share(share)
    committed = entry.seed_commitment if which == SEED else entry.key_commitment
    if share_commitment(which, share, keyset, entry.dealer, entry.holder) != committed:
        raise ValueError("not the share that its dealer committed to")


def share_commitment(which: bytes, share: bytes, keyset: bytes, dealer: int, holder: int) -> bytes:
    """SHA-256; hides, because a share is uniform for whoever has too few of them."""
    return hashlib.sha256(prefixed(_COMMITMENT_LABEL, which, keyset, u64(dealer), u64(holder), share)).digest()


def recover(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of 32 bytes from shares by holder, of which the `threshold` lowest ranks are used.

    Raises ValueError for fewer, or if no secret comes out: shares of no polynomial.
    """
    if len(shares) < threshold:
        raise ValueError("fewer shares than open a secret")
    used = sorted(shares)[:threshold]
    return secret_bytes(combine({holder + 1: parse_share(shares[holder]) for holder in used}))


def bundle_info(keyset: bytes, dealer: int, holder: int) -> bytes:
    """HPKE's context of a pair of shares."""
    return prefixed(_BUNDLE_LABEL, keyset, u64(dealer), u64(holder))


def _signed(entry: SharesFor, keyset: bytes, identity: Identity) -> SharesFor:
    signature = identity.sign(SHARES_LABEL, _signed_data(entry, keyset))
    return SharesFor(
        entry.dealer, entry.holder, entry.sealed, entry.offer, entry.seed_commitment, entry.key_commitment, signature
    )


def _signed_data(entry: SharesFor, keyset: bytes) -> bytes:
    return prefixed(
        keyset, u64(entry.dealer), u64(entry.holder), entry.sealed, entry.offer, entry.seed_commitment,
        entry.key_commitment,
    )  # fmt: skip
