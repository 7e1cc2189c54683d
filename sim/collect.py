"""From the nodes' own folders to one run's results and pictures. Only a simulation may read more than one folder.

Every node wrote its own metrics and its own record of what it sent; here they are put side by side. What a pilot
would not have is marked in the results.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np
import numpy.typing as npt

from fedsecure.config import Study
from fedsecure.node.store import Store
from fedsecure.node.wiring import COORDINATOR
from fedsecure.packing import unpack_arrays, unpack_model
from fedsecure.plan import Init, Stage, StageKind, pretrains_alone, schedule
from fedsecure.progress import Measured, RoundEnded, RoundStarted, Scored, Step, Summed, SumStepEnded, to_json
from fedsecure.report import exchange, exposure
from fedsecure.report.results import (
    SIMULATED,
    DiceRow,
    ExposureRow,
    Mode,
    ModelledRow,
    Provenance,
    Representation,
    Results,
    RoundRow,
    StudyRecord,
    SumRow,
    TargetRow,
    TermsRow,
    TrafficRow,
    WorldRecord,
)
from fedsecure.report.targets import modelled
from fedsecure.types import schema_of
from protocols.messages import Kind
from sim.federation import read_metrics
from sim.probe import pooled_probe
from sim.world import World, coordinator_folder, site_folder


def collect(run: Path, study: Study, world: World, provenance: Provenance) -> Results:
    """All rows of one finished federation."""
    return Results(
        world=world_record(world),
        studies=(StudyRecord.of(study),),
        runs=(provenance,),
        representation=(*_site_probes(run, study), *_pooled_probe(run, study)),
        dice=tuple(_dice(run, study)),
        traffic=tuple(_traffic(run, study)),
        rounds=tuple(_rounds(run, study)),
        simulation_only=SIMULATED,
        targets=(targets := tuple(_targets(run, study))),
        modelled=tuple(_modelled(run, study, targets)),
        sums=tuple(_sums(run, study)),
        terms=(TermsRow(framework=study.framework, seed=study.seed, words=exposure.terms(study)),),
        exposure=tuple(_exposure(run, study)),
    )


def world_record(world: World) -> WorldRecord:
    """What the report says of the hospitals' data: its kind, never its path."""
    if world.source is None:
        return WorldRecord(kind="phantom", partition=None, sites=world.sites, phantom_patients=world.phantom_patients)
    kind, _, _ = world.source.partition(":")
    record = {"kind": kind, "partition": world.scheme, "sites": world.sites, "phantom_patients": None}
    return msgspec.convert(record, WorldRecord)


def merge_metrics(run: Path, study: Study) -> None:
    """Write the run's metrics.jsonl: the events of all nodes in the order of their clocks."""
    lines = [
        (at, name, to_json(event).decode())
        for name, folder in _nodes(run, study)
        for at, event in read_metrics(folder / "metrics.jsonl")
    ]
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for at, name, event in sorted(lines, key=lambda line: line[0]):
            file.write(f'{{"at":{at:.3f},"node":{json.dumps(name)},"event":{event}}}\n')


def keep_models(run: Path, study: Study) -> None:
    """Put the shared encoder, if any, and the federated segmenter of the largest N, at the top of the run folder."""
    folder = coordinator_folder(run)
    if study.start == "pretrain" and not pretrains_alone(study):
        (run / "encoder.safetensors").write_bytes((folder / "models/encoder.safetensors").read_bytes())
    best: tuple[int, int] | None = None
    for number, stage in enumerate(schedule(study)):
        if stage.kind is StageKind.FEDERATED and stage.init is Init.PRETRAINED:
            best = max(best or (0, 0), (stage.labelled, number))
    if best is not None:
        _, number = best
        segmenter = folder / _last_model(number, schedule(study)[number])
        (run / "segmenter.safetensors").write_bytes(segmenter.read_bytes())


