"""`fedsecure`: its commands, and the one place where an error becomes a line on the terminal and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fedsecure.cli import audit, bench, budget, clinic, data, doctor, keys, pilot, reproduce, roster, simulate
from fedsecure.errors import DataError, FedsecureError
from keys.errors import KeysError

app = typer.Typer(
    help="Federated contrastive pre-training of segmentation encoders on volumes that never leave the hospital.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local values could show a patient's data
)
app.add_typer(audit.app, name="audit")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(budget.app, name="budget")
app.add_typer(keys.app, name="keys")
app.add_typer(roster.app, name="roster")
app.command()(simulate.demo)
app.command()(simulate.simulate)
app.command()(simulate.report)
app.command()(reproduce.reproduce)
app.command()(pilot.coordinator)
app.command()(pilot.site)
app.command()(pilot.status)
app.command()(doctor.doctor)
app.command()(pilot.veto)
app.command()(clinic.export)
app.command()(clinic.predict)
app.command()(clinic.evaluate)
app.command()(clinic.finetune)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"fedsecure {version('fedsecure')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    os.umask(0o077)  # run folders and caches hold patients' images: for their owner alone
    try:
        app()
    except DataError as error:
        _fail(error.for_owner())  # this terminal is the data owner's
    except (FedsecureError, KeysError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(text: str) -> None:
    typer.secho(f"error: {text}", fg="red", err=True)
    sys.exit(1)
