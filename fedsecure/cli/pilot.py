"""`fedsecure coordinator`, `site`, `status` and `veto`: a pilot on several machines. See docs/pilot.md."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsecure.cli import passphrases
from fedsecure.cli.keys import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsecure.node.events import Stop
    from fedsecure.node.vitals import Status

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file, the same on all nodes.")]
Bind = Annotated[str, typer.Option(help="Where sites reach this node: tcp://ADDRESS:PORT of one of its own addresses.")]
Port = Annotated[str | None, typer.Option("--health", metavar="127.0.0.1:PORT", help="Health endpoint. Default: none.")]
NodeFolder = Annotated[Path, typer.Argument(help="The node's folder.")]


def coordinator(
    study: StudyFile,
    bind: Bind = "tcp://0.0.0.0:7443",
    folder: Folder = Path(),
    encoder: Annotated[Path | None, typer.Option(help="The file that the study starts from, if it names one.")] = None,
    health: Port = None,
    passphrase_file: passphrases.File = None,
) -> None:
    """Coordinate a study until it is finished. Ctrl-C or SIGTERM stops this node; started again it goes on."""
    from fedsecure.node.pilot import lay_out_coordinator
    from fedsecure.node.wiring import run_coordinator

    lay_out_coordinator(folder, study, encoder)
    _end(folder, run_coordinator(folder, bind, passphrases.present(passphrase_file), health, sys.stderr))


def site(
    settings: Annotated[Path, typer.Argument(metavar="SITE.toml", help="This site's own file. It never leaves.")],
    folder: Folder = Path(),
    passphrase_file: passphrases.File = None,
) -> None:
    """Take part in a study until it is finished. Ctrl-C or SIGTERM stops this node; started again it goes on."""
    from fedsecure.node.pilot import lay_out_site, read_site
    from fedsecure.node.wiring import run_site

    file = read_site(settings)
    lay_out_site(folder, file)
    _end(folder, run_site(folder, passphrases.present(passphrase_file), file.health, sys.stderr))


def veto(folder: NodeFolder = Path()) -> None:
    """Take this site out of its study, now and for good. A running node ends its training within a second.

    What it sent before stays in models that were averaged from it; from now on nothing of it is used or passed on.
    """
    from fedsecure.errors import SettingsError
    from fedsecure.node.vitals import running

    if not (folder / "site.json").exists():
        raise SettingsError("this folder is no site's: a veto is a site's, a coordinator is stopped by Ctrl-C")
    (folder / "veto").touch()
    if running(folder):
        typer.echo("vetoed: the node stops training now, and ends when the coordinator has answered")
    else:
        typer.echo("vetoed: no node is running here. Start it once more, so that the coordinator learns of it")


def status(
    folder: NodeFolder = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how this node is doing, running or not: who is in, phase and round, bytes, budget, last contact."""
    import msgspec

    from fedsecure.node.vitals import read, running

    found, alive = read(folder), running(folder)
    if as_json:
        typer.echo(msgspec.json.encode({"running": alive, **msgspec.to_builtins(found)}).decode())
        return
    for line in _lines(found, alive):
        typer.echo(line)


def _lines(status: Status, alive: bool) -> Iterator[str]:
    at, now = status.standing, time.time()
    life = "running" if alive else f"stopped: {status.stopped or 'ended without a word'}"
    yield f"node     {at.node}, {at.role}, {life}; fedsecure {status.software}"
    yield f"study    {at.study}, {at.digest[:16]}"
    yield f"phase    {at.phase}; {at.stage_name}, round {min(at.round + 1, at.rounds)} of {at.rounds}"
    if at.round == at.rounds:
        yield "         evaluating"
    if at.sum is not None:
        yield (
            f"sum      step {at.sum.number} of {at.sum.steps}, {at.sum.step}, attempt {at.sum.attempt}; "
            f"waits for {', '.join(at.sum.awaited) or 'nobody'}"
        )
    yield f"budget   {status.budget}"
    for name, word in sorted(at.sites.items()):
        yield f"site     {name:16} {word}"
    for peer, contact in sorted(status.peers.items()):
        heard = "never" if contact.heard is None else f"{max(0.0, now - contact.heard):.0f} s ago"
        yield (
            f"peer     {peer:16} sent {contact.sent:,} B, received {contact.received:,} B, last heard {heard}, "
            f"refused {contact.refused}"
        )


def _end(folder: Path, stop: Stop) -> None:
    from fedsecure.node.wiring import explain

    explain(folder, stop)
    match stop.reason:
        case "finished":
            typer.echo("the study is finished")
        case "interrupted":
            typer.echo("stopped; started again it goes on from here", err=True)
        case _:
            typer.secho(f"error: stopped, {stop.reason}{': ' * bool(stop.detail)}{stop.detail}", fg="red", err=True)
            raise typer.Exit(1)
