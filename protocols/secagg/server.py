"""The coordinator's steps: take what a site sends, close a step, go on with whoever answered in time.

    open_sum  take_keys*  close_keys  take_shares*  close_shares  take_vector*  close_vectors  take_check*
    close_checks  take_unmask*  open_masks  remove_masks  publish_result  take_agreement*  close_agreement

`take_*` raises a FaultyPeer that blames the sender and changes nothing: that site is treated as if it had been silent.
`close_*` raises TooFew if the sum cannot be made any more; then nothing of it was opened. Vectors are the caller's to
keep (they are large); here stands only whose are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from keys.errors import InvalidSignature
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import BadShare, BadSignature, Inconsistent, Malformed, TooFew, UnexpectedMessage
from protocols.ring import require_packed
from protocols.secagg.client import AGREEMENT_LABEL, RESULT_LABEL, SURVIVORS_LABEL, result_data
from protocols.secagg.graph import commitment, least_present, neighbours
from protocols.secagg.keyset import advertisement_digest, keyset_digest, verify_advertisement
from protocols.secagg.manifest import Cohort, sign_manifest
from protocols.secagg.messages import (
    AdvertiseKeys,
    AgreedResult,
    ConsistencyCheck,
    KeyDigest,
    Keyset,
    Manifest,
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
from protocols.secagg.shares import KEY, SEED, require_fits, verify_shares
from protocols.secagg.states import survivors_data


@dataclass(frozen=True, slots=True)
class Sum:
    """What stays the same during one sum. opening: 32 uniform bytes, part of the graph's seed, told after the keys."""

    cohort: Cohort
    roster: Roster
    opening: bytes
    keyset: bytes = b""
    graph: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def name(self, rank: int) -> str:
        return self.cohort.names[rank]

    def rank(self, sender: str) -> int:
        """Raises UnexpectedMessage(sender) for a site outside the cohort."""
        if sender not in self.cohort.rank:
            raise UnexpectedMessage(sender, "only the cohort takes part in a sum")
        return self.cohort.rank[sender]

    def __repr__(self) -> str:
        return "Sum()"


@dataclass(frozen=True, slots=True)
class Advertising:
    sum: Sum
    keys: Mapping[int, AdvertiseKeys] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Sharing:
    sum: Sum
    keys: Mapping[int, AdvertiseKeys] = field(repr=False)
    shares: Mapping[int, Mapping[int, SharesFor]] = field(default_factory=dict, repr=False)  # dealer -> holder -> entry


@dataclass(frozen=True, slots=True)
class Masking:
    sum: Sum
    keys: Mapping[int, AdvertiseKeys] = field(repr=False)
    shares: Mapping[int, Mapping[int, SharesFor]] = field(repr=False)
    survivors: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Checking:
    """data: what survivors sign who were told the same."""

    masking: Masking
    data: bytes = field(repr=False)
    signatures: Mapping[int, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Unmasking:
    """seeds, keys: dealer -> holder -> share."""

    masking: Masking
    seeds: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict, repr=False)
    keys: Mapping[int, Mapping[int, bytes]] = field(default_factory=dict, repr=False)
    answered: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Agreeing:
    sum: Sum
    survivors: frozenset[int]
    result: bytes
    signatures: Mapping[int, bytes] = field(default_factory=dict, repr=False)


def open_sum(
    manifest: Manifest, opening: bytes, roster: Roster, coordinator: Identity
) -> tuple[Advertising, SecAggOpen]:
    """opening: 32 fresh bytes from the operating system. Raises ValueError if the manifest did not commit to them."""
    if commitment(opening) != manifest.graph:
        raise ValueError("the manifest commits to another opening")
    return Advertising(Sum(Cohort(manifest), roster, opening)), sign_manifest(manifest, coordinator)


def take_keys(state: Advertising, sender: str, message: AdvertiseKeys) -> Advertising:
    """Raises a FaultyPeer(sender)."""
    rank = _once(state.sum, sender, state.keys)
    if message.rank != rank or message.manifest != state.sum.cohort.digest:
        raise Inconsistent(sender, "a site advertises under its own rank, for the manifest of the sum")
    try:
        verify_advertisement(message, state.sum.roster.members[sender])
    except InvalidSignature:
        raise BadSignature(sender, "keys are signed by the site whose they are") from None
    except ValueError:
        raise Malformed(sender, "an advertised key is a sound key, and for one use") from None
    others = {key for other in state.keys.values() for key in (other.mask, other.seal)}
    if others & {message.mask, message.seal}:
        raise Malformed(sender, "no two keys of a keyset are the same")
    return replace(state, keys={**state.keys, rank: message})


