"""`fedsecure audit`: what can be tried against a study and who refuses it, what left a machine, what is installed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Try abuse, faults and leaks against a study; check what left.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Try abuse, faults and leaks against a study; check what left."""


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


@app.command()
def leaks(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    rounds: Annotated[int, typer.Option(min=1, help="Honest rounds that each trainer spoils.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run every leaky trainer that we know against STUDY's gate and content tests, with phantom patients.

    One table: the leak, in how many rounds it was stopped and by what, and how many bits it carries. Exit code 1 if a
    clean round was refused, or a leak got through that should not.
    """
    import json

    from fedsecure.config import load_study
    from sim.leakage import leakage

    settings = load_study(study)
    with tempfile.TemporaryDirectory(prefix="fedsecure-leaks-") as folder:
        found = leakage(settings, Path(folder) / "run", rounds)
    if as_json:
        typer.echo(json.dumps(found._asdict() | {"rows": [row._asdict() for row in found.rows]}))
    else:
        for row in found.rows:
            typer.secho(f"{row.leak:38} {row.caught:4} of {row.rounds:<4} {row.caught_by or 'not found':14} "
                        f"{row.bits:12,.0f} bits", fg=None if row.caught == row.rounds else "yellow")  # fmt: skip
        typer.echo(f"{found.false_alarms} of {found.clean} clean updates refused")
        typer.echo(f"an update has room for {found.capacity_bits:,.0f} bits, as nothing is noised; "
                   f"a volume holds about {found.volume_bits:,.0f}")  # fmt: skip
    if not found.passed:
        raise typer.Exit(1)
