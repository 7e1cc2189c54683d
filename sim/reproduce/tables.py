"""From the records of finished shards to the lines of a table: numbers only; `texts` writes them down.

What is counted, the unit, is one training, as in the report: local fine-tuning trains a network a site, so the unit is
a site under a seed (its folds averaged); federated fine-tuning trains one for all sites, so the unit is a seed and
fold (its sites averaged). Both arms of a pair had the same labelled patients, batches and, where none is
pre-trained, decoder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedsecure.report.results import Mode
from fedsecure.report.summary import Estimate, estimate
from sim.reproduce.protocols import RANDOM, Arm, Paired, PaperTable
from sim.reproduce.record import Record, Score, mean_probe

Unit = tuple[int, str]  # seed, and site or fold


@dataclass(frozen=True, slots=True)
class Cell:
    """Dice of one arm under one mode and N: mean and spread over units; against the random start, unit by unit."""

    mode: Mode
    labelled: int
    dice: Estimate
    difference: Estimate | None  # None of the random start, and without a pair
    paper: Paired | None


@dataclass(frozen=True, slots=True)
class Line:
    """One arm: its cells in the order of the table's columns, None where nothing has finished; then means over seeds.

    accuracy, untrained, norm: of the pooled probe. up, down: bytes of a site in pre-training. seconds: of a shard.
    """

    arm: Arm
    seeds: int
    cells: tuple[Cell | None, ...]
    accuracy: float | None
    untrained: float | None
    norm: float | None
    up: float
    down: float
    seconds: float
    rho: float | None
    sigma: float | None
    model_up: float | None
    model_down: float | None


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[tuple[Mode, int], ...]
    lines: tuple[Line, ...]


def table_of(
    arms: Sequence[Arm], modes: Sequence[Mode], labelled: Sequence[int], records: Sequence[Record],
    paper: PaperTable | None,
) -> Table:  # fmt: skip
    """The lines of those arms that have a finished shard."""
    columns = tuple((mode, n) for mode in modes for n in labelled)
    found = {arm.name: [record for record in records if record.arm == arm.name] for arm in arms}
    random = {column: units(found.get(RANDOM, []), *column) for column in columns}
    lines = []
    for arm in arms:
        own = found[arm.name]
        if own:
            cells = tuple(_cell(arm, column, own, random[column], paper) for column in columns)
            lines.append(_line(arm, own, cells))
    return Table(columns, tuple(lines))


def units(records: Sequence[Record], mode: Mode, labelled: int) -> dict[Unit, float]:
    """Mean Dice of each training of this kind."""
    sites: dict[tuple[int, str, int | None], list[Score]] = defaultdict(list)
    for record in records:
        for score in record.scores:
            if (score.mode, score.labelled) == (mode, labelled):
                sites[record.seed, score.site, score.fold].append(score)
    grouped: dict[Unit, list[float]] = defaultdict(list)
    for (seed, site, fold), scores in sites.items():
        if (mean := site_mean(scores)) is not None:
            grouped[seed, site if mode == "local" else str(fold)].append(mean)
    return {unit: fmean(values) for unit, values in sorted(grouped.items())}


def site_mean(scores: Sequence[Score]) -> float | None:
    """Mean over patients of each structure, then over structures; None where none was counted."""
    structures = zip(*(score.dice for score in scores), strict=True)
    counted = [[value for value in values if value is not None] for values in structures]
    means = [fmean(values) for values in counted if values]
    return fmean(means) if means else None


def paired(own: Mapping[Unit, float], random: Mapping[Unit, float]) -> Estimate | None:
    """Differences of the units that both have."""
    shared = sorted(own.keys() & random.keys())
    return estimate([own[unit] - random[unit] for unit in shared]) if shared else None


def _cell(
    arm: Arm, column: tuple[Mode, int], own: Sequence[Record], random: Mapping[Unit, float], paper: PaperTable | None
) -> Cell | None:
    values = units(own, *column)
    if not values:
        return None
    mode, labelled = column
    return Cell(
        mode=mode,
        labelled=labelled,
        dice=estimate(list(values.values())),
        difference=None if arm.name == RANDOM else paired(values, random),
        paper=paper.dice(arm.name, labelled) if paper else None,
    )


def _line(arm: Arm, own: Sequence[Record], cells: tuple[Cell | None, ...]) -> Line:
    probes = [probe for record in own if (probe := mean_probe(record)) is not None]
    traffic = [record.traffic for record in own]
    return Line(
        arm=arm,
        seeds=len({record.seed for record in own}),
        cells=cells,
        accuracy=_mean([probe.accuracy for probe in probes]),
        untrained=_mean([probe.untrained for probe in probes]),
        norm=_mean([probe.norm for probe in probes]),
        up=fmean(sent.up for sent in traffic),
        down=fmean(sent.down for sent in traffic),
        seconds=fmean(record.run.seconds for record in own),
        rho=_mean([sent.rho for sent in traffic]),
        sigma=_mean([sent.sigma for sent in traffic]),
        model_up=_mean([sent.model_up for sent in traffic]),
        model_down=_mean([sent.model_down for sent in traffic]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
