"""`fedsecure reproduce`: the paper's tables, shard by shard, as far as time allows; the same command goes on."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fedsecure.cli.simulate import Cache, Quiet, Scheme, Wire

if TYPE_CHECKING:
    from sim.reproduce.protocols import Protocol
    from sim.reproduce.runner import Sitting
    from sim.reproduce.shards import Asked, Expanded, Shard

MOST_JOBS: Final = 8  # unless --jobs says so: each holds a cohort and a network


class Experiments(StrEnum):
    LOCAL = "local"
    FEDERATED = "federated"
    TRANSFER = "transfer"
    TRAFFIC = "traffic"
    ABLATION = "ablation"


class Budgets(StrEnum):
    SMOKE = "smoke"
    CPU = "cpu"
    GPU = "gpu"
    PAPER = "paper"


class Judged(StrEnum):
    HELD_OUT = "held-out"
    VALIDATION = "validation"


def reproduce(
    experiment: Annotated[Experiments, typer.Argument(help="Which table.")],
    data: Annotated[
        str, typer.Option(metavar="KIND:PATH", help="acdc:, msd:, folder: or hvsmr:PATH, or phantom.")
    ] = "phantom",
    budget: Annotated[Budgets, typer.Option(help="How much is spent on every method alike.")] = Budgets.SMOKE,
    target_data: Annotated[
        str | None, typer.Option(metavar="KIND:PATH", help="transfer: the source to fine-tune on.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: runs/reproduce-KIND-BUDGET.")] = None,
    framework: Annotated[
        list[str] | None, typer.Option(help="Only this method or arm, beside the random start. Can be repeated.")
    ] = None,
    shards: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Run only shards of this id, * for any text.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show what is done and what is left, and run nothing.")] = False,
    limit: Annotated[float | None, typer.Option(min=0, help="Start no shard after so many minutes.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Shards at a time. Default: one a core on a CPU.")] = None,
    judge: Annotated[
        Judged, typer.Option(help="Whose Dice it is. validation: of others, to choose settings by.")
    ] = Judged.HELD_OUT,
    partition: Annotated[
        Scheme | None, typer.Option(help="Default: a site for each group that the source names, else random.")
    ] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Default: the groups', or the budget's number.")] = None,
    crop: Annotated[int | None, typer.Option(min=16, help="Pixels of the centre that are used.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: the budget's.")] = None,
    transport: Annotated[Wire, typer.Option(help="memory: a shard is one process.")] = Wire.MEMORY,
    cache: Cache = Path("cache"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the run folders of finished shards.")] = False,
    quiet: Quiet = False,
) -> None:
    """Reproduce a table of the paper: every method under one budget, beside the paper's own numbers.

    Runs shard by shard and writes the table of what has finished. The same command again goes on where it stopped.
    """
    from fedsecure.report.svg import require_matplotlib
    from sim.reproduce.protocols import load_protocol
    from sim.reproduce.runner import Sitting
    from sim.reproduce.shards import Asked, chosen, expand
    from sim.reproduce.sources import describe

    require_matplotlib()
    protocol = load_protocol()
    asked = Asked(
        experiment=experiment.value,
        budget=budget.value,
        data=describe(data),
        target=describe(target_data) if target_data is not None else None,
        judged=judge.value,
        frameworks=frozenset(framework) if framework else None,
        sites=sites,
        scheme=partition.value if partition else None,
        crop=crop,
        device=device,
    )
    expanded = expand(protocol, asked)
    mine = chosen(expanded.shards, tuple(shards or ()))
    on_cpu = expanded.world.device == "cpu"
    sitting = Sitting(
        out=out or Path(f"runs/reproduce-{asked.data.kind}-{budget.value}"),
        cache=cache,
        transport=transport.value,
        arguments=("fedsecure", *sys.argv[1:]),
        limit_minutes=limit,
        keep=keep,
        jobs=jobs or (min(os.cpu_count() or 1, MOST_JOBS) if on_cpu and transport is Wire.MEMORY else 1),
    )
    if show:
        _list(protocol, asked, mine, sitting)
        return
    _run(protocol, asked, expanded, mine, sitting, quiet)


def _run(
    protocol: Protocol, asked: Asked, expanded: Expanded, mine: tuple[Shard, ...], sitting: Sitting, quiet: bool
) -> None:
    from sim.errors import Interrupted
    from sim.reproduce.publish import TABLES, publish
    from sim.reproduce.runner import finished_records, run_shards

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text)

    for what in expanded.left_out:
        say(f"left out: {what}")
    stopped = False
    try:
        left = run_shards(mine, sitting, say)
    except (Interrupted, KeyboardInterrupt):
        stopped = True
    records = list(finished_records(expanded.shards, sitting.shards).values())
    if records:
        publish(sitting.out, protocol, asked, expanded, records, sitting.arguments)
        typer.echo(f"tables   {sitting.out / TABLES}, {len(records)} of {len(expanded.shards)} shards")
    if stopped:
        typer.echo("interrupted; the same command goes on from here", err=True)
        raise typer.Exit(130)
    if left:
        typer.echo(f"{left} shards left; the same command goes on from here")


def _list(protocol: Protocol, asked: Asked, mine: tuple[Shard, ...], sitting: Sitting) -> None:
    from fedsecure.report.words import duration
    from sim.reproduce.runner import estimate_seconds, finished_records

    done = finished_records(mine, sitting.shards)
    records = list(done.values())
    remaining = 0.0
    for shard in mine:
        if record := done.get(shard.id):
            typer.echo(f"done  {shard.id:42} {duration(record.run.seconds)}")
        else:
            guess = estimate_seconds(shard, records, protocol.budgets[asked.budget].minutes)
            remaining += guess
            typer.echo(f"left  {shard.id:42} about {duration(guess)}")
    typer.echo(
        f"{len(done)} of {len(mine)} shards done; about {duration(remaining / sitting.jobs)} left with "
        f"{sitting.jobs} at a time"
    )
