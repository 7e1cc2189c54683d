"""`fedsecure audit`: what can be tried against a study, and who refuses it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Try abuse and faults against a study.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Try abuse and faults against a study."""


@app.command()
def security(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON to this new file, too.")] = None,
) -> None:
    """Run every abuse and fault that we know against STUDY's settings, with phantom patients, on this machine.

    One table: what was tried, by whom, who refused it, the rule, and the line in the log. Exit code 1 if anything was
    not refused, or changed the final model. Takes minutes with a large network.
    """
    import msgspec

    from fedsecure.config import load_study
    from fedsecure.errors import SettingsError
    from sim.audit import audit

    if out is not None and out.exists():
        raise SettingsError("the file for the table is there already: name another with --out")
    settings = load_study(study)
    with tempfile.TemporaryDirectory(prefix="fedsecure-audit-") as folder:
        found = audit(settings, Path(folder) / "run", Path(folder) / "cache")
    for row in found.rows:
        typer.secho(f"{row.abuse:36} {row.by:24} {row.refused_by or 'NOT REFUSED':28} {row.error}",
                    fg=None if row.refused_by else "red")  # fmt: skip
        if row.log:
            typer.echo(f"{'':36} {row.log}")
    typer.echo(f"shortened for this: {', '.join(found.reduced) or 'nothing'}")
    if out is not None:
        from dataclasses import asdict

        out.write_bytes(msgspec.json.format(msgspec.json.encode([asdict(row) for row in found.rows])) + b"\n")
    if not found.passed:
        raise typer.Exit(1)
