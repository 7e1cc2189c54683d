"""`fedsecure budget`: what a study will cost its patients, and what a run has cost them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedsecure.privacy.planning import BudgetPlan, Line

app = typer.Typer(help="The privacy budget of a study, before and after.", no_args_is_help=True)
RunFolder = Annotated[Path, typer.Argument(help="A run's folder, which holds sites/.")]


@app.command()
def plan(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    sites: Annotated[int | None, typer.Option(min=1, help="Sites, where the study names none.")] = None,
    patients: Annotated[int, typer.Option(min=1, help="Patients a site, with --sites.")] = 20,
) -> None:
    """What each round costs, what an epsilon buys, what an attacker could do, and whether anything can be learnt."""
    from fedsecure.config import Member, load_study, with_cohort
    from fedsecure.errors import SettingsError
    from fedsecure.privacy.planning import budget

    asked = load_study(study)
    if sites is not None:
        if asked.sites:
            raise SettingsError("the study names its sites: leave --sites out")
        cohort = tuple(Member(name=f"site-{number + 1}", weight=patients) for number in range(sites))
        asked = with_cohort(asked, cohort)
    for line in _lines(budget(asked)):
        typer.echo(line)


@app.command()
def show(run: RunFolder) -> None:
    """What has been spent and what is left, by site and flow."""
    from fedsecure.report.budget import number, read

    found = read(run)
    typer.echo(found.claim)
    for site in found.sites:
        left = "" if site.cap is None else f"  cap {number(site.cap)}  left {number(site.left)}"
        typer.echo(f"{site.site}  spent epsilon {number(site.spent.epsilon)} at delta {site.spent.delta:.1e}{left}")
        typer.echo(f"  read one by one, without secure aggregation: epsilon {number(site.alone.epsilon)}")
        for line in site.flows:
            typer.echo(
                f"  {line.flow:10} {line.releases} of at most {line.planned} releases, alone {number(line.alone)}"
            )


@app.command()
def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="A folder. Default: the run's own.")] = None,
) -> None:
    """One page and one JSON file for a privacy officer (PDF: print the page)."""
    from fedsecure.report.budget import read, write

    found = read(run)
    folder = run if out is None else out
    folder.mkdir(parents=True, exist_ok=True)
    for path in write(found, folder):
        typer.echo(f"wrote {path.name}")


def _lines(found: BudgetPlan) -> list[str]:
    from fedsecure.report.budget import number

    flows = ", ".join(f"{flow} {count}" for flow, count in found.releases.items())
    lines = [
        f"{found.sites} sites, {found.patients} patients, delta {found.delta:.1e}, U_min {found.least}, "
        f"c {found.colluders}; unit: patient, zero-out",
        f"releases of a site, at most: {flows}",
    ]
    if found.own and found.cost and found.alone and found.one_round is not None and found.share_sigma is not None:
        cost = found.cost
        lines += [
            f"epsilon {cost.epsilon:.3g} for the whole study, {found.one_round:.3g} for its first round "
            f"({cost.accountant}; continuous reference {cost.pld or float('nan'):.3g})",
            "  against whoever sees sums over sites alone and is told the noise of c of U_min sites: "
            f"U_min - c = {cost.shares}",
            f"epsilon {number(found.alone.epsilon)} against whoever reads releases one by one, as the coordinator does "
            "without secure aggregation",
            f"delta {cost.delta:.1e} = {cost.delta_dp:.1e} mechanisms + {cost.delta_sampler:.1e} sampler + "
            f"{cost.delta_graph:.1e} graph",
            f"noise multiplier {found.own.multiplier:.3g}, each site {found.share_sigma:.4g} grid units",
        ]
    else:
        lines += ["epsilon infinite", *(f"  without a guarantee: {line}" for line in found.endless)]
    lines.append("  epsilon      z    S/N of a round   AUC   TPR at 1 % FPR   naming 1 of 500")
    own = [found.own] if found.own else []
    lines += [f"{'*' if line in own else ' '} {_row(line)}" for line in (*own, *found.lines)]
    return [*lines, *(f"warning: {text}" for text in found.warnings)]


def _row(line: Line) -> str:
    m = line.meaning
    return (
        f"{line.epsilon:7.3g} {line.multiplier:6.3g} {line.signal_to_noise:16.3g} {m.auc:5.3f} "
        f"{100 * m.tpr_at_1_percent:14.1f} % {100 * m.naming_1_of_500:15.1f} %"
    )
