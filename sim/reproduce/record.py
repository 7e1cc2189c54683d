"""What a finished shard leaves: one small JSON file, enough for every table, without a name, an id or a path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Final, Literal

import msgspec

from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.node.wiring import COORDINATOR
from fedsecure.report.results import Count, DiceRow, Digest, Mode, Positive, Provenance, Results, Share, WorldRecord
from fedsecure.report.targets import target_block
from sim.reproduce.shards import Shard

FORMAT: Final = 1
PRETRAINING: Final = "pre-training"  # the stage's name in a run's results

_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Score(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One patient under one fine-tuning; `dice` in the order of the record's structures, None where a structure is
    neither there nor predicted. `patient` counts a site's scored patients from 0: the same one in every arm."""

    mode: Mode
    labelled: Positive
    fold: int | None
    site: str
    patient: Count
    dice: tuple[Share | None, ...]


class Probe(_Part, frozen=True, kw_only=True):
    """The partition probe of the shared encoder; `site` is None over all sites, "mean" of sites with one each."""

    site: str | None
    accuracy: Share
    chance: Share
    untrained: Share | None
    norm: Share
    slices: Positive


class Traffic(_Part, frozen=True, kw_only=True):
    """Bytes of one site, mean over sites, in pre-training and in all. Of FCLOpt: shares of rounds, and the bytes of the
    traffic model at these shares (docs/method.md 4.4)."""

    up: Annotated[float, msgspec.Meta(ge=0)]
    down: Annotated[float, msgspec.Meta(ge=0)]
    all_up: Annotated[float, msgspec.Meta(ge=0)]
    all_down: Annotated[float, msgspec.Meta(ge=0)]
    rho: Share | None = None
    sigma: Share | None = None
    model_up: Count | None = None
    model_down: Count | None = None


class Record(_Part, frozen=True, kw_only=True):
    """All of a shard's file. `studies`: the resolved settings of its legs, and their digests."""

    format: Literal[1] = FORMAT
    id: str
    digest: Digest
    arm: str
    seed: Count
    device: str
    judged: Literal["held-out", "validation"]
    structures: tuple[str, ...]
    worlds: tuple[WorldRecord, ...]
    studies: tuple[Mapping[str, Any], ...]
    study_digests: tuple[Digest, ...]
    run: Provenance
    pretrain_seconds: _Seconds
    finetune_seconds: _Seconds
    scores: tuple[Score, ...]
    probes: tuple[Probe, ...]
    traffic: Traffic


def record_of(shard: Shard, results: Sequence[Results], run: Provenance) -> Record:
    """The record of a shard whose legs ended with these results, in their order."""
    last = results[-1]
    seconds: dict[bool, float] = defaultdict(float)
    for row in (row for found in results for row in found.rounds if row.node == COORDINATOR):
        seconds[row.name == PRETRAINING] += row.seconds
    structures = tuple(last.studies[0].settings["data"]["structures"])
    scored = zip(shard.legs, results, strict=True)
    return Record(
        id=shard.id,
        digest=shard.digest,
        arm=shard.arm,
        seed=shard.seed,
        device=shard.legs[-1].world.device,
        judged=last.studies[0].settings["data"]["judged"],
        structures=structures,
        worlds=tuple(found.world for found in results),
        studies=tuple(found.studies[0].settings for found in results),
        study_digests=tuple(found.studies[0].digest for found in results),
        run=run,
        pretrain_seconds=round(seconds[True], 1),
        finetune_seconds=round(seconds[False], 1),
        scores=tuple(score for leg, found in scored for score in _scores(found.dice, leg.fold, structures)),
        probes=tuple(_probes(results[0])),
        traffic=_traffic(results),
    )


def save(record: Record, folder: Path) -> None:
    """Write the file whole or not at all; it is read back first, so that what stands there can be loaded."""
    raw = msgspec.json.encode(record, order="deterministic")
    msgspec.json.decode(raw, type=Record)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{record.id}.json", raw + b"\n")


def load(shard: Shard, folder: Path) -> Record | None:
    """What this shard left; None if it has not finished. Raises SettingsError if the file is not what it is named."""
    path = folder / f"{shard.id}.json"
    if not path.is_file():
        return None
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{path.name} does not hold ({error}): delete it to run that shard again") from None
    if record.digest != shard.digest:
        raise SettingsError(f"{path.name} is of other settings than its name says: delete it to run that shard again")
    return record


def _scores(rows: Iterable[DiceRow], fold: int | None, structures: tuple[str, ...]) -> Iterable[Score]:
    found: dict[tuple[Mode, int, str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        found[row.mode, row.labelled, row.site, row.subject][row.structure] = row.dice
    numbers: dict[str, dict[str, int]] = defaultdict(dict)  # site -> subject -> number, in the order of scoring
    for (mode, labelled, site, subject), dice in found.items():
        patient = numbers[site].setdefault(subject, len(numbers[site]))
        values = tuple(round(dice[name], 5) if name in dice else None for name in structures)
        yield Score(mode, labelled, fold, site, patient, values)


def _probes(results: Results) -> Iterable[Probe]:
    for row in results.representation:
        yield Probe(
            site=row.site,
            accuracy=row.knn_partition_accuracy,
            chance=row.chance,
            untrained=row.untrained,
            norm=row.embedding_mean_norm,
            slices=row.slices,
        )


def _traffic(results: Sequence[Results]) -> Traffic:
    sums: dict[tuple[str, bool], float] = defaultdict(float)
    for found in results:
        sites = len(found.studies[0].settings["sites"])
        for row in found.traffic:
            sums[row.direction, row.name == PRETRAINING] += row.bytes / sites
    block = target_block(results[0], "fclopt")
    modelled = None if block is None else block.bytes[0]
    return Traffic(
        up=sums["up", True],
        down=sums["down", True],
        all_up=sums["up", True] + sums["up", False],
        all_down=sums["down", True] + sums["down", False],
        rho=None if block is None else block.rho,
        sigma=None if block is None else block.sigma,
        model_up=None if modelled is None else modelled.model_up,
        model_down=None if modelled is None else modelled.model_down,
    )


def mean_probe(record: Record) -> Probe | None:
    """The pooled probe; of sites with an encoder each, the mean of theirs; None without pre-training."""
    for probe in record.probes:
        if probe.site is None:
            return probe
    if not record.probes:
        return None
    return Probe(
        site="mean",
        accuracy=fmean(probe.accuracy for probe in record.probes),
        chance=fmean(probe.chance for probe in record.probes),
        untrained=None,
        norm=fmean(probe.norm for probe in record.probes),
        slices=sum(probe.slices for probe in record.probes),
    )