def pictures(run: Path, study: Study) -> dict[str, npt.NDArray[np.uint8]]:
    """Overlay pictures of all sites, keyed as the report wants them."""
    found: dict[str, npt.NDArray[np.uint8]] = {}
    for number, stage in enumerate(schedule(study)):
        for member in study.sites:
            path = site_folder(run, member.name) / f"pictures/{number}.safetensors"
            if path.is_file():
                start = study.framework if stage.init is Init.PRETRAINED else "random"
                prefix = f"{start}/{stage.kind}/{stage.labelled}/{member.name}"
                for name, array in unpack_arrays(path.read_bytes()).items():
                    found[f"{prefix}/{name}"] = array.astype(np.uint8)
    return found


def _nodes(run: Path, study: Study) -> Iterator[tuple[str, Path]]:
    yield COORDINATOR, coordinator_folder(run)
    for member in study.sites:
        yield member.name, site_folder(run, member.name)


def _last_model(number: int, stage: Stage) -> str:
    return f"models/{number}-{stage.rounds}.safetensors"


def _pretrained(run: Path, study: Study) -> bytes:
    """The model that pre-training released last."""
    return (coordinator_folder(run) / _last_model(0, schedule(study)[0])).read_bytes()


def _pooled_probe(run: Path, study: Study) -> Iterator[Representation]:
    """Of the shared encoder: none where every site has its own, or none was trained here."""
    if study.start == "pretrain" and not pretrains_alone(study):
        yield pooled_probe(run, study, _pretrained(run, study))


def _site_probes(run: Path, study: Study) -> Iterator[Representation]:
    for member in study.sites if study.start == "pretrain" else ():
        measured = {
            event.metric: event.value
            for _, event in read_metrics(site_folder(run, member.name) / "metrics.jsonl")
            if isinstance(event, Measured) and event.stage == 0
        }
        yield Representation(
            framework=study.framework,
            seed=study.seed,
            probe="site",
            site=member.name,
            knn_partition_accuracy=measured["knn_partition_accuracy"],
            chance=measured["chance"],
            untrained=None,
            neighbours=study.neighbours,
            embedding_mean_norm=measured["embedding_mean_norm"],
            slices=int(measured["slices"]),
        )


def _dice(run: Path, study: Study) -> Iterator[DiceRow]:
    stages = schedule(study)
    for member in study.sites:
        # A round that was done again after a kill wrote the same scores again: the last one stands.
        scores = {
            (event.stage, event.subject, event.structure): event.dice
            for _, event in read_metrics(site_folder(run, member.name) / "metrics.jsonl")
            if isinstance(event, Scored)
        }
        for (number, subject, structure), dice in scores.items():
            stage = stages[number]
            mode: Mode = "local" if stage.kind is StageKind.LOCAL else "federated"
            yield DiceRow(
                framework=study.framework if stage.init is Init.PRETRAINED else None,
                mode=mode,
                init="pretrained" if stage.init is Init.PRETRAINED else "random",
                labelled=stage.labelled,
                site=member.name,
                subject=subject,
                structure=structure,
                seed=study.seed,
                dice=dice,
            )


def _traffic(run: Path, study: Study) -> Iterator[TrafficRow]:
    stages = schedule(study)
    for name, folder in _nodes(run, study):
        totals: dict[tuple[int, str, str, str], list[int]] = defaultdict(list)
        store = Store(folder)
        for row in store.sent():
            totals[row.stage, row.peer, row.kind, row.flow].append(row.size)
        store.close()
        for (stage, peer, kind, flow), sizes in sorted(totals.items()):
            yield TrafficRow(
                framework=study.framework,
                seed=study.seed,
                node=name,
                peer=peer,
                direction="down" if name == COORDINATOR else "up",
                kind=Kind(kind).value,
                flow=flow,
                name=stages[stage].name,
                stage=stage,
                messages=len(sizes),
                bytes=sum(sizes),
            )