def close_keys(state: Advertising) -> tuple[Sharing, dict[str, Keyset]]:
    """What to send to whom. Raises TooFew."""
    cohort, keys = state.sum.cohort, dict(sorted(state.keys.items()))
    manifest = cohort.manifest
    _require_left("AdvertiseKeys", len(keys), least_present(len(cohort), manifest.threshold))
    digests = tuple(KeyDigest(rank, advertisement_digest(message)) for rank, message in keys.items())
    keyset = keyset_digest(cohort.digest, state.sum.opening, [(entry.rank, entry.digest) for entry in digests])
    graph = neighbours(keys, manifest.neighbours, keyset, state.sum.opening)
    known = replace(state.sum, keyset=keyset, graph=graph)
    messages = {
        known.name(rank): Keyset(
            cohort.digest, known.opening, digests, tuple(keys[other] for other in sorted(graph[rank]))
        )
        for rank in keys
    }
    return Sharing(known, keys), messages


def take_shares(state: Sharing, sender: str, message: ShareKeys) -> Sharing:
    """Raises a FaultyPeer(sender)."""
    rank = _once(state.sum, sender, state.shares)
    _require_keyset(state.sum, sender, message.keyset)
    holders = state.sum.graph.get(rank, frozenset()) | {rank}
    if {entry.holder for entry in message.shares} != holders or any(entry.dealer != rank for entry in message.shares):
        raise Inconsistent(sender, "a site deals to its neighbours and itself")
    try:
        for entry in message.shares:
            verify_shares(entry, state.sum.keyset, state.sum.roster.members[sender])
    except InvalidSignature:
        raise BadSignature(sender, "shares are signed by their dealer for this keyset") from None
    return replace(state, shares={**state.shares, rank: {entry.holder: entry for entry in message.shares}})


def close_shares(state: Sharing) -> tuple[Masking, dict[str, RelayShares]]:
    """What to send to whom. Raises TooFew."""
    known, sharers = state.sum, tuple(sorted(state.shares))
    _require_left("ShareKeys", len(sharers), known.cohort.manifest.threshold)
    messages = {
        known.name(rank): RelayShares(
            known.keyset, sharers,
            tuple(state.shares[dealer][rank] for dealer in sharers if dealer in known.graph[rank]),
        )
        for rank in sharers
    }  # fmt: skip
    return Masking(known, state.keys, state.shares), messages


def take_vector(state: Masking, sender: str, message: MaskedInput) -> Masking:
    """The vector is well-formed and of whoever shared keys. The caller keeps it. Raises a FaultyPeer(sender)."""
    rank = _once(state.sum, sender, state.survivors)
    _require_keyset(state.sum, sender, message.keyset)
    if rank not in state.shares:
        raise UnexpectedMessage(sender, "a vector is of a site that shared its keys")
    try:
        require_packed(state.sum.cohort.ring, state.sum.cohort.length, message.vector)
    except ValueError:
        raise Malformed(sender, "a masked vector has the manifest's length and ring") from None
    return replace(state, survivors=state.survivors | {rank})


def close_vectors(state: Masking) -> tuple[Checking, Survivors]:
    """The survivors, for each of them. Raises TooFew."""
    known, survivors = state.sum, state.survivors
    _require_left("MaskedInput", len(survivors), known.cohort.manifest.threshold)
    dropped = frozenset(state.shares) - survivors
    data = survivors_data(known.cohort, known.keyset, survivors, dropped)
    return Checking(state, data), Survivors(known.keyset, tuple(sorted(survivors)), tuple(sorted(dropped)))


def take_check(state: Checking, sender: str, message: ConsistencyCheck) -> Checking:
    """Raises a FaultyPeer(sender)."""
    rank = _survivor(state.masking, sender, state.signatures)
    _require_keyset(state.masking.sum, sender, message.keyset)
    try:
        state.masking.sum.roster.members[sender].verify(SURVIVORS_LABEL, state.data, message.signature)
    except InvalidSignature:
        raise BadSignature(sender, "a survivor signs the survivors that it was told") from None
    return replace(state, signatures={**state.signatures, rank: message.signature})


