"""`fedsecure demo`, `simulate` and `report`: a federation of simulated hospitals on this machine."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from fedsecure.config import Framework, Study
    from sim.simulate import Plan


class Frameworks(StrEnum):
    """A study's frameworks by their names in a study file, and "both" of the paper's; after it, the baselines."""

    FCL = "fcl"
    FCLOPT = "fclopt"
    BOTH = "both"  # fcl and fclopt
    LOCAL = "local"
    ROTATION = "rotation"
    SIMCLR = "simclr"
    SWAV = "swav"
    FEDCA = "fedca"
    BYOL = "byol"
    FEDEMA = "fedema"
    MOCO = "moco"
    MAE = "mae"


class Scheme(StrEnum):
    GROUP = "group"
    RANDOM = "random"
    DIRICHLET = "dirichlet"


class Wire(StrEnum):
    ZMQ = "zmq"
    MEMORY = "memory"


Data = Annotated[
    str | None,
    typer.Option(metavar="KIND:PATH", help="acdc:, msd:, folder:, dicom: or hvsmr:PATH. Default: phantom volumes."),
]
Sites = Annotated[int, typer.Option(min=1, help="Number of simulated hospitals.")]
Deal = Annotated[Scheme, typer.Option("--partition", help="How patients are dealt to the hospitals.")]
Patients = Annotated[int, typer.Option(min=2, help="Phantom patients per hospital.")]
Transport = Annotated[Wire, typer.Option(help="zmq: processes over CURVE on loopback. memory: one process.")]
Out = Annotated[Path | None, typer.Option(help="The run folder. Default: the next free one under runs/.")]
Cache = Annotated[Path, typer.Option(help="Prepared volumes are kept here and found again.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Only say what came out.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed, where the study does not set one.")]


def demo(
    context: typer.Context,
    framework: Annotated[Frameworks, typer.Option(help="fcl, fclopt, both of them, or a baseline.")] = Frameworks.BOTH,
    data: Data = None,
    sites: Sites = 3,
    partition: Deal = Scheme.RANDOM,
    patients: Patients = 8,
    transport: Transport = Wire.ZMQ,
    out: Out = None,
    cache: Cache = Path("cache"),
    seed: Seed = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Watch a federation pre-train one encoder, fine-tune it with a handful of labels, and read its report.

    Takes a few minutes. Without --data each hospital gets phantom (synthetic, labelled, cardiac-like) patients.
    """
    from fedsecure.config import load_study

    _refuse_with_resume(context, resume)
    with resources.as_file(resources.files("fedsecure.cli") / "demo.toml") as path:
        study = load_study(path)
    if not resume:
        study = _with_sums_if_enough(study, sites, quiet)
    plan = None if resume else _plan(study, framework, seed, data, sites, partition, patients)
    _run(plan, _folder(out, "demo", resume), cache, transport, resume, quiet)


