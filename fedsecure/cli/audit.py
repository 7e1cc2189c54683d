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


@app.command()
def wire(
    capture: Annotated[Path, typer.Argument(metavar="CAPTURE", help="pcap or pcapng, from before the first node on.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or the folder of one node.")],
    port: Annotated[int | None, typer.Option(help="Look at this TCP port alone, where others share the line.")] = None,
) -> None:
    """Reconcile a capture of RUN with what its nodes have on record, to the byte, and look for files in the clear.

    Exit code 1 if a byte is not explained, a record did not leave, or a volume's or a pickle's format begins anywhere.
    """
    from fedsecure.audit import capture as captured
    from fedsecure.audit.streams import streams
    from fedsecure.audit.wire import NotOurs, files_in, reconcile
    from fedsecure.errors import SettingsError
    from fedsecure.node.records import sent_sizes

    try:
        raw = capture.read_bytes()
    except OSError as error:
        raise SettingsError(f"the capture cannot be read: {error.strerror}") from None
    every, others = streams(captured.packets(raw))
    found = [one for one in every if port is None or port in (one.ends.source[1], one.ends.target[1])]
    hub, sites = run / "coordinator", sorted((run / "sites").glob("*"))
    up, down = ([size for node in sites for size in sent_sizes(node)], sent_sizes(hub)) if sites else (
        sent_sizes(run), None
    )  # fmt: skip
    good = port is not None or not others
    for protocol, size in sorted(others.items()):
        typer.echo(f"IP protocol {protocol}: {size:,} bytes" + ("" if port else ", of which nodes send none"))
    for one in found:
        files = files_in(one)
        good &= not files
        clear = f"   in the clear: {', '.join(files)}" if files else ""
        typer.echo(f"{one.ends!s:48} {len(one.data):12,} bytes{clear}")
    for name, opened, recorded in (("to the coordinator", True, up), ("to the sites", False, down)):
        ours = [one for one in found if one.opened is opened]
        if recorded is None:
            typer.echo(f"{name}: {sum(len(one.data) for one in ours):,} bytes; their record is the coordinator's")
            continue
        try:
            side = reconcile(ours, recorded)
        except NotOurs as error:
            typer.secho(f"{name}: {error}", fg="red")
            good = False
            continue
        good &= side.whole
        control = ", ".join(f"{count} {kind}" for kind, (count, _) in side.control.items())
        typer.secho(
            f"{name}: {side.wire:,} bytes = {side.records:,} on record + {side.framing:,} of framing + "
            f"{sum(size for _, size in side.control.values()):,} of control ({control or 'none'})"
            + (f"; {side.unseen:,} on record are not in the capture" if side.unseen else "")
            + (f"; NOT EXPLAINED: packets of {side.unexplained}" if side.unexplained else ""),
            fg=None if side.whole else "red",
        )  # fmt: skip
    if not good or not found:
        typer.secho("not reconciled", fg="red")
        raise typer.Exit(1)
    typer.echo("every byte is explained")


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder (one framework's), a node's, an export.")],
    keys: Annotated[
        Path | None, typer.Option(metavar="ROSTER", help="The roster whose keys count, from elsewhere.")
    ] = None,
    release: Annotated[
        list[str] | None, typer.Option(help="Digest of a release that may have run it; repeatable.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Also fail for what could not be proved.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the logs of a run that is over: offline, with public keys alone.

    Recomputes every tree and signature, and compares both ends of every message. Exit code 1 if a check failed.
    """
    import json

    from fedsecure.audit.testimony import Status
    from fedsecure.audit.verify import edition, verify

    findings = verify(run, None if keys is None else edition(keys), release or ())
    bad = {Status.FAILED, Status.OPEN} if strict else {Status.FAILED}
    passed = not any(one.status in bad for one in findings)
    if as_json:
        typer.echo(json.dumps({"passed": passed, "checks": [one._asdict() for one in findings]}))
    else:
        colours = {Status.FAILED: "red", Status.OPEN: "yellow"}
        for one in findings:
            typer.secho(f"{one.status:7} {one.check:10} {one.node or '-':16} {one.detail}", fg=colours.get(one.status))
        typer.echo("the logs hold" if passed else "NOT PROVED")
    if not passed:
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a node's.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
) -> None:
    """Copy the evidence of RUN's logs, and nothing else, to OUT: for somebody who is to check it elsewhere.

    No key, volume, update or model is in it. `fedsecure audit verify OUT` reads it.
    """
    from fedsecure.audit.export import export

    typer.echo(f"{export(run, out)} nodes' evidence")


@app.command()
def sbom(
    out: Annotated[Path | None, typer.Option(help="Write it to this new file.")] = None,
) -> None:
    """A CycloneDX 1.6 bill of materials of what is installed here, and the digest of this release's own files."""
    import json
    from datetime import UTC, datetime

    from fedsecure.audit.sbom import bill, release
    from fedsecure.errors import SettingsError

    text = json.dumps(bill(datetime.now(UTC)), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SettingsError(f"the bill cannot be written: {error.strerror}") from None
    typer.echo(f"release {release()}")
