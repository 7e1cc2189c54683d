"""Opening the sum: secrets put together from shares, the masks that follow, and their removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keys.errors import CannotOpen
from keys.hybrid import HybridKey
from protocols.errors import BadShare, CannotDecrypt, TooFew
from protocols.ring import Masks, Words, add_packed
from protocols.secagg.keyset import pair_keys, seed_commitment, self_key, split_signs
from protocols.secagg.manifest import Cohort
from protocols.secagg.server import Unmasking
from protocols.secagg.shares import recover


@dataclass(frozen=True, slots=True, repr=False)
class OpenedMasks:
    """Mask keys of 32 bytes that are in the sum of the survivors' vectors with either sign."""

    added: tuple[bytes, ...]
    subtracted: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"OpenedMasks({len(self.added)}, {len(self.subtracted)})"


def open_masks(state: Unmasking) -> OpenedMasks:
    """The self masks of all survivors, and what is left of the pairwise masks with those who dropped out.

    Raises TooFew if a secret has too few shares. Raises BadShare(dealer) if a secret is not the one that its dealer
    advertised, CannotDecrypt(dealer) if an offer does not open: the dealer is to blame for a sum that cannot be made.
    """
    masking = state.masking
    known, least = masking.sum, masking.sum.cohort.manifest.holders
    for dealer in masking.shares:
        found = (state.seeds if dealer in masking.survivors else state.keys).get(dealer, {})
        # A dropout none of whose neighbours is a survivor has left no mask in the sum.
        if len(found) < least and (dealer in masking.survivors or known.graph[dealer] & masking.survivors):
            raise TooFew("Unmask", len(found), least)
    added = [_self_key(state, survivor, least) for survivor in sorted(masking.survivors)]
    subtracted: list[bytes] = []
    for dropped in sorted(masking.shares.keys() - masking.survivors):
        if known.graph[dropped] & masking.survivors:
            plus, minus = split_signs(_pair_keys(state, dropped, least), dropped)
            # What the dropout would have added, survivors have subtracted.
            added += minus
            subtracted += plus
    return OpenedMasks(tuple(added), tuple(subtracted))


def sum_vectors(cohort: Cohort, vectors: Iterable[bytes]) -> Words:
    """The sum of packed vectors, still masked; of words, see `protocols.ring`. One vector at a time is in memory."""
    total = cohort.ring.words(cohort.length)
    for vector in vectors:
        add_packed(cohort.ring, total, vector)
    return total


def remove_masks(cohort: Cohort, total: Words, masks: OpenedMasks) -> None:
    """In place; what is left are the survivors' integers modulo 2^bits (`ring.signed` reads them)."""
    streams = Masks(cohort.ring, masks.subtracted, masks.added)
    for start, stop in cohort.ring.chunks(cohort.length):
        streams.apply(total[start:stop])


def _self_key(state: Unmasking, survivor: int, least: int) -> bytes:
    known = state.masking.sum
    seed = _recovered(state, survivor, state.seeds[survivor], least)
    committed = state.masking.keys[survivor].seed_commitment
    if seed_commitment(seed, known.cohort.digest, survivor) != committed:
        raise BadShare(known.name(survivor), "the shares of a seed are of the seed that was committed to")
    return self_key(known.cohort, known.keyset, seed, survivor)


def _pair_keys(state: Unmasking, dropped: int, least: int) -> Mapping[int, bytes]:
    masking = state.masking
    known = masking.sum
    secret = _recovered(state, dropped, state.keys[dropped], least)
    if HybridKey(secret).public != masking.keys[dropped].mask:
        raise BadShare(known.name(dropped), "the shares of a mask key are of the key that was advertised")
    peers = {
        peer: (masking.keys[peer].mask, masking.shares[peer][dropped].offer)
        for peer in known.graph[dropped] & masking.survivors
    }
    try:
        return pair_keys(known.cohort, known.keyset, secret, dropped, peers)
    except CannotOpen as error:
        raise CannotDecrypt(known.name(error.args[1]), "an offer opens for the higher rank") from None


def _recovered(state: Unmasking, dealer: int, shares: Mapping[int, bytes], least: int) -> bytes:
    try:
        return recover(shares, least)
    except ValueError:
        raise BadShare(state.masking.sum.name(dealer), "shares that fit their commitments give a secret") from None
