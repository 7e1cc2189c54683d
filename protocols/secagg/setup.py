"""A site's steps from keys to masks: share_keys and accept_shares. Every check here is on what another site signed."""

from __future__ import annotations

import os
from collections.abc import Callable

from keys.errors import CannotOpen, InvalidSignature
from keys.hybrid import HybridKey
from keys.identity import Identity
from protocols.errors import (
    BadShare,
    BadSignature,
    CannotDecrypt,
    Inconsistent,
    Malformed,
    TooFew,
    UnexpectedMessage,
    UnknownPeer,
)
from protocols.secagg.graph import commitment, least_present, neighbours_of
from protocols.secagg.keyset import (
    advertisement_digest,
    keyset_digest,
    pair_keys,
    self_key,
    split_signs,
    verify_advertisement,
)
from protocols.secagg.messages import AdvertiseKeys, Keyset, RelayShares, ShareKeys, SharesFor
from protocols.secagg.shares import Pair, deal, open_shares, verify_shares
from protocols.secagg.states import Advertised, Keyed, Opened, Shared


def share_keys(
    state: Advertised, message: Keyset, identity: Identity, entropy: Callable[[int], bytes] = os.urandom
) -> tuple[Shared, ShareKeys]:
    """Deal both secrets to the neighbours that the graph gives. Raises a FaultyPeer, TooFew; RuntimeError if they were
    dealt before.

    A neighbour that advertised for another manifest is dropped here, before anything is masked: it was sent another
    model, seed or target, and by its own signature says so. `Shared.blamed` says whom to blame: log it.
    """
    opened, coordinator = state.opened, state.opened.coordinator
    cohort, manifest = opened.cohort, opened.cohort.manifest
    # 1. It is of this sum, and the graph's seed is the one committed to before keys were seen.
    if message.manifest != cohort.digest:
        raise UnexpectedMessage(coordinator, "a keyset is of the manifest that the site advertised for")
    if commitment(message.opening) != manifest.graph:
        raise Inconsistent(coordinator, "the graph is opened as the manifest committed to it")
    # 2. The keyset is of members of the cohort, with this site's own keys in it.
    digests = {entry.rank: entry.digest for entry in message.digests}
    if any(rank >= len(cohort) for rank in digests):
        raise Malformed(coordinator, "a keyset is of members of the cohort")
    if not {cohort.names[rank] for rank in digests} <= set(opened.roster.sites):
        raise UnknownPeer(coordinator, "keys are of sites of the roster")  # of the study, but revoked since
    if digests.get(opened.me) != advertisement_digest(state.message):
        raise Inconsistent(coordinator, "a site's keys are in the keyset as it advertised them")
    _require_left("AdvertiseKeys", len(digests), least_present(len(cohort), manifest.threshold))
    # 3. The advertisements are those of the neighbours, signed by them.
    keyset = keyset_digest(cohort.digest, message.opening, sorted(digests.items()))
    mine = neighbours_of(opened.me, digests, manifest.neighbours, keyset, message.opening)
    if {entry.rank for entry in message.advertisements} != mine:
        raise Inconsistent(coordinator, "a site is sent the advertisements of its neighbours in the graph")
    for entry in message.advertisements:
        _check_advertisement(entry, digests[entry.rank], opened)
    # 4. No key stands twice: a reflected key would make two masks cancel.
    public = [key for entry in (*message.advertisements, state.message) for key in (entry.mask, entry.seal)]
    if len(set(public)) != len(public):
        raise Malformed(coordinator, "no two keys of a keyset are the same")
    # 5. Enough of them are of this manifest.
    peers = {entry.rank: entry for entry in message.advertisements if entry.manifest == cohort.digest}
    _require_left("AdvertiseKeys", len(peers) + 1, manifest.holders)
    state.once.use()
    kept, entries = deal(state.secrets, opened.me, peers, manifest.holders, keyset, identity, entropy)
    shared = Shared(opened, state.secrets, keyset, frozenset(digests), peers, mine - peers.keys(), kept)
    return shared, ShareKeys(keyset, entries)


def accept_shares(state: Shared, message: RelayShares) -> Keyed:
    """Take the shares that neighbours dealt, and derive all mask keys. Raises a FaultyPeer, TooFew; RuntimeError if
    they were derived before."""
    opened, coordinator, keyset = state.opened, state.opened.coordinator, state.keyset
    if message.keyset != keyset:
        raise UnexpectedMessage(coordinator, "shares are of the keyset that the site is in")
    # 1. Who shared is in the keyset, this site among them, nobody with another manifest, and enough are left.
    sharers = frozenset(message.sharers)
    if not {opened.me} <= sharers <= state.present - state.strangers:
        raise Inconsistent(coordinator, "those who shared keys advertised them, for this manifest")
    _require_left("ShareKeys", len(sharers), opened.cohort.manifest.threshold)
    dealers = sharers & state.peers.keys()
    if {entry.dealer for entry in message.shares} != dealers:
        raise Inconsistent(coordinator, "a site is sent the shares of all its neighbours that shared")
    _require_left("ShareKeys", len(dealers) + 1, opened.cohort.manifest.holders)
    # 2. Each dealer dealt this, to this site, and it fits what the dealer committed to.
    seal, held = HybridKey(state.secrets.seal), {opened.me: state.kept}
    for entry in message.shares:
        held[entry.dealer] = _accepted(entry, state, seal)
    # 3. Mask keys: with every neighbour that shared, and the site's own.
    peers = {entry.dealer: (state.peers[entry.dealer].mask, entry.offer) for entry in message.shares}
    try:
        pairs = pair_keys(opened.cohort, keyset, state.secrets.mask, opened.me, peers)
    except CannotOpen as error:
        raise CannotDecrypt(opened.cohort.names[error.args[1]], "an offer opens for the higher rank") from None
    state.once.use()
    plus, minus = split_signs(pairs, opened.me)
    own = self_key(opened.cohort, keyset, state.secrets.self_seed, opened.me)
    return Keyed(opened, keyset, sharers, held, (own, *plus), minus)


def _check_advertisement(entry: AdvertiseKeys, digest: bytes, opened: Opened) -> None:
    author = opened.cohort.names[entry.rank]
    if advertisement_digest(entry) != digest:
        raise Inconsistent(opened.coordinator, "an advertisement has the digest that the keyset says")
    try:
        verify_advertisement(entry, opened.roster.members[author])
    except InvalidSignature:
        # The coordinator must check before it passes on, so that what arrives wrong was made wrong by it.
        raise BadSignature(opened.coordinator, "keys are signed by the site whose they are") from None
    except ValueError:
        raise Malformed(author, "an advertised key is a sound key, and for one use") from None


def _accepted(entry: SharesFor, state: Shared, seal: HybridKey) -> Pair:
    opened = state.opened
    author = opened.cohort.names[entry.dealer]
    if entry.holder != opened.me:
        raise Inconsistent(opened.coordinator, "a site is sent the shares that were dealt to it")
    try:
        verify_shares(entry, state.keyset, opened.roster.members[author])
    except InvalidSignature:
        raise BadSignature(opened.coordinator, "shares are signed by their dealer for this keyset") from None
    try:
        return open_shares(entry, state.keyset, seal)
    except CannotOpen:
        raise CannotDecrypt(author, "shares open for their holder") from None
    except ValueError:
        raise BadShare(author, "a share is the one that its dealer committed to") from None


def _require_left(step: str, left: int, least: int) -> None:
    if left < least:
        raise TooFew(step, left, least)
