"""`fedsecure export`, `predict`, `evaluate` and `finetune`: the model in use. Heavy imports wait until one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

if TYPE_CHECKING:
    from fedsecure.clinic.predict import Outcome
    from fedsecure.clinic.released import ReleasedModel


class Modality(StrEnum):
    MR = "MR"
    CT = "CT"


class Unit(StrEnum):
    MM = "mm"
    VOXELS = "voxels"


P = ParamSpec("P")


def _plainly(command: Callable[P, None]) -> Callable[P, None]:
    """What a disk says (full, not allowed, no such folder) is a line on the terminal, without the path."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        from fedsecure.errors import SettingsError

        try:
            command(*arguments, **options)
        except OSError as error:
            raise SettingsError(f"a file or folder cannot be read or written: {error.strerror}") from None

    return run


ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that `export` or `finetune` wrote.")]
Device = Annotated[str, typer.Option(help="torch's name of where the network runs: cpu, cuda, ...")]
Threads = Annotated[int, typer.Option(min=1, help="Processor threads. Slices are small: more rarely help.")]


@_plainly
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, a coordinator's folder, or a model.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    name: Annotated[str | None, typer.Option(help="The model's name on its card.")] = None,
    modality: Annotated[Modality | None, typer.Option(help="Of the training images, if the run does not say.")] = None,
    encoder: Annotated[bool, typer.Option("--encoder", help="The pre-trained encoder, even if there is more.")] = False,
    bundle: Annotated[bool, typer.Option("--bundle", help="Also as a MONAI bundle, in OUT/bundle.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also the network as OUT/model.onnx.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: I know that this is a disclosure.")] = False,
) -> None:
    """Take a finished run's model out, with its card. This goes past the egress gate, so it asks first."""
    from fedsecure.clinic.card import OUTSIDE_THE_GATE
    from fedsecure.clinic.origin import from_run
    from fedsecure.clinic.released import MANIFEST, open_model, save
    from fedsecure.errors import SettingsError

    if (run / MANIFEST).is_file():
        if name or modality or encoder:
            raise SettingsError("--name, --modality and --encoder are of a run's export: a model keeps its card")
        model = open_model(run)
    else:
        model = from_run(run, name, None if modality is None else modality.value, encoder)
    if onnx:
        from fedsecure.clinic.onnx_file import onnx_bytes

        network = onnx_bytes(model)
    typer.echo(f"{model.manifest.card.name}: {model.manifest.kind}, {', '.join(model.manifest.structures)}")
    typer.echo(f"privacy: {model.manifest.card.privacy}")
    typer.echo(OUTSIDE_THE_GATE)
    if not yes and not typer.confirm("Export it?", default=False):
        raise SettingsError("not exported (scripts say --yes)")
    save(model, out)
    if onnx:
        from fedsecure.files import write_atomic

        write_atomic(out / "model.onnx", network)
    if bundle:
        from fedsecure.clinic.bundle import write_bundle

        write_bundle(model, out / "bundle")
    typer.echo(f"model {model.id[:12]}: {out}")
    typer.echo(f"card: {out / 'card.md'}")


