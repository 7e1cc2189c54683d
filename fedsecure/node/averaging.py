"""How a training round ends at the coordinator: models and target networks out of what the store holds.

    models/<stage>-<round>.safetensors       the model that a round begins with
    targets/<stage>-<round>.safetensors      its target network, where that is no part of the model
    prototypes/<stage>-<round>.f32           the sum it begins with, of what sites released for one in the round before
    updates/<stage>-<round>/<site>.<flow>    what the sites released in it

A pure function of these files and the study, so that what a kill interrupted comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedsecure.config import Study
from fedsecure.learning import prototypes, target
from fedsecure.learning.distance import bound, too_far
from fedsecure.learning.fedavg import average
from fedsecure.node.store import Store
from fedsecure.packing import LARGEST, Malformed, pack_model, pack_vector, unpack_model, unpack_vector
from fedsecure.plan import makes_target, opens_with_sum
from fedsecure.types import Flow, Schema, Tensors, TensorSpec, schema_of

Refuse = Callable[[str, str], None]  # who sent what cannot be used, and why

_DISTANCE = (TensorSpec("distance", (1,)),)


class Averaged(NamedTuple):
    """What a round ended with, packed. `target` is empty where it has none; `distance` is None if not measured."""

    model: bytes
    target: bytes
    distance: float | None
    corrected: bool


def model_file(stage: int, round_: int) -> str:
    return f"models/{stage}-{round_}.safetensors"


def target_file(stage: int, round_: int) -> str:
    return f"targets/{stage}-{round_}.safetensors"


def sum_file(stage: int, round_: int) -> str:
    return f"prototypes/{stage}-{round_}.f32"


def update_file(stage: int, round_: int, site: str, flow: Flow) -> str:
    return f"updates/{stage}-{round_}/{site}.{flow}"


class Averaging:
    """One training round's end. `sites` whose weights cannot be used are refused and left out of everything."""

    def __init__(
        self, store: Store, study: Study, stage: int, round_: int, sites: tuple[str, ...], refuse: Refuse
    ) -> None:
        self._store, self._study, self._stage, self._round, self._refuse = store, study, stage, round_, refuse
        self._weights = {member.name: member.weight for member in study.sites}
        self._start = unpack_model(store.read(model_file(stage, round_)))
        self._deltas = self._usable(sites, Flow.WEIGHTS, schema_of(self._start))

    def finish(self, targets: bool) -> Averaged | None:
        """FedAvg of the weights; the target predicted or, with `targets`, measured. None if no site can be used."""
        if not self._deltas:
            return None
        end = average(self._start, self._deltas)
        if not makes_target(self._study, self._stage, self._round):
            return Averaged(pack_model(end), b"", None, False)
        predicted = self._predicted(end)
        true = self._true_target() if targets else None
        if true is None:
            return Averaged(pack_model(end), pack_model(predicted), None, False)
        distance = target.relative_distance(true, predicted)
        corrected = too_far(self._study.pretrain, distance)
        return Averaged(pack_model(end), pack_model(true if corrected else predicted), distance, corrected)

    def prototypes(self) -> bytes:
        """The sum of the sites' prototypes over the sites of the weights, packed. A vector that cannot be used is
        refused and left out. Empty where the next round opens with none."""
        if not opens_with_sum(self._study, self._stage, self._round + 1):
            return b""
        sites = tuple(site for site, _, _ in self._deltas)
        usable = self._usable(sites, Flow.PROTOTYPE_SUM, prototypes.schema(self._study))
        if not usable:
            return b""
        whole = prototypes.total([(site, vector[prototypes.NAME]) for site, _, vector in usable])
        return pack_vector({prototypes.NAME: whole})

    def bound(self) -> float:
        """R2's bound from the sites' scores. A score that cannot be used counts as the largest there is: all send."""
        if not self._deltas:
            return 0.0  # the round cannot be averaged, with targets or without
        predicted = self._predicted(average(self._start, self._deltas))
        return bound([(weight, self._score(site)) for site, weight, _ in self._deltas], predicted)

    def _predicted(self, end: Tensors) -> Tensors:
        held = self._target(self._round)
        earlier = self._round > 0 and self._store.has(target_file(self._stage, self._round - 1))
        before = self._target(self._round - 1) if earlier else held
        return target.predict(target.mix_of(self._study.pretrain), held, self._start, end, before)

    def _target(self, round_: int) -> Tensors:
        return unpack_model(self._store.read(target_file(self._stage, round_)))

    def _true_target(self) -> Tensors | None:
        """The mean of the sites' own targets over the sites of the weights; None unless all of them can be used."""
        held = self._target(self._round)
        deltas = self._usable(tuple(site for site, _, _ in self._deltas), Flow.TARGET, schema_of(held))
        return average(held, deltas) if len(deltas) == len(self._deltas) else None

    def _usable(self, sites: tuple[str, ...], flow: Flow, schema: Schema) -> list[tuple[str, int, Tensors]]:
        usable = []
        for site in sites:
            try:
                delta = unpack_vector(self._store.read(update_file(self._stage, self._round, site, flow)), schema)
            except Malformed as error:
                self._refuse(site, f"{flow}: {error}")
                continue
            usable.append((site, self._weights[site], delta))
        return usable

    def _score(self, site: str) -> float:
        raw = self._store.read(update_file(self._stage, self._round, site, Flow.DISTANCE))
        try:
            score = float(unpack_vector(raw, _DISTANCE)["distance"][0])
        except Malformed as error:
            self._refuse(site, f"{Flow.DISTANCE}: {error}")
            return LARGEST
        if score < 0:
            self._refuse(site, f"{Flow.DISTANCE}: below zero")
            return LARGEST
        return score