def _targets(run: Path, study: Study) -> Iterator[TargetRow]:
    """What the coordinator told of each round's target network; of a round that was averaged twice, the last word."""
    told: dict[int, dict[str, float]] = defaultdict(dict)
    for _, event in read_metrics(coordinator_folder(run) / "metrics.jsonl"):
        if isinstance(event, Measured) and event.metric.startswith("target_"):
            told[event.round][event.metric.removeprefix("target_")] = event.value
    for round_, values in sorted(told.items()):
        yield TargetRow(
            framework=study.framework,
            seed=study.seed,
            round=round_,
            expected=values.get("expected"),
            distance=values.get("distance"),
            asked=bool(values["asked"]),
            corrected=bool(values["corrected"]),
        )


def _modelled(run: Path, study: Study, targets: tuple[TargetRow, ...]) -> Iterator[ModelledRow]:
    """Of the two frameworks of the paper, where they were pre-trained; none of what they are compared with."""
    if study.framework not in ("fcl", "fclopt") or study.start != "pretrain":
        return
    schema = schema_of(unpack_model(_pretrained(run, study)))
    if study.framework == "fcl":
        up, down = exchange.modelled(study, schema)
    else:
        asked, corrected = sum(row.asked for row in targets), sum(row.corrected for row in targets)
        up, down = modelled(study, schema, asked, corrected)
    yield ModelledRow(framework=study.framework, seed=study.seed, up=up, down=down)


def _sums(run: Path, study: Study) -> Iterator[SumRow]:
    """What the coordinator told of its secure sums; of one that was told twice, as after a kill, the last word."""
    stages = schedule(study)
    steps: list[SumStepEnded] = []
    done: dict[tuple[int, int, tuple[str, ...]], tuple[Summed, list[SumStepEnded]]] = {}
    for _, event in read_metrics(coordinator_folder(run) / "metrics.jsonl"):
        match event:
            case RoundStarted():
                steps = []
            case SumStepEnded():
                steps.append(event)
            case Summed():
                done[event.stage, event.round, event.flows] = event, steps
                steps = []
    for (stage, round_, flows), (summed, ended) in done.items():
        last = max((step.attempt for step in ended), default=0)
        yield SumRow(
            framework=study.framework,
            seed=study.seed,
            name=stages[stage].name,
            stage=stage,
            round=round_,
            flows=flows,
            sites=summed.sites,
            survivors=len(summed.survivors),
            attempts=summed.attempts,
            late=tuple(sorted({site for step in ended for site in step.late})),
            seconds=summed.seconds,
            steps={step.step: step.seconds for step in ended if step.attempt == last},
        )


def _exposure(run: Path, study: Study) -> Iterator[ExposureRow]:
    """By the study, and by how many sites each of its averages was of."""
    stages = schedule(study)
    averaged = {
        (event.stage, event.round): event.sites
        for _, event in read_metrics(coordinator_folder(run) / "metrics.jsonl")
        if isinstance(event, RoundEnded) and event.round < stages[event.stage].rounds
    }
    for line in exposure.exposure(study, tuple(averaged.values())):
        yield ExposureRow(framework=study.framework, seed=study.seed, who=line.who, learns=line.learns)


def _rounds(run: Path, study: Study) -> Iterator[RoundRow]:
    stages = schedule(study)
    for name, folder in _nodes(run, study):
        losses: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
        seconds: dict[tuple[int, int], float] = {}
        for _, event in read_metrics(folder / "metrics.jsonl"):
            match event:
                case Step(loss=float() as loss):
                    losses[event.stage, event.round][event.done] = loss
                case RoundEnded():
                    seconds[event.stage, event.round] = event.seconds
        store = Store(folder)
        sent: dict[tuple[int, int], int] = defaultdict(int)
        for row in store.sent():
            sent[row.stage, row.round] += row.size
        store.close()
        for (stage, round_), lasted in sorted(seconds.items()):
            yield RoundRow(
                framework=study.framework,
                seed=study.seed,
                node=name,
                name=stages[stage].name,
                stage=stage,
                round=round_,
                seconds=lasted,
                loss=fmean(steps.values()) if (steps := losses.get((stage, round_))) else None,
                sent=sent[stage, round_],
            )