@_plainly
def predict(
    model: ModelFolder,
    given: Annotated[str, typer.Argument(metavar="IN", help="NIfTI file, folder of them, or folder of DICOM series.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder for the labels; not inside IN.")],
    modality: Annotated[Modality | None, typer.Option(help="What the volumes are, where files do not say.")] = None,
    dicom_seg: Annotated[bool, typer.Option("--dicom-seg", help="Also DICOM-SEG, of DICOM series.")] = False,
    view: Annotated[bool, typer.Option("--view", help="Also a page to look at each, in any browser, offline.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace labels that are in OUT already.")] = False,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Draw the model's structures on volumes of your own, on their own grids. Nothing leaves this machine."""
    from fedsecure.clinic.predict import Wanted, check
    from fedsecure.clinic.predict import predict as run
    from fedsecure.clinic.volumes import items, place_of

    released = _open(model, threads)
    found = items(given)
    wanted = Wanted(None if modality is None else modality.value, dicom_seg, view, overwrite)
    check(released, found, place_of(given), out, wanted)
    with _progress("drawing", len(found)) as step:

        def told(outcome: Outcome) -> None:
            step(_said(outcome))

        outcomes = run(released, found, out, wanted, device, told)
    failed = sum(outcome.error is not None for outcome in outcomes)
    typer.echo(f"{len(outcomes) - failed} of {len(outcomes)} drawn: {out}")
    typer.echo("Research only: a qualified reader must look at every contour.")
    if failed:
        raise typer.Exit(1)


@_plainly
def evaluate(
    model: ModelFolder,
    data: Annotated[list[str], typer.Option(metavar="[SITE=]KIND:PATH", help="Labelled volumes; once for each site.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    unit: Annotated[Unit, typer.Option(help="Of distances: voxels where headers' spacing is nominal.")] = Unit.MM,
    tolerance: Annotated[float, typer.Option(min=0, help="Of surface Dice, in that unit.")] = 2.0,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Dice, surface distances and calibration on labelled volumes of your own: by structure, patient and site."""
    from fedsecure.clinic.evaluation import MEASURES, mean, write
    from fedsecure.clinic.evaluation import evaluate as run
    from fedsecure.data.source import open_source
    from fedsecure.errors import SettingsError

    if out.exists() and any(out.iterdir()):
        raise SettingsError("the folder for the evaluation is not empty: name another one, nothing is overwritten")
    sources = {}
    for number, given in enumerate(data, start=1):
        site, equals, address = given.partition("=")
        named = bool(equals) and ":" not in site
        sources[site if named else f"site {number}" if len(data) > 1 else "here"] = open_source(
            address if named else given
        )
    if len(sources) < len(data):
        raise SettingsError("two sites have one name: write --data NAME=KIND:PATH with a name for each")
    released = _open(model, threads)
    frames = sum(frame.label is not None for s in sources.values() for p in s.patients for frame in p.frames)
    with _progress("measuring", frames) as step:
        found = run(released, sources, unit.value, tolerance, device, lambda: step(None))
    for error in found.errors:
        typer.echo(f"left out: {error.for_owner()}", err=True)
    rows = found.evaluation.rows
    for structure in found.evaluation.structures:
        values = [(name, mean((row for row in rows if row.structure == structure), name)) for name in MEASURES]
        said = "  ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in values)
        typer.echo(f"{structure}: {said}")
    written = write(found, out)
    typer.echo(f"distances in {unit.value}; report: {written[2]}")
    typer.echo("files.csv says which patient is which file: it stays here")
    if found.errors:
        raise typer.Exit(1)


@_plainly
def finetune(
    model: ModelFolder,
    data: Annotated[str, typer.Option(metavar="KIND:PATH", help="Labelled volumes of your own.")],
    out: Annotated[Path, typer.Option(help="A new folder for the new model.")],
    structures: Annotated[str, typer.Option(help="Names of label values 1, 2, ..., with commas between.")] = "",
    labelled: Annotated[int | None, typer.Option(min=1, help="Patients to train on. Default: all.")] = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share kept to measure on; 0: none.")] = 0.3,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps. Default: the model's study's.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    name: Annotated[str | None, typer.Option(help="The new model's name on its card.")] = None,
    on_error: Annotated[str, typer.Option(help="A bad file: stop, or exclude it.")] = "stop",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped call with this --out was.")] = False,
    device: Device = "cpu",
    threads: Threads = 1,
) -> None:
    """Train the model on with labelled volumes of your own, on this machine alone."""
    from fedsecure.clinic.adapt import Asked
    from fedsecure.clinic.adapt import finetune as run
    from fedsecure.data.source import open_source
    from fedsecure.errors import SettingsError

    if on_error not in ("stop", "exclude"):
        raise SettingsError("--on-error is stop or exclude")
    base = _open(model, threads)
    source = open_source(data)
    named = tuple(part.strip() for part in structures.split(",") if part.strip())
    asked = Asked(
        model=base.id,
        source=data,
        structures=named or source.structures or base.manifest.structures,
        labelled=labelled,
        steps=steps or base.manifest.finetune.steps,
        held_out=held_out,
        seed=seed,
        on_error="stop" if on_error == "stop" else "exclude",
    )
    if asked.structures != base.manifest.structures:
        typer.echo(f"structures {', '.join(asked.structures)}: not the model's, so its decoder starts anew")
    with _progress("training", asked.steps) as step:

        def told(done: int, total: int, loss: float) -> None:
            step(f"step {done}/{total}  loss {loss:.4f}" if done % 25 == 0 or done == total else None)

        fitted = run(base, source, asked, out, name, resume, device, told)
    for error in fitted.excluded:
        typer.echo(f"left out: {error.for_owner()}", err=True)
    for score in fitted.model.manifest.card.scores:
        typer.echo(f"{score.structure}: Dice {score.dice:.3f} on {score.patients} held-out patients")
    typer.echo(f"trained on {fitted.trained} labelled patients; model {fitted.model.id[:12]}: {out}")
    typer.echo("It holds what it learnt from them, without any privacy guarantee. It stays here unless you hand it on.")


def _open(folder: Path, threads: int) -> ReleasedModel:
    import torch

    from fedsecure.clinic.released import open_model

    torch.set_num_threads(threads)
    return open_model(folder)


def _said(outcome: Outcome) -> str:
    """One line of an item, for the owner's own terminal."""
    from fedsecure.errors import DataError

    name = outcome.item.name.as_posix()
    if isinstance(outcome.error, DataError):
        return f"{name}: not drawn: {outcome.error.reason}"
    first = outcome.predicted[0]
    volumes = ", ".join(f"{structure} {ml:.1f} ml" for structure, ml in first.millilitres.items())
    frames = "" if len(outcome.predicted) == 1 else f" (first of {len(outcome.predicted)} frames)"
    return f"{name}: {volumes}{frames}"


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[str | None], None]]:
    """A bar while people watch, and lines for all; each call is one step done, with a line where there is one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def step(line: str | None) -> None:
            bar.advance(task)
            if line is not None:
                console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield step
