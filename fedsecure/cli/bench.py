"""`fedsecure bench`: how fast this machine trains, sums what nobody may see, and talks over its channel."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure this machine."""


@app.command()
def train(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure, in all.")] = 60.0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of the process.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Training steps of both frameworks beside a bare PyTorch loop, in slices a second."""
    import torch

    from fedsecure.bench.train import bench_train

    torch.set_num_threads(threads)
    measured = bench_train(seconds)
    if as_json:
        typer.echo(json.dumps(measured))
        return
    for framework in ("fcl", "fclopt"):
        ours, bare = measured[f"{framework}_slices_per_s"], measured[f"{framework}_bare_slices_per_s"]
        typer.echo(f"{framework:7} {ours:8.1f} slices/s   bare loop {bare:8.1f}   ratio {ours / bare:.2f}")


@app.command()
def secagg(
    params: Annotated[int, typer.Option(min=1, help="Coordinates of each site's vector.")] = 1_000_000,
    sites: Annotated[int, typer.Option(min=3, max=1000, help="Sites that begin.")] = 10,
    drop: Annotated[int, typer.Option(min=0, help="Sites that drop out before they send their vector.")] = 0,
    ring: Annotated[int, typer.Option(help="Bits of a value: 16, 20, 24 or 32.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """One secure sum beside the keystream, additions and rounding that it cannot do without."""
    from fedsecure.bench.secagg import bench_secagg

    try:
        measured = bench_secagg(params, sites, drop, ring)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        typer.echo(json.dumps(measured))
        return
    for stage, floor in (("site_upload_s", "site_floor_s"), ("unmask_s", "unmask_floor_s")):
        ours, least = float(measured[stage]), float(measured[floor])
        typer.echo(f"{stage:14} {ours:8.3f} s   floor {least:8.3f} s   ratio {ours / least:.2f}")
    typer.echo(f"rotation       {float(measured['rotate_s']):8.3f} s   before the upload stage")
    typer.echo(f"{measured['bytes_per_param']:.2f} bytes a parameter, peak {measured['peak_bytes']:,} bytes")
    typer.echo(str(measured["guarantee"]))


@app.command()
def rounding(
    sites: Annotated[int, typer.Option(min=2, max=100, help="Sites of three phantom patients each.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Of pre-training, and as many of fine-tuning.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of patients and training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """What a ring changes of the mean of real updates, relative to its norm, plain and rotated."""
    from fedsecure.bench.rounding import bench_rounding

    rows = bench_rounding(sites, rounds, seed)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        turned = "rotated" if row["rotation"] else "plain"
        typer.echo(
            f"{row['stage']}, round {row['round']}   {row['ring']} bits, {turned:7}   error {row['error']:8.3%}   "
            f"norm of a site's update {row['norm']:.2f}, clipped by {row['clipped']:.2f}"
        )


@app.command()
def channel(
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each kind; medians are shown.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The encrypted channel beside what it is made of: 64 MiB messages on loopback, in GB/s. Linux."""
    from fedsecure.bench.channel import bench_channel

    measured = bench_channel(repeats)
    if as_json:
        typer.echo(json.dumps(measured))
        return
    for name, value in measured.items():
        typer.echo(f"{name:18} {value:14,.2f}")


@app.command()
def dp(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure, in all.")] = 20.0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of the process.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """A per-patient clipped step beside a plain one, with and without noise, and a million draws of noise."""
    import torch

    from fedsecure.bench.dp import bench_dp

    torch.set_num_threads(threads)
    measured = bench_dp(seconds)
    if as_json:
        typer.echo(json.dumps(measured))
        return
    plain = measured["plain_step_s"]
    typer.echo(f"plain step          {plain:8.4f} s")
    for name, key in (("private step", "private_step_s"), ("with noise", "private_noisy_step_s")):
        typer.echo(f"{name:18}  {measured[key]:8.4f} s   ratio {measured[key] / plain:.2f}")
    typer.echo(f"a million draws     {measured['noise_s_per_million']:8.4f} s")


@app.command()
def egress(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to train and to look at; medians are shown.")] = 3,
    logged: Annotated[int, typer.Option(min=1, help="Rounds of ten sites whose logs are verified.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The gate's content tests and log beside the round of training whose update they look at, with a study's defaults;
    and how long it takes to verify logs."""
    from fedsecure.bench.egress import bench_egress
    from fedsecure.config import parse_study

    sites = [{"name": name, "weight": 14} for name in ("bench", "other")]
    clear = {"secagg": False}  # the same tests look at the same floats, whatever becomes of them after
    study = parse_study({"sites": sites, "pretrain": {"rounds": rounds + 1}, "security": clear})
    measured = bench_egress(study, rounds, logged)
    if as_json:
        typer.echo(json.dumps(measured))
        return
    typer.echo(f"round    {measured['round_s']:8.3f} s")
    typer.echo(f"tests    {measured['gate_s']:8.3f} s   share {measured['share']:.1%}")
    typer.echo(f"log      {measured['log_s']:8.3f} s a site and round, of ten sites")
    typer.echo(f"verify   {measured['verify_s']:8.3f} s: {measured['verify_rounds']:,.0f} rounds of ten sites, "
               f"{measured['verify_leaves']:,.0f} leaves, {measured['verify_signatures']:,.0f} signatures")  # fmt: skip
    typer.echo(f"index    {measured['index_s']:8.3f} s once, {measured['index_bytes']:,.0f} bytes in memory")
