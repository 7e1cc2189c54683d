"""How a training round ends at the coordinator: models and target networks out of what the store holds.

    models/<stage>-<round>.safetensors       the model that a round begins with
    targets/<stage>-<round>.safetensors      its target network, where that is no part of the model
    prototypes/<stage>-<round>.f32           the sum it begins with, of what sites released for one in the round before
    updates/<stage>-<round>/<site>.<flow>    what the sites released in it
    updates/<stage>-<round>/+.<flow>         in their place, of a secure sum: float64, each times its site's weight

A pure function of these files and the study, so that what a kill interrupted comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedsecure.config import Study
from fedsecure.learning import prototypes, sparse, target
from fedsecure.learning.distance import bound, too_far
from fedsecure.learning.fedavg import average, moved
from fedsecure.node.store import Store
from fedsecure.packing import LARGEST, Malformed, pack_model, pack_vector, unpack_model, unpack_vector
from fedsecure.plan import makes_target, opens_with_sum, summed
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


def whole_file(stage: int, round_: int, flow: Flow) -> str:
    """No site's name has a plus in it."""
    return update_file(stage, round_, "+", flow)


class Averaging:
    """One training round's end. `sites` whose weights cannot be used are refused and left out of everything."""

    def __init__(
        self, store: Store, study: Study, stage: int, round_: int, sites: tuple[str, ...], refuse: Refuse
    ) -> None:
        self._store, self._study, self._stage, self._round, self._refuse = store, study, stage, round_, refuse
        self._weights = {member.name: member.weight for member in study.sites}
        self._start = unpack_model(store.read(model_file(stage, round_)))
        self._places: sparse.Places | None = None
        if study.sparse.period > 1:
            self._places = sparse.places(study, stage, round_, schema_of(self._start))
        self._secure = Flow.WEIGHTS in summed(study, stage, round_)
        self._deltas = [] if self._secure else self._usable(sites, Flow.WEIGHTS, schema_of(self._moving()))
        self._sites = sites if self._secure else tuple(site for site, _, _ in self._deltas)

    def finish(self, targets: bool) -> Averaged | None:
        """FedAvg of the weights; the target predicted or, with `targets`, measured. None if no site can be used."""
        if not self._sites:
            return None
        end = self.end()
        if not makes_target(self._study, self._stage, self._round):
            return Averaged(pack_model(end), b"", None, False)
        predicted = self._predicted(end)
        true = self.true_target() if targets else None
        if true is None:
            return Averaged(pack_model(end), pack_model(predicted), None, False)
        distance = target.relative_distance(true, predicted)
        corrected = too_far(self._study.pretrain, distance)
        return Averaged(pack_model(end), pack_model(true if corrected else predicted), distance, corrected)

    def end(self) -> Tensors:
        """The model that the round ends in, of its weights alone."""
        start = self._moving()
        end = moved(start, self._whole(Flow.WEIGHTS), self._weight()) if self._secure else average(start, self._deltas)
        return end if self._places is None else sparse.renewed(self._start, end[sparse.VALUES], self._places)

    def _moving(self) -> Tensors:
        """What of the model moves in this round: all of it, or the values at its coordinates."""
        return self._start if self._places is None else sparse.part_of(self._start, self._places)

    def true_target(self) -> Tensors | None:
        """The mean of the sites' own targets over the sites of the weights; None unless all of them can be used."""
        held = self._target(self._round)
        if self._secure:
            return moved(held, self._whole(Flow.TARGET), self._weight())
        deltas = self._usable(self._sites, Flow.TARGET, schema_of(held))
        return average(held, deltas) if len(deltas) == len(self._deltas) else None

    def _whole(self, flow: Flow) -> npt.NDArray[np.float64]:
        return np.frombuffer(self._store.read(whole_file(self._stage, self._round, flow)), "<f8")

    def _weight(self) -> int:
        return sum(self._weights[site] for site in self._sites)

    def prototypes(self) -> bytes:
        """The sum of the sites' prototypes over the sites of the weights, packed. A vector that cannot be used is
        refused and left out. Empty where the next round opens with none."""
        if not opens_with_sum(self._study, self._stage, self._round + 1):
            return b""
        if self._secure:
            return pack_vector({prototypes.NAME: self._whole(Flow.PROTOTYPE_SUM).astype(np.float32)})
        usable = self._usable(self._sites, Flow.PROTOTYPE_SUM, prototypes.schema(self._study))
        if not usable:
            return b""
        whole = prototypes.total([(site, vector[prototypes.NAME]) for site, _, vector in usable])
        return pack_vector({prototypes.NAME: whole})

    def bound(self) -> float:
        """R2's bound from the sites' scores. A score that cannot be used counts as the largest there is: all send."""
        if not self._sites:
            return 0.0  # the round cannot be averaged, with targets or without
        predicted = self._predicted(self.end())
        return bound([(self._weights[site], self._score(site)) for site in self._sites], predicted)

    def _predicted(self, end: Tensors) -> Tensors:
        held = self._target(self._round)
        earlier = self._round > 0 and self._store.has(target_file(self._stage, self._round - 1))
        before = self._target(self._round - 1) if earlier else held
        return target.predict(target.mix_of(self._study.pretrain), held, self._start, end, before)

    def _target(self, round_: int) -> Tensors:
        return unpack_model(self._store.read(target_file(self._stage, round_)))

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
