"""`evaluation.html`: what an evaluation found, for a reader. Numbers of patients, never names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from fedsecure.clinic.evaluation import MEASURES, Evaluation, Row, mean


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table: means over `patients`; missed: volumes where the structure is in prediction or reference
    alone, so that it has no distance."""

    first: str
    structure: str
    patients: int
    values: tuple[float | None, ...]
    missed: int


def page(found: Evaluation) -> str:
    """The whole page; it looks like the other reports and needs nothing else."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("fedsecure.clinic", "."), PackageLoader("fedsecure.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    sites = list(dict.fromkeys(row.site for row in found.rows))
    patients = list(dict.fromkeys((row.site, row.patient) for row in found.rows))
    return environment.get_template("evaluation.html").render(
        found=found,
        sites=sites,
        patients=len(patients),
        overall=[_line("all", name, (r for r in found.rows if r.structure == name)) for name in found.structures],
        by_site=[
            _line(site, name, (r for r in found.rows if r.structure == name and r.site == site))
            for site in sites
            for name in found.structures
        ],
        by_patient=[
            _line(f"{site} {number}", name, (r for r in found.rows if (r.site, r.patient, r.structure) == key))
            for site, number in patients
            for name in found.structures
            for key in [(site, number, name)]
        ],
    )


def _line(first: str, structure: str, rows: Iterable[Row]) -> Line:
    held = list(rows)
    return Line(
        first=first,
        structure=structure,
        patients=len({(row.site, row.patient) for row in held}),
        values=tuple(mean(held, name) for name in MEASURES),
        missed=sum(row.dice is not None and row.hd95 is None for row in held),
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
