"""`results.json`: everything a run measured, in one strict, readable file from which the report is drawn.

Rows are flat and carry their own keys (framework, seed, site, ...), so that runs merge by putting rows together.
Nothing here names a patient, a header value or a path: subjects are opaque ids, and `Provenance` refuses a command
line with a path in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from fedsecure.config import OWN_SETTINGS, Framework, Study
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic

FORMAT: Final = 1

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Mode = Literal["local", "federated"]

# What one site of a pilot could not have, because it needs the data of several: the reader must know it when he
# expects his own pilot to look like this report.
SimulationOnly = Literal["pooled probe", "other sites' patients", "pictures"]
SIMULATED: Final[tuple[SimulationOnly, ...]] = ("pooled probe", "other sites' patients", "pictures")


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common shape of every part of the file: immutable, named fields only, nothing unknown accepted."""


class StudyRecord(_Row, frozen=True, kw_only=True):
    """One study that was run, whole: `settings` are the values behind `digest` (hex SHA-256)."""

    name: str
    digest: Digest
    framework: Framework
    seed: Count
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, study: Study) -> StudyRecord:
        return cls(
            name=study.name,
            digest=study.digest().hex(),
            framework=study.framework,
            seed=study.seed,
            settings=msgspec.json.decode(study.canonical(), type=dict[str, Any]),
        )


class WorldRecord(_Row, frozen=True, kw_only=True):
    """Whose images they were. `partition` tells how one data set was dealt to the sites; None if each has its own."""

    kind: Literal["phantom", "acdc", "msd", "folder", "dicom", "hvsmr"]
    partition: Literal["group", "random", "dirichlet"] | None
    sites: Positive
    phantom_patients: Positive | None  # of each site; None if they are no phantoms


class Machine(_Row, frozen=True, kw_only=True):
    """Model and kind, not identity: no host name."""

    processor: str
    cores: Positive
    system: str


class Provenance(_Row, frozen=True, kw_only=True):
    """How one run came about. `command` comes from `provenance.redacted`; `commit` is None outside a checkout."""

    command: str
    commit: str | None
    version: str
    release: str  # SHA-256 over the files of the installed packages (audit.sbom)
    machine: Machine
    libraries: Mapping[str, str]  # distribution name -> version
    started: str  # ISO 8601 with time zone
    seconds: Seconds

    def __post_init__(self) -> None:
        if "/" in self.command or "\\" in self.command:
            raise ValueError("the command line holds a path; put it through provenance.redacted first")


class Representation(_Row, frozen=True, kw_only=True):
    """What a pre-trained encoder knows without labels, on held-out slices of one site (or of all, pooled)."""

    framework: Framework
    seed: Count
    probe: Literal["site", "pooled"]
    site: str | None  # None if pooled
    knn_partition_accuracy: Share
    chance: Share  # accuracy of always naming the commonest partition of these slices
    untrained: Share | None  # accuracy of the encoder that pre-training started from; None where not measured
    neighbours: Positive
    embedding_mean_norm: Share  # norm of the mean unit embedding: 1 is collapse
    slices: Positive

    def __post_init__(self) -> None:
        if (self.probe == "pooled") != (self.site is None):
            raise ValueError("a pooled probe has no site, and every other probe has one")


class DiceRow(_Row, frozen=True, kw_only=True):
    """Dice of one structure in one held-out patient (opaque id), mean over the patient's volumes."""

    framework: Framework | None  # None for a random start, which owes nothing to a framework
    mode: Mode
    init: Literal["random", "pretrained"]
    labelled: Positive  # N
    site: str
    subject: str
    structure: str
    seed: Count
    dice: Share

    def __post_init__(self) -> None:
        if (self.init == "random") != (self.framework is None):
            raise ValueError("a random start has no framework, and a pre-trained one has")

    @property
    def key(self) -> tuple[str | int | None, ...]:
        """What was measured, without what came out."""
        return (self.framework, self.mode, self.labelled, self.seed, self.site, self.subject, self.structure)


class TrafficRow(_Row, frozen=True, kw_only=True):
    """Frames of one kind that `node` sent to `peer` in one stage. `bytes` are of whole frames, signatures and seals in,
    as handed to the transport: what its own framing and encryption add is not counted.

    Only senders write rows, so that sums count each frame once: up from a site, down from the coordinator.
    """

    framework: Framework
    seed: Count
    node: str
    peer: str
    direction: Literal["up", "down"]
    kind: Literal["release", "control", "share", "publish"]
    flow: str
    name: str  # the stage's
    stage: Count
    messages: Count
    bytes: Count


