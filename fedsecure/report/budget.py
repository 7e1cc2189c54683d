"""What a run has cost its patients: read from its sites' folders, for a privacy officer, as one page and as JSON.

What each site has spent is in `spending`. Fields are those of the reporting items of arXiv 2303.00654 and the questions
of NIST SP 800-226, level by level.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsecure.config import Study, load
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.plan import shared_flow
from fedsecure.privacy import gdp
from fedsecure.privacy.events import ADJACENCY, UNIT
from fedsecure.privacy.mechanism import statement
from fedsecure.report.provenance import commit
from fedsecure.report.questions import LIMITS, WITHDRAWAL, Answer, questions, trust
from fedsecure.report.spending import SiteBudget, spending
from fedsecure.types import Flow

NOTHING: Final = "Nothing was released: by record and ledger no site has sent anything computed from its volumes."


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """Three numbers that are never mixed: what was designed for, what the accountant says, what an audit bounds."""

    study: str
    study_digest: str
    claim: str
    unit: str
    adjacency: str
    design_target: float | None
    accounted: float  # against whoever sees sums over sites alone
    against_coordinator: float  # who reads each site's release, as if there were no secure aggregation
    audited_lower_bound: float | None  # None: no audit of this run
    delta: float
    meaning: gdp.Meaning  # of the coordinator's epsilon
    accountant: str
    second_accountant: str
    second_value: float | None  # None: too large to be worth computing
    sites: tuple[SiteBudget, ...]
    released: tuple[str, ...]
    noise: str
    sampling: str
    clipping: str
    share_clipped: float | None
    secure_aggregation: str
    tuning: str
    utility: str
    trust: tuple[str, ...]
    withdrawal: str
    limits: tuple[str, ...]
    questions: tuple[Answer, ...]
    fedsecure: str
    commit: str | None


def read(run: Path) -> BudgetReport:
    """Raises SettingsError for a folder that is no run and where a site's budget is unknown, GateRefused for a ledger
    that is not whole."""
    folders = sorted(path.parent for path in run.glob("sites/*/study.json"))
    if not folders:
        raise SettingsError("no run with sites in it: name the folder of one framework's run (it holds sites/)")
    study = load(Study, (folders[0] / "study.json").read_bytes())
    patients = sum(member.weight for member in study.sites)
    delta = study.privacy.delta or min(1e-6, 1 / (100 * patients))
    sites = tuple(spending(folder, study, delta) for folder in folders)
    worst = max((site.spent for site in sites), key=lambda cost: cost.epsilon)
    alone = max((site.alone for site in sites), key=lambda cost: cost.epsilon)
    flows = sorted({line.flow for site in sites for line in site.flows})
    claim = statement(worst, alone, ", ".join(flows)) if flows else NOTHING
    return BudgetReport(
        study=study.name,
        study_digest=study.digest().hex(),
        claim=claim,
        unit=f"{UNIT}: all volumes, frames, slices and views of one",
        adjacency=f"{ADJACENCY}: the neighbour's patient contributes nothing; cohort sizes are constants of the study",
        design_target=study.privacy.epsilon,
        accounted=worst.epsilon,
        against_coordinator=alone.epsilon,
        audited_lower_bound=None,
        delta=delta,
        meaning=gdp.meaning(gdp.mu_of(alone.epsilon, delta) if alone.epsilon > 0 else 0.0),
        accountant=worst.accountant,
        second_accountant="PLD, which takes the noise for continuous" if worst.discrete else "RDP",
        second_value=worst.pld if worst.discrete else worst.rdp,
        sites=sites,
        released=tuple(flows),
        noise=_noise(study),
        sampling="none is claimed" if study.privacy.sampling == 1 else f"Poisson, rate {study.privacy.sampling:g}",
        clipping=_clipping(study),
        share_clipped=None,
        secure_aggregation="of updates: the coordinator reads their sum over the sites that stayed in a round, and "
        "each site's other releases"
        if study.security.secagg
        else "off in this study: the coordinator reads each site's release",
        tuning="not recorded: earlier runs on the same patients cost them too, and so did the doctor's comparison of "
        "label map, modality and spacing range, which has no noise; neither is counted here",
        utility="Dice with and without is in the run's own report; a run without privacy has nothing to compare",
        trust=trust(_on(study), _prototypes(study)),
        withdrawal=WITHDRAWAL,
        limits=LIMITS,
        questions=questions(_on(study)),
        fedsecure=version("fedsecure"),
        commit=commit(),
    )


def to_json(report: BudgetReport) -> bytes:
    """Infinity as the string "infinite": JSON has no such number, and null would read as "not known"."""
    return msgspec.json.format(msgspec.json.encode(_plain(asdict(report))), indent=2) + b"\n"


def write(report: BudgetReport, folder: Path) -> tuple[Path, Path]:
    """`budget.html` and `budget.json` into `folder`."""
    environment = Environment(
        loader=PackageLoader("fedsecure.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["finite"] = math.isfinite
    page, raw = folder / "budget.html", folder / "budget.json"
    write_atomic(page, environment.get_template("budget.html").render(report=report).encode())
    write_atomic(raw, to_json(report))
    return page, raw


def number(value: float | None) -> str:
    """Three digits, "infinite", or "not measured"."""
    if value is None:
        return "not measured"
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def _noise(study: Study) -> str:
    if not _on(study):
        return "none"
    return (
        "discrete Gaussian on the integer grid, by each site, from the operating system's entropy (AES-256-CTR); "
        f"z = {study.privacy.noise_multiplier or 'found from epsilon'}"
    )


def _clipping(study: Study) -> str:
    parts = []
    if _on(study):
        parts.append(f"{study.privacy.contribution}, C = {study.privacy.clip_units} grid units")
    if _prototypes(study):
        clip = study.pretrain.prototype_clip
        parts.append(f"each row of entries for prototypes to C_f = {clip:g} by the gate, where it is summed")
    return "; ".join(parts) or "none"


def _prototypes(study: Study) -> bool:
    return shared_flow(study) in (Flow.PROTOTYPES, Flow.PROTOTYPE_SUM)


def _on(study: Study) -> bool:
    return study.privacy.enabled


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float() if math.isinf(value):
            return "infinite"
        case _:
            return value
