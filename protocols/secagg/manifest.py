"""What a sum is about, and what a site checks before it takes part.

A site computes itself whatever it can (`Expected`) and compares: also who is in the cohort, which is all sites
of the study. How many may fail it holds against floors of its own. The coordinator can only ask for more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from msgspec.msgpack import Encoder

from keys.encoding import prefixed, u64
from keys.errors import InvalidSignature
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import BadSignature, BelowFloor, Inconsistent, UnknownPeer
from protocols.ring import Ring
from protocols.secagg.graph import degree
from protocols.secagg.messages import CohortMember, FlowPart, Input, Manifest, SecAggOpen

MANIFEST_LABEL: Final = b"fedsecure/secagg/manifest/v1"

_ENCODER: Final = Encoder()


def assumed_corrupted(sites: int) -> int:
    """Sites that are taken to work together with the coordinator, whatever it says: one, or one in five."""
    return max(1, (sites - 1) // 5)


def least_threshold(sites: int, corrupted: int) -> int:
    """The smallest t of which no two sets, t of `sites` each, have only corrupted sites in common: 2t > n + c."""
    return (sites + corrupted) // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """A site's own settings, below which it takes part in nothing.

    known: sites whose keys its operator verified; least_known: how many of them must be among the survivors besides the
    site itself, at least 1, so that puppets count for nothing. sites: least n. corrupted: least c. attempts: most sums
    begun for one round. sums: most sums answered in a study. With 5 sites and 1 that drops out no survivor reads
    another; with 3 it does. regroups: how many sums of a study may be of other survivors than an earlier sum of the
    same model, of which nothing came. Their difference shows who left to whoever got the first one open all the same,
    and noise alone hides it: of sums without noise it is none.

    Raises ValueError unless 0 < least_known <= len(known).
    """

    known: frozenset[str]
    least_known: int = 1
    sites: int = 5
    corrupted: int = 1
    attempts: int = 3
    sums: int = 1000
    regroups: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.least_known <= len(self.known):
            raise ValueError("a site sums with at least one site whose keys its operator verified")

    def know_enough(self, sites: Iterable[str], me: str) -> bool:
        """Whether enough of `sites` are verified, the site itself not counted."""
        return len(self.known.intersection(sites) - {me}) >= self.least_known


@dataclass(frozen=True, slots=True)
class Expected:
    """What the site knows of the sum by itself; the fields of the manifest that they must equal.

    initial: digest of the model with which the manifest's stage begins: the study's first one, or what the site makes
    of the last result by the study's rule. weights: of all sites of the study, who are the cohort of each of its sums.
    Reals are the manifest's 8 bytes, computed by the site from the study.
    """

    study: bytes
    stage: int
    round: int
    model: bytes
    inputs: tuple[Input, ...]
    flows: tuple[FlowPart, ...]
    ring: int
    clip: bytes
    step: bytes
    noise: bytes
    budget: bytes
    schema: bytes
    terms: bytes
    code: bytes
    initial: bytes
    weights: Mapping[str, int]


_COMPUTED: Final = (
    "study", "stage", "round", "model", "inputs", "flows", "ring", "clip", "step", "noise", "budget", "schema",
    "terms", "code",
)  # fmt: skip


class Cohort:
    """Reading aids for one manifest: digest, names and ranks, ring, length."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.names = tuple(member.site for member in manifest.cohort)
        self.rank = {name: rank for rank, name in enumerate(self.names)}
        self.ring = Ring(manifest.ring)
        self.length = sum(part.length for part in manifest.flows)

    @cached_property
    def digest(self) -> bytes:
        return manifest_digest(self.manifest)

    @cached_property
    def binding(self) -> tuple[bytes, ...]:
        """What mask keys are bound to besides keyset and names: manifest, flows, ring, length, attempt."""
        flows = prefixed(*(part for flow in self.manifest.flows for part in (flow.flow.encode(), u64(flow.length))))
        return self.digest, flows, u64(self.manifest.ring), u64(self.length), u64(self.manifest.attempt)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Cohort(sites={len(self.names)})"


def manifest_digest(manifest: Manifest) -> bytes:
    """SHA-256 over a label and the canonical encoding; 32 bytes."""
    return hashlib.sha256(prefixed(MANIFEST_LABEL, _ENCODER.encode(manifest))).digest()


def sign_manifest(manifest: Manifest, coordinator: Identity) -> SecAggOpen:
    """The coordinator's word for it. Raises ValueError for a manifest that no honest site accepts."""
    n, rank = len(manifest.cohort), manifest.corrupted
    if not least_threshold(n, rank) <= manifest.threshold <= n:
        raise ValueError(f"{n} sites of which {rank} may be corrupted need a threshold of {least_threshold(n, rank)}")
    return SecAggOpen(manifest, coordinator.sign(MANIFEST_LABEL, manifest_digest(manifest)))


def check_manifest(message: SecAggOpen, *, expected: Expected, floors: Floors, roster: Roster, me: str) -> Cohort:
    """Everything a site must know before it advertises a key. Raises a FaultyPeer that blames the coordinator."""
    manifest, coordinator = message.manifest, roster.coordinator
    # 1. The coordinator signed it.
    try:
        roster.members[coordinator].verify(MANIFEST_LABEL, manifest_digest(manifest), message.signature)
    except InvalidSignature:
        raise BadSignature(coordinator, "a manifest is signed by the coordinator") from None
    # 2. It says of the round what the site finds by itself: study, model, every tensor and seed, grid, noise, code.
    for field in _COMPUTED:
        if getattr(manifest, field) != getattr(expected, field):
            raise Inconsistent(coordinator, f"the manifest's {field} is what the site received or computed itself")
    # 3. The cohort is the whole study with its weights, so that n, c and t are the study's: of a smaller cohort, chosen
    # round a victim, c + 1 sites could be corrupted, and of disjoint ones each would give a sum. Who is late drops out.
    if manifest.cohort != tuple(CohortMember(name, weight) for name, weight in sorted(expected.weights.items())):
        raise Inconsistent(coordinator, "a cohort is all sites of the study, with its weights")
    if me not in expected.weights:
        raise UnknownPeer(coordinator, "a site is asked for the sums of studies that it is in")
    # 4. It is large enough, and there are enough in it whom this site knows and who were not revoked.
    _check_numbers(manifest, floors, coordinator)
    if not floors.know_enough(set(expected.weights).intersection(roster.sites), me):
        raise BelowFloor(coordinator, "a cohort has as many sites that this one verified as it demands")
    return Cohort(manifest)


def _check_numbers(manifest: Manifest, floors: Floors, coordinator: str) -> None:
    n, c = len(manifest.cohort), manifest.corrupted
    if n < floors.sites:
        raise BelowFloor(coordinator, f"a cohort has at least {floors.sites} sites here")
    if c < max(floors.corrupted, assumed_corrupted(n)):
        raise BelowFloor(coordinator, "a manifest allows for as many corrupted sites as this one does")
    if not least_threshold(n, c) <= manifest.threshold <= n:
        raise BelowFloor(coordinator, "a threshold is above half of all sites and the corrupted ones")
    if manifest.attempt >= floors.attempts:
        raise BelowFloor(coordinator, f"a round is begun at most {floors.attempts} times here")
    try:
        wanted = degree(n, c, manifest.threshold)
    except ValueError:
        raise BelowFloor(coordinator, "there is no graph for so many corrupted sites") from None
    if (manifest.neighbours, manifest.holders) != (wanted.neighbours, wanted.holders):
        raise BelowFloor(coordinator, "the graph is that of the cohort, the corrupted sites and the threshold")