class RoundRow(_Row, frozen=True, kw_only=True):
    """One round on one node. `loss` is the mean over the round's steps; None on the coordinator and in evaluation."""

    framework: Framework
    seed: Count
    node: str
    name: str  # the stage's
    stage: Count
    round: Count
    seconds: Seconds
    loss: float | None
    sent: Count  # bytes this node sent in this round


class TargetRow(_Row, frozen=True, kw_only=True):
    """The target network that one training round of FCLOpt ended with (reconstructed, docs/method.md 4).

    expected: its distance from the prediction as foreseen (r1) or bounded (r2) before it was measured; distance: as
    measured; None where there is none. asked: the sites sent theirs; corrected: the prediction was not used.
    """

    framework: Framework
    seed: Count
    round: Count
    expected: float | None
    distance: float | None
    asked: bool
    corrected: bool


class SumRow(_Row, frozen=True, kw_only=True):
    """One secure sum as the coordinator saw it. `survivors` of `sites` that had trained are in it; `late`: who did not
    answer some step in time. attempts: sums begun for it. seconds: of the last one, and of each of its steps, by what
    sites answer in it; a step in which the coordinator was started again is missing."""

    framework: Framework
    seed: Count
    name: str  # the stage's
    stage: Count
    round: Count
    flows: tuple[str, ...]
    sites: Positive
    survivors: Positive
    attempts: Positive
    late: tuple[str, ...]
    seconds: Seconds
    steps: Mapping[str, Seconds]


class TermsRow(_Row, frozen=True, kw_only=True):
    """The numbers and switches behind the exposure of one study, in words (exposure.py)."""

    framework: Framework
    seed: Count
    words: str


class ExposureRow(_Row, frozen=True, kw_only=True):
    """What somebody could learn in the setting of one study (exposure.py)."""

    framework: Framework
    seed: Count
    who: str
    learns: str


class ModelledRow(_Row, frozen=True, kw_only=True):
    """Bytes of one site in pre-training by the traffic model of docs/method.md 2.7 (FCL) or, at the measured shares,
    4.4 (FCLOpt)."""

    framework: Framework
    seed: Count
    up: Count
    down: Count


class Results(_Row, frozen=True, kw_only=True):
    """All of `results.json`. `simulation_only` lists what a pilot would not have; empty if this was a pilot."""

    format: Literal[1] = FORMAT
    world: WorldRecord
    studies: tuple[StudyRecord, ...]
    runs: tuple[Provenance, ...]
    representation: tuple[Representation, ...]
    dice: tuple[DiceRow, ...]
    traffic: tuple[TrafficRow, ...]
    rounds: tuple[RoundRow, ...]
    simulation_only: tuple[SimulationOnly, ...]
    targets: tuple[TargetRow, ...] = ()
    modelled: tuple[ModelledRow, ...] = ()
    sums: tuple[SumRow, ...] = ()
    terms: tuple[TermsRow, ...] = ()
    exposure: tuple[ExposureRow, ...] = ()

    def __post_init__(self) -> None:
        if not self.studies:
            raise ValueError("results belong to at least one study")
        if len({row.key for row in self.dice}) != len(self.dice):
            raise ValueError("a Dice row stands twice")
        if len({(study.framework, study.seed) for study in self.studies}) != len(self.studies):
            raise ValueError("a framework stands twice with the same seed")

    @property
    def frameworks(self) -> tuple[Framework, ...]:
        return _distinct(study.framework for study in self.studies)

    @property
    def seeds(self) -> tuple[int, ...]:
        return _distinct(study.seed for study in self.studies)


class _Header(msgspec.Struct):
    """Read first and alone, so that a file of another version is named as such and not as broken."""

    format: int


def save(results: Results, path: Path) -> None:
    """Write `results.json`: two-space indent, fields in their order here, settings sorted by name.

    The file is read back before it takes its place, so what stands at `path` can be loaded. Raises
    msgspec.ValidationError if a value is outside its range, such as a Dice that is not a number.
    """
    raw = msgspec.json.format(msgspec.json.encode(results, order="deterministic"), indent=2) + b"\n"
    msgspec.json.decode(raw, type=Results)
    write_atomic(path, raw)


