"""What is said during one sum, in the order in which it is said (SPEC.md). Members have their rank in the cohort.

secagg-open  advertise-keys  keyset  share-keys  relay-shares  masked-input  survivors  consistency-check
unmask-request  unmask-shares  sum-result  result-agreement  agreed-result
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from keys.hybrid import OVERHEAD, PUBLIC_SIZE
from protocols.fields import MAXIMUM_MEMBERS, Count, Digest, Name, Signature, Wire, require_ascending
from protocols.shamir import SECRET_SIZE, SHARE_SIZE

BUNDLE_SIZE = 2 * SHARE_SIZE + OVERHEAD  # a share of each of the two secrets, sealed
OFFER_SIZE = SECRET_SIZE + OVERHEAD

Rank = Annotated[int, Meta(ge=0, lt=MAXIMUM_MEMBERS)]  # place in the manifest's cohort
Ranks = Annotated[tuple[Rank, ...], Meta(max_length=MAXIMUM_MEMBERS)]
Positive = Annotated[int, Meta(ge=1, lt=2**31)]
Real = Annotated[bytes, Meta(min_length=8, max_length=8)]  # little-endian IEEE 754 binary64
HybridPublic = Annotated[bytes, Meta(min_length=PUBLIC_SIZE, max_length=PUBLIC_SIZE)]
Share = Annotated[bytes, Meta(min_length=SHARE_SIZE, max_length=SHARE_SIZE)]
Seed = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Input(Wire, frozen=True):
    """One thing that every site of a round receives or derives, by name: a model, a target network, a seed."""

    name: Name
    digest: Digest


class FlowPart(Wire, frozen=True):
    """A stretch of the vector. Flows of a round are concatenated: one keyset masks one vector."""

    flow: Name
    length: Positive


class CohortMember(Wire, frozen=True):
    """A site of the cohort and the weight of its vector, a constant that nobody learns anything from."""

    site: Name
    weight: Positive


class Manifest(Wire, frozen=True):
    """All that one sum depends on. Its digest is in every key, share and signature of the sum.

    attempt: 0, 1, ... of the round. inputs, cohort: ascending by name. corrupted: sites that may work together with
    the coordinator. neighbours: degree of the graph, 0 for the complete one; holders: shares that open a secret.
    clip, step: of the quantiser, in the units of the vector; noise: standard deviation of the sum's; budget: epsilon
    after this sum. terms: SHA-256 of the study's privacy settings; code: of the version; graph: of the opening.
    """

    study: Digest
    stage: Count
    round: Count
    attempt: Count
    model: Digest
    inputs: Annotated[tuple[Input, ...], Meta(max_length=MAXIMUM_MEMBERS)]
    flows: Annotated[tuple[FlowPart, ...], Meta(min_length=1, max_length=16)]
    ring: Literal[16, 20, 24, 32]
    cohort: Annotated[tuple[CohortMember, ...], Meta(min_length=1, max_length=MAXIMUM_MEMBERS)]
    threshold: Positive
    corrupted: Count
    neighbours: Count
    holders: Positive
    clip: Real
    step: Real
    noise: Real
    budget: Real
    schema: Digest
    terms: Digest
    code: Digest
    graph: Digest

    def __post_init__(self) -> None:
        require_ascending([part.name for part in self.inputs])
        require_ascending([member.site for member in self.cohort])
        if len({part.flow for part in self.flows}) != len(self.flows):
            raise ValueError("a flow stands once")


class SecAggOpen(Wire, frozen=True, tag="secagg-open"):
    """Coordinator: let us make this sum."""

    manifest: Manifest
    signature: Signature


class AdvertiseKeys(Wire, frozen=True, tag="advertise-keys"):
    """Site: my keys for this sum. mask: for masks, given away if I drop out; seal: for shares, given to nobody."""

    rank: Rank
    manifest: Digest
    mask: HybridPublic
    seal: HybridPublic
    seed_commitment: Digest
    signature: Signature


class KeyDigest(Wire, frozen=True):
    rank: Rank
    digest: Digest


class Keyset(Wire, frozen=True, tag="keyset"):
    """Coordinator: who advertised, the opening of the graph, and the advertisements of your neighbours."""

    manifest: Digest
    opening: Seed
    digests: Annotated[tuple[KeyDigest, ...], Meta(max_length=MAXIMUM_MEMBERS)]
    advertisements: Annotated[tuple[AdvertiseKeys, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending([entry.rank for entry in self.digests])
        require_ascending([entry.rank for entry in self.advertisements])


class SharesFor(Wire, frozen=True):
    """One holder's shares of one dealer's secrets. What a dealer holds of itself it does not send: `sealed` is empty.

    offer: the dealer's part of the pair's mask key, sealed; empty unless the dealer's rank is below the holder's.
    """

    dealer: Rank
    holder: Rank
    sealed: Annotated[bytes, Meta(max_length=BUNDLE_SIZE)]
    offer: Annotated[bytes, Meta(max_length=OFFER_SIZE)]
    seed_commitment: Digest
    key_commitment: Digest
    signature: Signature

    def __post_init__(self) -> None:
        if len(self.sealed) != (0 if self.dealer == self.holder else BUNDLE_SIZE):
            raise ValueError("shares are sealed for another, and only for another")
        if len(self.offer) != (OFFER_SIZE if self.dealer < self.holder else 0):
            raise ValueError("the lower rank of a pair makes the offer")


class ShareKeys(Wire, frozen=True, tag="share-keys"):
    """Site: shares of my two secrets, one entry for each of my neighbours and one for myself."""

    keyset: Digest
    shares: Annotated[tuple[SharesFor, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending([entry.holder for entry in self.shares])


class RelayShares(Wire, frozen=True, tag="relay-shares"):
    """Coordinator: who shared, and what those among them who are your neighbours dealt to you."""

    keyset: Digest
    sharers: Ranks
    shares: Annotated[tuple[SharesFor, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending(self.sharers)
        require_ascending([entry.dealer for entry in self.shares])


class MaskedInput(Wire, frozen=True, tag="masked-input"):
    """Site: my vector and all my masks, packed."""

    keyset: Digest
    vector: bytes


class Survivors(Wire, frozen=True, tag="survivors"):
    """Coordinator: whose vectors are in the sum, and who shared keys and dropped out."""

    keyset: Digest
    survivors: Ranks
    dropped: Ranks

    def __post_init__(self) -> None:
        require_ascending(self.survivors)
        require_ascending(self.dropped)


class ConsistencyCheck(Wire, frozen=True, tag="consistency-check"):
    """Site: I was told these survivors."""

    keyset: Digest
    signature: Signature


class Signed(Wire, frozen=True):
    rank: Rank
    signature: Signature


class UnmaskRequest(Wire, frozen=True, tag="unmask-request"):
    """Coordinator: so many were told the same; open one secret of each."""

    keyset: Digest
    signatures: Annotated[tuple[Signed, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending([entry.rank for entry in self.signatures])


class Held(Wire, frozen=True):
    """A share of `dealer`'s."""

    dealer: Rank
    share: Share


class UnmaskShares(Wire, frozen=True, tag="unmask-shares"):
    """Site: shares of the survivors' self-mask seeds, and of the mask keys of those who dropped out."""

    keyset: Digest
    seeds: Annotated[tuple[Held, ...], Meta(max_length=MAXIMUM_MEMBERS)]
    keys: Annotated[tuple[Held, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending([entry.dealer for entry in self.seeds])
        require_ascending([entry.dealer for entry in self.keys])


class SumResult(Wire, frozen=True, tag="sum-result"):
    """Coordinator: what I publish from the sum has this digest."""

    keyset: Digest
    result: Digest
    signature: Signature


class ResultAgreement(Wire, frozen=True, tag="result-agreement"):
    """Site: I was told this result."""

    keyset: Digest
    signature: Signature


class AgreedResult(Wire, frozen=True, tag="agreed-result"):
    """Coordinator: so many were told the same result."""

    keyset: Digest
    signatures: Annotated[tuple[Signed, ...], Meta(max_length=MAXIMUM_MEMBERS)]

    def __post_init__(self) -> None:
        require_ascending([entry.rank for entry in self.signatures])
