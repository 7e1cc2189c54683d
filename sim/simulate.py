"""A run: one or both frameworks over one world, from configuration to report, and on again where it stopped.

RUN/config.json                       what was asked for, resolved
RUN/clock.json                        first command and start, and seconds over all sittings; one for each framework
RUN/results.json, RUN/report.html     both frameworks side by side
RUN/metrics.jsonl, *.safetensors, coordinator/, sites/     of one framework; with two, under RUN/fcl and RUN/fclopt
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from fedsecure.config import Framework, Study, dump, load
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.plan import require_no_noise
from fedsecure.progress import Progress
from fedsecure.report import results as results_file
from fedsecure.report.provenance import collect as provenance_of
from fedsecure.report.provenance import redacted
from fedsecure.report.results import Results
from fedsecure.report.svg import require_matplotlib
from sim.collect import collect, keep_models, merge_metrics, pictures
from sim.federation import Transport, federate, finished
from sim.world import World, build, coordinator_folder, require_summable

CONFIG: Final = "config.json"
CLOCK: Final = "clock.json"


class Display(Protocol):
    """Shows a federation while it runs."""

    def on(self, node: str, event: Progress) -> None: ...


Displays = Callable[[Study], AbstractContextManager[Display]]


class Clock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One framework's run over all sittings, so that a resumed run is not taken for its last part."""

    command: str  # the first one, redacted
    started: datetime
    seconds: float = 0.0


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run folder was made for. `study` has no cohort yet; each framework's own folder has the resolved one."""

    study: dict[str, object]
    frameworks: tuple[Framework, ...]
    world: World

    def of(self, framework: Framework) -> Study:
        """The framework's study. The random start is fine-tuned once, with the first one: it is the same start."""
        raw = {**self.study, "framework": framework}
        if framework != self.frameworks[0]:
            raw["baseline"] = False
        return load(Study, msgspec.json.encode(raw))


def plan(study: Study, frameworks: tuple[Framework, ...], world: World) -> Plan:
    """Raises SettingsError for a study that no node would run, before a folder is made."""
    require_no_noise(study)
    require_summable(study, world)
    # Only what was set: what a data source itself says (its structures) may fill in the rest.
    return Plan(study.model_dump(mode="json", exclude_unset=True), frameworks, world)


def open_run(out: Path, wanted: Plan | None, resume: bool) -> Plan:
    """Make the run folder, or take up the one that is there. Raises SettingsError on any doubt which was meant."""
    config = out / CONFIG
    if not resume:
        if wanted is None:
            raise SettingsError("nothing to run: name a study file, or --resume a run folder")
        if out.exists() and any(out.iterdir()):
            raise SettingsError("the run folder is not empty: --resume goes on with it, --out names another")
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(config, msgspec.json.format(msgspec.json.encode(wanted), indent=2) + b"\n")
        return wanted
    if not config.is_file():
        raise SettingsError("nothing to resume: the run folder has no config.json (see --out)")
    held = msgspec.json.decode(config.read_bytes(), type=Plan)
    if wanted is not None and msgspec.to_builtins(wanted) != msgspec.to_builtins(held):
        raise SettingsError(
            "the run folder was made with other settings: resume it without new ones, or use another --out"
        )
    return held


def simulate(out: Path, asked: Plan, cache: Path, transport: Transport, displays: Displays, told: Callable[[str], None],
             arguments: list[str]) -> Results:  # fmt: skip
    """Run what `open_run` gave, framework by framework, and write results and report.

    Raises as `federate` does, and SettingsError at once, not after training, if the report could not be drawn.
    """
    require_matplotlib()
    each = []
    shown: dict[str, npt.NDArray[np.uint8]] = {}
    for framework in asked.frameworks:
        run = out if len(asked.frameworks) == 1 else out / framework
        each.append(_one(run, asked, framework, cache, transport, displays, told, arguments))
        shown |= pictures(run, _resolved(run))
    every = reduce(results_file.merge, each)
    results_file.save(every, out / "results.json")
    from fedsecure.report.html import write_report

    told("drawing the report")
    write_report(every, shown, out / "report.html")
    return every


def _one(run: Path, asked: Plan, framework: Framework, cache: Path, transport: Transport, displays: Displays,
         told: Callable[[str], None], arguments: list[str]) -> Results:  # fmt: skip
    if (run / "results.json").is_file() and finished(run):
        return results_file.load(run / "results.json")
    with timed(run, arguments):
        study = _laid_out(run, asked, framework, cache, told)
        if not finished(run):
            told("starting the nodes")
            with displays(study) as display:
                federate(run, study, transport, display.on)
        told("measuring the shared encoder over all sites")
        merge_metrics(run, study)
        keep_models(run, study)
    clock = msgspec.json.decode((run / CLOCK).read_bytes(), type=Clock)
    provenance = provenance_of(clock.command, clock.started, clock.seconds)
    results = collect(run, study, asked.world, provenance)
    results_file.save(results, run / "results.json")
    return results


@contextmanager
def timed(run: Path, arguments: list[str]) -> Iterator[None]:
    """Keep the run's first command and start, and add this sitting's wall time however it ends, short of a kill."""
    path = run / CLOCK
    if path.is_file():
        clock = msgspec.json.decode(path.read_bytes(), type=Clock)
    else:
        clock = Clock(redacted(arguments), datetime.now(UTC))
        run.mkdir(parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.encode(clock))
    began = monotonic()
    try:
        yield
    finally:
        sat = msgspec.structs.replace(clock, seconds=clock.seconds + monotonic() - began)
        write_atomic(path, msgspec.json.encode(sat))


def _laid_out(run: Path, asked: Plan, framework: Framework, cache: Path, told: Callable[[str], None]) -> Study:
    """The resolved study of a run folder; made now if the folder is new."""
    if (run / "study.json").is_file():
        return _resolved(run)
    for half in ("sites", coordinator_folder(run).name):  # laid out in part when it was interrupted
        shutil.rmtree(run / half, ignore_errors=True)
    study = build(asked.world, asked.of(framework), run, cache, told)
    write_atomic(run / "study.json", dump(study))
    return study


def _resolved(run: Path) -> Study:
    return load(Study, (run / "study.json").read_bytes())