def simulate(
    context: typer.Context,
    study: Annotated[Path | None, typer.Argument(help="The study file. Not needed with --resume.")] = None,
    framework: Annotated[Frameworks | None, typer.Option(help="Which, where the study does not say.")] = None,
    data: Data = None,
    sites: Sites = 5,
    partition: Deal = Scheme.RANDOM,
    patients: Patients = 8,
    transport: Transport = Wire.ZMQ,
    out: Out = None,
    cache: Cache = Path("cache"),
    seed: Seed = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Run a study over simulated hospitals: a coordinator and sites as processes of their own on this machine."""
    from fedsecure.config import load_study

    _refuse_with_resume(context, resume and study is None)
    plan = None
    if study is not None:
        plan = _plan(load_study(study), framework, seed, data, sites, partition, patients)
    _run(plan, _folder(out, "simulation", resume), cache, transport, resume, quiet)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one study under different seeds or frameworks.")],
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: the next free one under runs/.")] = None,
) -> None:
    """Put several runs into one report, with intervals over their seeds (local fine-tuning: over seeds and sites)."""
    from functools import reduce

    from fedsecure.errors import SettingsError
    from fedsecure.report.html import write_report
    from fedsecure.report.results import load, merge, save

    results = reduce(merge, [load(run / "results.json") for run in runs])
    out = _folder(out, "report", False)
    if (out / "results.json").exists():
        raise SettingsError("the folder for the report holds results already: name another with --out")
    out.mkdir(parents=True, exist_ok=True)
    save(results, out / "results.json")
    write_report(results, {}, out / "report.html")
    typer.echo(f"report: {out / 'report.html'}")


def _with_sums_if_enough(study: Study, sites: int, quiet: bool) -> Study:
    """The demo's study is nobody's agreement, so it says for its user what one of few sites has to say: no sums."""
    from fedsecure.config import LEAST_SUMMED, SecuritySettings, unsummable

    if not unsummable(study.security, sites):
        return study
    if not quiet:
        typer.echo(
            f"secure sums are off: they hide no site's update among {sites}, and the coordinator reads each one. With "
            f"--sites {LEAST_SUMMED} they are on, as by default in every study, and it takes twice as long"
        )
    return study.model_copy(update={"security": SecuritySettings(secagg=False)})


def _plan(
    study: Study, framework: Frameworks | None, seed: int | None, data: str | None, sites: int, scheme: Scheme,
    patients: int,
) -> Plan:  # fmt: skip
    """Flags complete a study; they never override it (docs/architecture.md 2)."""
    from fedsecure.errors import SettingsError
    from sim.simulate import plan
    from sim.world import World

    said = study.model_fields_set
    if study.sites:
        raise SettingsError("a simulation makes its own sites: leave [[sites]] out of the study, and use --sites")
    if framework is not None and "framework" in said:
        raise SettingsError("the study sets framework: take it out of the file to choose it with --framework")
    if seed is not None:
        if "seed" in said:
            raise SettingsError("the study sets seed: take it out of the file to choose it with --seed")
        study = study.model_copy(update={"seed": seed})
    frameworks: tuple[Framework, ...]
    match framework:
        case None:
            frameworks = (study.framework,)
        case Frameworks.BOTH:
            frameworks = ("fcl", "fclopt")
        case one:
            frameworks = (cast("Framework", one.value),)
    return plan(study, frameworks, World(data, sites, scheme.value, patients))


def _run(asked: Plan | None, out: Path, cache: Path, transport: Wire, resume: bool, quiet: bool) -> None:
    from fedsecure.cli.outcome import lines
    from fedsecure.cli.show import Display
    from fedsecure.node.wiring import COORDINATOR
    from fedsecure.plan import schedule
    from sim.errors import Interrupted
    from sim.simulate import open_run, simulate

    def display(study: Study) -> Display:
        return Display(schedule(study), [member.name for member in study.sites], COORDINATOR, quiet=quiet)

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text)

    try:
        plan = open_run(out, asked, resume)
        results = simulate(out, plan, cache, transport.value, display, say, ["fedsecure", *sys.argv[1:]])
    except (Interrupted, KeyboardInterrupt):
        typer.echo(f"interrupted; `fedsecure simulate --resume --out {out}` goes on from here", err=True)
        raise typer.Exit(130) from None
    for line in (*lines(results), f"report   {out / 'report.html'}", f"results  {out / 'results.json'}"):
        typer.echo(line)


def _refuse_with_resume(context: typer.Context, resume: bool) -> None:
    """A resumed run is what its folder says. A flag that would have to be ignored is an error, not a surprise."""
    from fedsecure.errors import SettingsError

    settled = ("framework", "data", "sites", "partition", "patients", "seed")
    given = [name for name in settled if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]
    if resume and given:
        raise SettingsError(f"--resume goes on with the run as it is: leave out --{', --'.join(given)}")


def _folder(out: Path | None, name: str, resume: bool) -> Path:
    """runs/NAME-1, runs/NAME-2, ...: the next free one, or the newest to go on with. No run is ever overwritten."""
    if out is not None:
        return out
    number = 1
    while Path(f"runs/{name}-{number}").exists():
        number += 1
    return Path(f"runs/{name}-{number - 1 if resume and number > 1 else number}")
