"""What the manifest of a secure sum says of a study, computed alike by coordinator and sites from what each holds."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from fedsecure.config import Study, SumFloors
from fedsecure.errors import SettingsError
from fedsecure.greeting import software
from fedsecure.learning import prototypes
from fedsecure.privacy.summing import grid_of
from fedsecure.types import Flow, Schema, schema_size
from keys.encoding import prefixed
from protocols.secagg.graph import commitment, degree
from protocols.secagg.manifest import Expected, Floors, assumed_corrupted, least_threshold
from protocols.secagg.messages import CohortMember, FlowPart, Input, Manifest

_SCHEMA: Final = b"fedsecure/sums/schema/v1"
_TERMS: Final = b"fedsecure/sums/terms/v1"
_CODE: Final = b"fedsecure/sums/code/v1"


class Ground(NamedTuple):
    """What a sum of a round stands on. inputs: name -> what came with the model or follows from it, or its digest."""

    stage: int
    round: int
    model_digest: bytes
    schema: Schema
    target_schema: Schema
    inputs: Mapping[str, bytes]


def lengths_of(study: Study, ground: Ground, flows: Sequence[Flow]) -> tuple[tuple[Flow, int], ...]:
    """Values of each flow, in the order of the vector."""
    schemas = {
        Flow.WEIGHTS: ground.schema, Flow.TARGET: ground.target_schema, Flow.PROTOTYPE_SUM: prototypes.schema(study)
    }  # fmt: skip
    return tuple((flow, schema_size(schemas[flow])) for flow in flows)


def expected(study: Study, ground: Ground, flows: Sequence[Flow], initial: bytes) -> Expected:
    """initial: digest of the stage's first model."""
    parts = tuple(FlowPart(flow, length) for flow, length in lengths_of(study, ground, flows))
    inputs = tuple(Input(name, hashlib.sha256(raw).digest()) for name, raw in sorted(ground.inputs.items()))
    specs = (part for spec in ground.schema for part in (spec.name.encode(), msgspec.json.encode(spec.shape)))
    place = (ground.stage, ground.round)
    return _expected(study, place, ground.model_digest, inputs, parts, _digest(_SCHEMA, *specs), initial)


def vouched(study: Study, of: Manifest, initial: bytes) -> Expected:
    """Of a sum of a round that a site has not seen. What is peculiar to the round the t sites vouch for that were told
    of its result, and the chain of models; the rest follows from the study."""
    return _expected(study, (of.stage, of.round), of.model, of.inputs, of.flows, of.schema, initial)


def _expected(
    study: Study, place: tuple[int, int], model: bytes, inputs: tuple[Input, ...], flows: tuple[FlowPart, ...],
    schema: bytes, initial: bytes,
) -> Expected:  # fmt: skip
    return Expected(
        study=study.digest(), stage=place[0], round=place[1], model=model, inputs=inputs, flows=flows,
        ring=study.security.ring, clip=_real(study.security.clip),
        step=_real(grid_of(study, [part.length for part in flows]).step), noise=_real(0.0), budget=_real(math.inf),
        schema=schema, terms=_digest(_TERMS, msgspec.json.encode(study.privacy.model_dump(mode="json"))),
        code=_digest(_CODE, software().encode()), initial=initial,
        weights={member.name: member.weight for member in study.sites},
    )  # fmt: skip


def manifest(of: Expected, attempt: int, opening: bytes) -> Manifest:
    """What an honest coordinator asks for. opening: 32 fresh bytes that the manifest commits to."""
    sites = len(of.weights)
    corrupted = assumed_corrupted(sites)
    threshold = least_threshold(sites, corrupted)
    graph = degree(sites, corrupted, threshold)
    return Manifest(
        study=of.study, stage=of.stage, round=of.round, attempt=attempt, model=of.model, inputs=of.inputs,
        flows=of.flows, ring=of.ring,  # type: ignore[arg-type]  # the study's, which has the same values
        cohort=tuple(CohortMember(name, weight) for name, weight in sorted(of.weights.items())), threshold=threshold,
        corrupted=corrupted, neighbours=graph.neighbours, holders=graph.holders, clip=of.clip, step=of.step,
        noise=of.noise, budget=of.budget, schema=of.schema, terms=of.terms, code=of.code, graph=commitment(opening),
    )  # fmt: skip


def floors_of(settings: SumFloors, verified: frozenset[str]) -> Floors:
    """A site's own. verified: whose keys its operator has verified; a roster may name others, who count for nothing
    here. Raises SettingsError if these are fewer than the settings ask for."""
    if len(verified) < settings.known:
        raise SettingsError(
            f"sums.known asks for {settings.known} sites whose keys this site verified, and it verified "
            f"{len(verified)}: verify more of them (fedsecure roster verify), or ask for fewer"
        )
    return Floors(
        known=verified, least_known=settings.known, sites=settings.sites, corrupted=settings.corrupted,
        attempts=settings.attempts, sums=settings.sums,
    )  # fmt: skip


def _real(value: float) -> bytes:
    return struct.pack("<d", value)


def _digest(label: bytes, *parts: bytes) -> bytes:
    return hashlib.sha256(prefixed(label, *parts)).digest()
