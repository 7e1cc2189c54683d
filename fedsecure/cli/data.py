"""`fedsecure data`: look at a source before a study does. Heavy imports wait until a command runs."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsecure.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from fedsecure.config import DataSettings
    from fedsecure.data.inspect import Row
    from fedsecure.data.layout import Source

app = typer.Typer(help="Look at the data of a site. Nothing leaves this machine.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at the data of a site. Nothing leaves this machine."""


@app.command("inspect")
def inspect_source(
    *,
    source: Annotated[str, typer.Argument(help="acdc:PATH, msd:PATH, folder:PATH, dicom:PATH or hvsmr:PATH")],
    picture: Annotated[Path, typer.Option(help="where the contact sheet goes")] = Path("inspect.png"),
    structures: Annotated[str, typer.Option(help="names of label values 1, 2, ..., with commas between")] = "",
    size: Annotated[int | None, typer.Option(help="edge of a prepared slice in pixels")] = None,
    crop: Annotated[int | None, typer.Option(help="centre crop in pixels before resizing")] = None,
    spacing: Annotated[str, typer.Option(help="in-plane resampling in mm: Y,X")] = "",
    orientation: Annotated[str | None, typer.Option(help='axis code such as RAS, or "stored"')] = None,
    on_error: Annotated[str, typer.Option(help="stop, or exclude and list")] = "stop",
    salt: Annotated[Path | None, typer.Option(help="a node's salt file, to see the ids that node uses")] = None,
) -> None:
    """Show what a study would use of SOURCE, what it would leave out and why, and draw a contact sheet."""
    from rich.console import Console

    plain = {"size": size, "crop": crop, "orientation": orientation, "on_error": on_error}
    settings = _settings(_listed(structures), _listed(spacing), plain)
    _inspect(source, settings, picture, salt, Console())


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="A new folder, then a source folder:PATH.")],
    patients: Annotated[int, typer.Option(min=1, help="A sub-folder with two labelled volumes for each.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same patients.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Pixels of a slice's edge.")] = 128,
) -> None:
    """Write phantom patients: synthetic, labelled, cardiac-like volumes in NIfTI, to try things on."""
    from fedsecure.data.phantom import write_phantom
    from fedsecure.errors import SettingsError

    if folder.exists() and any(folder.iterdir()):
        raise SettingsError("the folder is not empty: name another one, nothing is overwritten")
    write_phantom(folder, patients, seed, size=size)
    typer.echo(f"{patients} phantom patients: {folder}")


def _settings(structures: list[str], spacing: list[str], plain: Mapping[str, object]) -> DataSettings:
    import msgspec

    from fedsecure.config import DataSettings, load
    from fedsecure.errors import SettingsError

    given: dict[str, object] = {name: value for name, value in plain.items() if value is not None}
    given["structures"] = structures
    if spacing:
        try:
            given["spacing_mm"] = [float(value) for value in spacing]
        except ValueError:
            raise SettingsError("--spacing is written Y,X in millimetres, e.g. 1.5,1.5") from None
    return load(DataSettings, msgspec.json.encode(given))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _inspect(uri: str, settings: DataSettings, picture: Path, salt: Path | None, console: Console) -> None:
    import os

    import torch
    from rich.progress import track

    from fedsecure.data.cohort import load_salt
    from fedsecure.data.inspect import rows, settings_for
    from fedsecure.data.picture import contact_sheet
    from fedsecure.data.source import open_source

    torch.set_num_threads(1)  # slices are small: more threads wait for each other longer than they work
    source = open_source(uri)
    settings = settings_for(source, settings)
    key = os.urandom(32) if salt is None else load_salt(salt)
    with _private_folder() as cache:
        found = list(
            track(
                rows(source, settings, cache, key),
                "reading",
                total=len(source.patients),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )
        _print(console, source, found, salt is None)
        subjects = [row.subject for row in found if row.subject is not None]
        if not subjects:
            raise DataError("no patient of this source can be used")
        contact_sheet(subjects, settings, picture)
    console.print(f"picture: {picture}", markup=False, highlight=False)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A temporary folder for patients' volumes. It goes also when this process is ended, or its terminal closes."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with tempfile.TemporaryDirectory(prefix="fedsecure-inspect-") as folder:
            yield Path(folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def _print(console: Console, source: Source, found: list[Row], fresh_ids: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("#", "id", "group", "frames", "labelled", "grid as stored", "spacing (mm)", "intensities", "verdict")
    for row in found:
        table.add_row(*(Text(cell) for cell in _cells(row)))
    console.print(table)
    used = [row.subject for row in found if row.subject is not None]
    volumes = [volume for subject in used for volume in subject.volumes]
    errors = [error for row in found for error in row.errors]
    lines = [
        f"{len(used)} of {len(found)} patients used, {len(volumes)} volumes, "
        f"{sum(volume.label is not None for volume in volumes)} of them labelled, "
        f"{sum(len(volume.image) for volume in volumes)} slices",
    ]
    if source.structures is not None:
        lines.append("structures named by the source: " + ", ".join(source.structures))
    if fresh_ids:
        lines.append("ids are of this call only; --salt FILE shows those of a node")
    reversed_z = sum(row.reversed_z for row in found)
    if 0 < reversed_z < len(found):
        lines.append(
            f"warning: the slices of {reversed_z} patients are stored the other way round than those of the rest. If "
            'headers are wrong and the stored order is right, say orientation = "stored"'
        )
    lines += [f"left out: {error.for_owner()}" for error in errors]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        str(row.position),
        row.subject.id if row.subject is not None else "-",
        row.group or "-",
        str(row.frames),
        str(row.labelled),
        " x ".join(str(edge) for edge in row.grid) if row.grid is not None else "-",
        " x ".join(f"{length:.3g}" for length in row.spacing_mm) if row.spacing_mm is not None else "-",
        "{:.4g} .. {:.4g}".format(*row.intensities) if row.intensities is not None else "-",
        row.verdict + (", z reversed" if row.reversed_z else ""),
    )