def close_checks(state: Checking) -> tuple[Unmasking, UnmaskRequest]:
    """The request, for each who signed. Raises TooFew."""
    known = state.masking.sum
    _require_left("ConsistencyCheck", len(state.signatures), known.cohort.manifest.threshold)
    signatures = tuple(Signed(rank, signature) for rank, signature in sorted(state.signatures.items()))
    return Unmasking(state.masking), UnmaskRequest(known.keyset, signatures)


def take_unmask(state: Unmasking, sender: str, message: UnmaskShares) -> Unmasking:
    """Raises a FaultyPeer(sender): BadShare for a share that is not the one dealt."""
    masking = state.masking
    known, sharers = masking.sum, frozenset(masking.shares)
    rank = _survivor(masking, sender, state.answered)
    _require_keyset(known, sender, message.keyset)
    dealers = sharers & (known.graph[rank] | {rank})
    if {held.dealer for held in message.seeds} != dealers & masking.survivors:
        raise Inconsistent(sender, "a survivor gives the seed's share of each survivor that dealt to it")
    if {held.dealer for held in message.keys} != dealers - masking.survivors:
        raise Inconsistent(sender, "a survivor gives the mask key's share of each dropout that dealt to it")
    try:
        for which, entries in ((SEED, message.seeds), (KEY, message.keys)):
            for held in entries:
                require_fits(which, held.share, masking.shares[held.dealer][rank], known.keyset)
    except ValueError:
        raise BadShare(sender, "a survivor gives the shares that it was dealt") from None
    return replace(
        state,
        seeds=_filed(state.seeds, rank, {held.dealer: held.share for held in message.seeds}),
        keys=_filed(state.keys, rank, {held.dealer: held.share for held in message.keys}),
        answered=state.answered | {rank},
    )


def publish_result(state: Unmasking, result: bytes, coordinator: Identity) -> tuple[Agreeing, SumResult]:
    """result: SHA-256 of what is published from the sum, for example the next model."""
    known = state.masking.sum
    signature = coordinator.sign(RESULT_LABEL, result_data(known.cohort.digest, known.keyset, result))
    return Agreeing(known, state.masking.survivors, result), SumResult(known.keyset, result, signature)


def take_agreement(state: Agreeing, sender: str, message: ResultAgreement) -> Agreeing:
    """Raises a FaultyPeer(sender)."""
    rank = _once(state.sum, sender, state.signatures)
    _require_keyset(state.sum, sender, message.keyset)
    if rank not in state.survivors:
        raise UnexpectedMessage(sender, "only survivors go on with a sum")
    data = result_data(state.sum.cohort.digest, state.sum.keyset, state.result)
    try:
        state.sum.roster.members[sender].verify(AGREEMENT_LABEL, data, message.signature)
    except InvalidSignature:
        raise BadSignature(sender, "a survivor signs the result that it was told") from None
    return replace(state, signatures={**state.signatures, rank: message.signature})


def close_agreement(state: Agreeing) -> AgreedResult:
    """For each survivor. Raises TooFew: the result stands, but nobody can say that all were told the same."""
    _require_left("ResultAgreement", len(state.signatures), state.sum.cohort.manifest.threshold)
    signatures = tuple(Signed(rank, signature) for rank, signature in sorted(state.signatures.items()))
    return AgreedResult(state.sum.keyset, signatures)


def _once(known: Sum, sender: str, done: Iterable[int]) -> int:
    rank = known.rank(sender)
    if rank in done:
        raise UnexpectedMessage(sender, "a site answers a step once")
    return rank


def _survivor(masking: Masking, sender: str, done: Iterable[int]) -> int:
    rank = _once(masking.sum, sender, done)
    if rank not in masking.survivors:
        raise UnexpectedMessage(sender, "only survivors go on with a sum")
    return rank


def _require_keyset(known: Sum, sender: str, keyset: bytes) -> None:
    if keyset != known.keyset:
        raise UnexpectedMessage(sender, "a message is of the keyset of the sum")


def _require_left(step: str, left: int, least: int) -> None:
    if left < least:
        raise TooFew(step, left, least)


def _filed(
    all_: Mapping[int, Mapping[int, bytes]], holder: int, shares: Mapping[int, bytes]
) -> Mapping[int, Mapping[int, bytes]]:
    """dealer -> holder -> share, with the shares of one more holder."""
    return {**all_, **{dealer: {**all_.get(dealer, {}), holder: share} for dealer, share in shares.items()}}
