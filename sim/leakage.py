"""`fedsecure audit leaks`: every leaky trainer that we know against the gate and its content tests, in one table.

Honest updates come from real training of the study's method on phantom patients; each leaky trainer spoils each round
of it, with another volume each time. What is not found is in the table with its rate, and beside it how much the update
could carry and how much a volume holds.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from fedsecure.audit import capacity
from fedsecure.audit.tap import Tap, reference
from fedsecure.config import SecuritySettings, Site, Study, load
from fedsecure.egress import Gate, RoundContext
from fedsecure.errors import GateRefused
from fedsecure.node.store import Store
from fedsecure.node.workbench import load_cohort
from fedsecure.packing import in_order, pack_bank
from fedsecure.types import Bank, Cohort, Flow, Update, schema_of, schema_size
from keys.identity import Identity
from sim.leaks import ADDING_UP, KNOWN_MISSES, LIKENESS_ALONE, TRAINERS, honest_rounds
from sim.world import World, build, site_folder

CONTENT, SCHEMA, DROPPED, NOBODY = "content tests", "schema", "not sent", ""
_PATIENTS: Final = 5
_SIZE: Final = 96  # pixels of a phantom


class Row(NamedTuple):
    """One trainer. caught_by: what stopped it in most rounds. bits: what an update would have carried, median."""

    leak: str
    rounds: int
    caught: int
    caught_by: str
    bits: float

    @property
    def as_known(self) -> bool:
        """Whether it was stopped in every round; where likeness alone finds it, in half of them; where parts add up,
        in every one but the first; or is one of those that no test of content stops."""
        enough = self.rounds / 2 if self.leak in LIKENESS_ALONE else self.rounds - (self.leak in ADDING_UP)
        return self.caught >= enough or self.leak in KNOWN_MISSES


class Leakage(NamedTuple):
    """clean: updates of honest rounds; false_alarms: those of them that were refused. capacity_bits: of one update, by
    its format: this version adds no noise. volume_bits: of one volume, median."""

    rows: tuple[Row, ...]
    clean: int
    false_alarms: int
    capacity_bits: float
    volume_bits: float

    @property
    def passed(self) -> bool:
        return not self.false_alarms and all(row.as_known for row in self.rows)


def leakage(study: Study, run: Path, rounds: int) -> Leakage:
    """Try all of `sim.leaks` on `rounds` rounds. run: a new folder. Raises SettingsError, DataError."""
    world = World(source=None, sites=2, scheme="random", phantom_patients=_PATIENTS, phantom_size=_SIZE)
    pretrain = study.pretrain.model_copy(
        update={"rounds": rounds + 1, "local_steps": 1, "batch": 8, "bank": 64, "exchange": "vectors"}
    )
    # Two sites are enough, and no sums: the content tests look at the same floats before they are masked
    update = {"sites": (), "framework": "fcl", "start": "pretrain", "encoder": None, "pretrain": pretrain,
              "release_metrics": True, "security": SecuritySettings(secagg=False)}  # fmt: skip
    study = build(world, study.model_copy(update=update), run, run / "cache", lambda _: None)
    folder = site_folder(run, study.sites[0].name)
    cohort = load_cohort(folder, study, load(Site, (folder / "site.json").read_bytes()))
    return _against(study, run, cohort, list(honest_rounds(study, cohort, rounds)))


def _against(study: Study, run: Path, cohort: Cohort, honest: list[dict[Flow, Update]]) -> Leakage:
    images = [volume.image for subject in (*cohort.train, *cohort.held_out) for volume in subject.volumes]
    known = reference(images)
    count = sum(map(len, honest))
    tap, false_alarms = Tap(known, count), 0
    for updates in honest:
        for update in updates.values():
            false_alarms += _refused(tap, update)
    rows = []
    for number, (name, (flow, trainer)) in enumerate(TRAINERS.items()):
        gate = _Exit(study, run / f"gate-{number}")
        tap = Tap(known, count)
        by: list[str] = []
        bits: list[float] = []
        for round_, updates in enumerate(honest):
            carrier = updates.get(flow, Update(Flow.METRICS, {"dice": np.full(3, 0.5, np.float32)}))
            if name != "volume split over many rounds":
                tap = Tap(known, count)  # what one round shows by itself
            leak = trainer(carrier, images[round_ % len(images)], round_)
            by.append(CONTENT if _refused(tap, leak.update) else gate.stops(leak.update, carrier, round_))
            bits.append(leak.bits)
        gate.close()
        caught = [one for one in by if one]
        rows.append(Row(name, len(by), len(caught), max(set(caught), key=caught.count, default=NOBODY), median(bits)))
    weights = schema_size(schema_of(honest[0][Flow.WEIGHTS].arrays))
    sizes = [capacity.volume(image) for image in images]
    return Leakage(tuple(rows), count, false_alarms, float(capacity.FLOAT_BITS * weights), median(sizes))


def _refused(tap: Tap, update: Update) -> bool:
    try:
        tap(update)
    except GateRefused:
        return True
    return False


def _bank(update: Update) -> bytes:
    """What a gate boxes of features."""
    features, partitions = np.asarray(update.arrays["features"], np.float32), update.arrays["partitions"]
    return pack_bank(in_order(Bank(features, partitions.astype(np.uint8))))


class _Exit:
    """A site's gate as it is, and what came out of it."""

    def __init__(self, study: Study, folder: Path) -> None:
        me, other = (member.name for member in study.sites)
        self._store = Store(folder)
        self._out: list[bytes] = []
        self._gate = Gate(
            Identity.generate(), me, study, self._store.next_boot(), {other: Identity.generate().public}, "coordinator",
            self._store, lambda _, frame: self._out.append(frame), lambda _: None,
        )  # fmt: skip

    def stops(self, update: Update, honest: Update, round_: int) -> str:
        """What keeps in what the update has beyond the honest one: the schema, or that the gate does not send it."""
        context = RoundContext(0, round_, schema_of(honest.arrays), bytes(32))
        try:
            self._gate.release(update, context)
        except GateRefused:
            return SCHEMA
        message = dict(self._store.queued(0, round_))[update.flow]
        if update.flow is Flow.FEATURES and _bank(update) == _bank(honest):
            return DROPPED
        names = [name.encode() for name in update.arrays if name not in honest.arrays]
        return DROPPED if names and not any(name in message for name in names) else NOBODY

    def close(self) -> None:
        self._store.close()