def load(path: Path) -> Results:
    """Read what `save` wrote. Raises SettingsError if it cannot be read, is of another format, or does not hold."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the results file: {error.strerror}") from None
    try:
        found = msgspec.json.decode(raw, type=_Header).format
        if found != FORMAT:
            raise SettingsError(f"the results are of format {found}; this version of fedsecure reads {FORMAT}")
        return msgspec.json.decode(raw, type=Results)
    except msgspec.DecodeError as error:
        raise SettingsError(f"the results file does not hold: {error}") from None


# What two runs may differ in and still stand in one table.
_FREE: Final = frozenset({"name", "framework", "seed", "baseline"}) | OWN_SETTINGS


def merge(first: Results, second: Results) -> Results:
    """Both runs as one, e.g. FCL and FCLOpt, or the same framework under two seeds.

    A random start that both trained is the same training and is kept once. Raises SettingsError if the studies
    differ in more than name, framework and its own settings, seed, baseline and the sites' weights, if their patients
    are of different worlds, if a framework and seed stand in both, or if the shared random start came out differently
    (then the runs are not comparable number by number).
    """
    if first.world != second.world:
        raise SettingsError("the two results come from different worlds: other data, another partition or other sites")
    common = {msgspec.json.encode(_comparable(study), order="sorted") for study in (*first.studies, *second.studies)}
    own = {(study.framework, _own_settings(study)) for study in (*first.studies, *second.studies)}
    if len(common) > 1 or len(own) > len({framework for framework, _ in own}):
        raise SettingsError(
            "the two results come from different studies: only name, framework and its own settings, seed, baseline "
            "and the sites' weights may differ"
        )
    held = {(study.framework, study.seed) for study in first.studies}
    twice = [study for study in second.studies if (study.framework, study.seed) in held]
    if twice:
        raise SettingsError(f"both results hold {twice[0].framework} with seed {twice[0].seed}; merge different runs")
    return Results(
        world=first.world,
        studies=first.studies + second.studies,
        runs=first.runs + second.runs,
        representation=first.representation + second.representation,
        dice=_merge_dice(first.dice, second.dice),
        traffic=first.traffic + second.traffic,
        rounds=first.rounds + second.rounds,
        targets=first.targets + second.targets,
        modelled=first.modelled + second.modelled,
        sums=first.sums + second.sums,
        terms=first.terms + second.terms,
        exposure=first.exposure + second.exposure,
        simulation_only=tuple(
            part for part in SIMULATED if part in first.simulation_only or part in second.simulation_only
        ),
    )


def _comparable(study: StudyRecord) -> dict[str, Any]:
    """What must agree. Of the sites their names: a seed may deal each of them another number of patients."""
    settings = {name: value for name, value in study.settings.items() if name not in _FREE}
    return settings | {"sites": [member["name"] for member in study.settings["sites"]]}


def _own_settings(study: StudyRecord) -> bytes:
    """What must agree among studies of one framework."""
    return msgspec.json.encode(study.settings.get(study.framework), order="sorted")


def _merge_dice(first: tuple[DiceRow, ...], second: tuple[DiceRow, ...]) -> tuple[DiceRow, ...]:
    held, other = _random_starts(first), _random_starts(second)
    shared = held.keys() & other.keys()
    for cell in sorted(shared):
        if held[cell] != other[cell]:
            mode, labelled, seed, site, _ = cell
            raise SettingsError(
                f"the random start came out differently in the two runs (site {site}, {mode}, N={labelled}, "
                f"seed {seed}): run both on the same kind of machine with the same number of threads"
            )
    return first + tuple(row for row in second if row.framework is not None or _cell(row) not in shared)


_Cell = tuple[Mode, int, int, str, str]


def _cell(row: DiceRow) -> _Cell:
    """Without the patient: each run names patients under a salt of its own."""
    return row.mode, row.labelled, row.seed, row.site, row.structure


def _random_starts(rows: Iterable[DiceRow]) -> dict[_Cell, list[float]]:
    """The Dice of a random start in each cell, sorted, as patients of two runs cannot be matched by id."""
    found: dict[_Cell, list[float]] = defaultdict(list)
    for row in rows:
        if row.framework is None:
            found[_cell(row)].append(row.dice)
    return {cell: sorted(values) for cell, values in found.items()}


_T = TypeVar("_T")


def _distinct(values: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))
