"""Runs shards, several at a time, each as whole federations in one process with one core's worth of threads.

On two cores two shards side by side finish sooner than one whose sites are processes: those wait for the slowest of
them in every round, and each of them loads torch (docs/reproduce.md has the figures).

OUT/shards/ID.json      what each finished shard left; small, and all that the tables need
OUT/work/ID/            the run folders of a shard under way; gone when it has finished, unless they are to be kept
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Final

import msgspec

from fedsecure.config import Study, dump, load
from fedsecure.files import write_atomic
from fedsecure.node.workbench import ENCODER
from fedsecure.progress import Progress
from fedsecure.report.provenance import collect as provenance_of
from fedsecure.report.results import Provenance, Results
from sim.collect import collect, merge_metrics
from sim.federation import Transport, federate, finished
from sim.reproduce import record as records
from sim.reproduce.protocols import over
from sim.reproduce.record import Record
from sim.reproduce.shards import Leg, Shard
from sim.simulate import CLOCK, Clock, timed
from sim.world import build, coordinator_folder

SHARDS: Final = "shards"
WORK: Final = "work"
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sitting:
    """How shards are run; nothing here changes a result."""

    out: Path
    cache: Path
    transport: Transport
    arguments: tuple[str, ...]  # the command line
    limit_minutes: float | None = None  # no shard is started after that
    keep: bool = False
    jobs: int = 1  # shards at a time

    @property
    def shards(self) -> Path:
        return self.out / SHARDS


def finished_records(shards: Sequence[Shard], folder: Path) -> dict[str, Record]:
    """By id, the records of those that have finished. Raises SettingsError for a file that does not hold."""
    found = ((shard.id, records.load(shard, folder)) for shard in shards)
    return {name: record for name, record in found if record is not None}


def estimate_seconds(shard: Shard, done: Sequence[Record], guess_minutes: float) -> float:
    """From finished shards of the same arm, else of any, else the budget's guess."""
    same = [record.run.seconds for record in done if record.arm == shard.arm]
    every = [record.run.seconds for record in done]
    return median(same or every or [60 * guess_minutes])


def run_shards(shards: Sequence[Shard], sitting: Sitting, told: Told) -> int:
    """Run what has not finished, in order, until done or the limit; returns how many are left.

    Raises as `federate` does, after the shards beside the one that failed have come to their end. A shard that was
    interrupted goes on from its work folder the next time.
    """
    began = monotonic()
    done = finished_records(shards, sitting.shards)
    todo = [shard for shard in shards if shard.id not in done]
    waiting = iter(todo)
    ended = 0

    def over_limit() -> bool:
        return sitting.limit_minutes is not None and monotonic() - began >= 60 * sitting.limit_minutes

    def tell(record: Record) -> None:
        told(f"{ended} of {len(todo)}: {record.id} took {record.run.seconds:.0f} s")

    if sitting.jobs == 1:
        for shard in waiting:
            if over_limit():
                break
            record = run_shard(shard, sitting, told)
            ended += 1
            tell(record)
        return len(todo) - ended
    prepare(todo, sitting, told)
    with ProcessPoolExecutor(sitting.jobs, mp_context=get_context("spawn")) as pool:
        running: set[Future[Record]] = set()
        while True:
            while len(running) < sitting.jobs and not over_limit() and (following := next(waiting, None)) is not None:
                running.add(pool.submit(run_shard, following, sitting, _silent))
            if not running:
                return len(todo) - ended
            finished_now, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished_now:
                record = future.result()
                ended += 1
                tell(record)


def prepare(shards: Sequence[Shard], sitting: Sitting, told: Told) -> None:
    """Make phantoms and fill the cache before shards run side by side: none then waits for, or repeats, another's."""
    worlds = {(repr(leg.world), repr(leg.study["data"])): leg for shard in shards for leg in shard.legs}
    for leg in worlds.values():
        scratch = sitting.out / WORK / "prepare"
        shutil.rmtree(scratch, ignore_errors=True)
        build(leg.world, leg.parsed(), scratch, sitting.cache, told)
        shutil.rmtree(scratch)


def _silent(_: str) -> None:
    """A shard beside others says nothing while it runs."""


def run_shard(shard: Shard, sitting: Sitting, told: Told) -> Record:
    """All legs of one shard, then its record on disk, then its work folder away."""
    work = sitting.out / WORK / shard.id
    work.mkdir(parents=True, exist_ok=True)
    results: list[Results] = []
    encoder: bytes | None = None
    # The clock is kept beside the legs, so that sittings add up however often a shard was interrupted.
    with timed(work, list(sitting.arguments)):
        for number, leg in enumerate(shard.legs):
            folder = work / str(number)
            results.append(_leg(folder, leg, encoder, sitting, told))
            if number == 0 and len(shard.legs) > 1 and leg.study["start"] == "pretrain":
                encoder = (coordinator_folder(folder) / ENCODER).read_bytes()
    record = records.record_of(shard, results, _provenance(work))
    records.save(record, sitting.shards)
    if not sitting.keep:
        shutil.rmtree(work)
    return record


def _leg(run: Path, leg: Leg, encoder: bytes | None, sitting: Sitting, told: Told) -> Results:
    study = _laid_out(run, leg, encoder, sitting, told)
    if not finished(run):
        federate(run, study, sitting.transport, _unseen)
    merge_metrics(run, study)
    return collect(run, study, leg.world, _provenance(run.parent))


def _laid_out(run: Path, leg: Leg, encoder: bytes | None, sitting: Sitting, told: Told) -> Study:
    """The resolved study of a leg's folder; made now if the folder is new."""
    path = run / "study.json"
    if path.is_file():
        return load(Study, path.read_bytes())
    shutil.rmtree(run, ignore_errors=True)  # laid out in part when it was interrupted
    if encoder is not None:
        digest = hashlib.sha256(encoder).hexdigest()
        leg = replace(leg, study=over(leg.study, {"encoder": digest}))
    study = build(leg.world, leg.parsed(), run, sitting.cache, lambda text: told(f"  {text}"))
    if encoder is not None:
        held = coordinator_folder(run) / ENCODER
        held.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(held, encoder)
    write_atomic(path, dump(study))
    return study


def _provenance(work: Path) -> Provenance:
    clock = msgspec.json.decode((work / CLOCK).read_bytes(), type=Clock)
    return provenance_of(clock.command, clock.started, round(clock.seconds, 1))


def _unseen(_: str, __: Progress) -> None:
    """Shards show no bars: a line for each is enough for hundreds."""
