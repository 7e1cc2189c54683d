"""`report.html`: one file with everything in it, for a reader at the hospital. No script, no request to anywhere.

All words and layout stand in `page.html` and `page.css`; this module gathers what they show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedsecure.config import OWN_SETTINGS, Framework
from fedsecure.files import write_atomic
from fedsecure.report import figures, wire, words
from fedsecure.report.arms import ARMS
from fedsecure.report.exchange import ExchangeBlock, exchange_block
from fedsecure.report.pictures import Pictures, Strip, strips, structure_colour
from fedsecure.report.results import Mode, Representation, Results
from fedsecure.report.summary import Estimate, Group, differences, means, site_means
from fedsecure.report.sums import ExposureBlock, SumBlock, exposure_blocks, sum_block
from fedsecure.report.svg import css
from fedsecure.report.targets import TargetBlock, target_block


@dataclass(frozen=True, slots=True)
class DiceLine:
    """One row of the Dice table: the random start, and beside it each framework with its paired difference."""

    labelled: int
    structure: str | None
    random: Estimate | None
    pretrained: Mapping[Framework, Estimate]
    difference: Mapping[Framework, Estimate]


@dataclass(frozen=True, slots=True)
class DiceBlock:
    mode: Mode
    chart: Markup
    lines: tuple[DiceLine, ...]


@dataclass(frozen=True, slots=True)
class WirePart:
    """Pre-training or fine-tuning, with `note` what else is in it."""

    name: wire.Part
    note: str
    kinds: tuple[wire.KindTotal, ...]
    sites: tuple[wire.SiteTotal, ...]


@dataclass(frozen=True, slots=True)
class WireBlock:
    framework: Framework
    parts: tuple[WirePart, ...]
    chart: Markup | None
    target: TargetBlock | None
    exchange: ExchangeBlock | None
    sums: SumBlock | None
    exposure: tuple[ExposureBlock, ...]

    @property
    def features(self) -> bool:
        return self._sent("features")

    @property
    def prototypes(self) -> bool:
        return self._sent("prototypes")

    @property
    def prototype_sums(self) -> bool:
        return self._sent("prototype-sum")

    def _sent(self, flow: str) -> bool:
        return any(total.flow == flow for part in self.parts for total in part.kinds)


@dataclass(frozen=True, slots=True)
class KnnLine:
    """Mean over seeds and, if `probe` is "site", over sites."""

    framework: Framework
    probe: str
    accuracy: float
    chance: float
    untrained: float | None
    norm: float
    neighbours: int


def write_report(results: Results, pictures: Pictures, path: Path) -> None:
    """Write the report of `results` to `path`.

    pictures: "<random or framework>/<mode>/<N>/<site>/<k>/image|label|prediction" -> uint8 [H, W]; may be empty.
    Raises SettingsError if matplotlib is not installed or a picture does not hold.
    """
    write_atomic(path, _page(results, pictures).encode())


def _page(results: Results, pictures: Pictures) -> str:
    settings = results.studies[0].settings
    structures: Sequence[str] = settings["data"]["structures"]
    drawn, cases = strips(pictures, structures)
    environment = Environment(
        loader=PackageLoader("fedsecure.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": words.size, "signed": words.signed, "duration": words.duration}
    return environment.get_template("page.html").render(
        results=results,
        names={framework: arm.name for framework, arm in ARMS.items()},
        about={framework: arm.about for framework, arm in ARMS.items()},
        settings=settings,
        secure=settings["security"]["secagg"],
        filling=[ARMS[framework].name for framework in results.frameworks if framework in ("fcl", "moco")],
        flat=_flat(_used(results)),
        sites=[member["name"] for member in settings["sites"]],
        losses=figures.loss_charts(results),
        dice=_dice(results, structures),
        strips=drawn,
        cases=cases,
        picture_columns=_columns(drawn),
        legend=[(name, css(structure_colour(i))) for i, name in enumerate(structures)],
        knn=_knn(results.representation),
        knn_chart=figures.knn_chart(results.representation) if results.representation else None,
        wires=[_wire(results, framework) for framework in results.frameworks],
    )


def _dice(results: Results, structures: Sequence[str]) -> list[DiceBlock]:
    mean, pairs = means(results), differences(results)
    dots = {group: list(values.values()) for group, values in site_means(results.dice).items()}

    def line(mode: Mode, labelled: int, structure: str | None) -> DiceLine:
        groups = {framework: Group(framework, mode, labelled, structure) for framework in results.frameworks}
        return DiceLine(
            labelled,
            structure,
            mean.get(Group(None, mode, labelled, structure)),
            {framework: mean[group] for framework, group in groups.items() if group in mean},
            {framework: pairs[group] for framework, group in groups.items() if group in pairs},
        )

    modes: tuple[Mode, ...] = ("local", "federated")
    blocks = []
    for mode in modes:
        labelled = sorted({group.labelled for group in mean if group.mode == mode})
        if labelled:
            lines = tuple(line(mode, n, structure) for n in labelled for structure in (*structures, None))
            blocks.append(DiceBlock(mode, figures.dice_chart(mode, mean, dots), lines))
    return blocks


def _knn(rows: Sequence[Representation]) -> list[KnnLine]:
    lines = []
    for framework, probe in dict.fromkeys((row.framework, row.probe) for row in rows):
        own = [row for row in rows if (row.framework, row.probe) == (framework, probe)]
        accuracy, chance, norm = (
            fmean(values)
            for values in zip(
                *((row.knn_partition_accuracy, row.chance, row.embedding_mean_norm) for row in own), strict=True
            )
        )
        before = [row.untrained for row in own if row.untrained is not None]
        untrained = fmean(before) if before else None
        lines.append(KnnLine(framework, probe, accuracy, chance, untrained, norm, own[0].neighbours))
    return lines


def _wire(results: Results, framework: Framework) -> WireBlock:
    rows = [row for row in results.rounds if row.framework == framework]
    sites = frozenset(member["name"] for member in results.studies[0].settings["sites"])
    chart = figures.bytes_chart(framework, rows, sites) if rows else None
    parts = []
    for name in wire.PARTS:
        if name == "fine-tuning" and not results.studies[0].settings["finetune"]["modes"]:
            continue
        baseline = name == "fine-tuning" and wire.has_baseline(results, framework)
        note = ", the random start's included" if baseline else ""
        kinds, totals = wire.by_kind(results, framework, name), wire.by_site(results, framework, name)
        parts.append(WirePart(name, note, kinds, totals))
    return WireBlock(
        framework, tuple(parts), chart, target_block(results, framework), exchange_block(results, framework),
        sum_block(results, framework), exposure_blocks(results, framework),
    )  # fmt: skip


def _columns(drawn: Sequence[Strip]) -> tuple[str, ...]:
    """All column names of the strips in order: a case may lack a start."""
    return tuple(
        dict.fromkeys(name for strip in sorted(drawn, key=lambda s: -len(s.columns)) for name in strip.columns)
    )


def _used(results: Results) -> dict[str, Any]:
    """The first study's settings, with those sections of a framework's own that some study ran under."""
    common = {name: value for name, value in results.studies[0].settings.items() if name not in OWN_SETTINGS}
    own = OWN_SETTINGS & set(results.frameworks)
    return common | {
        study.framework: study.settings[study.framework] for study in results.studies if study.framework in own
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs; sites are listed as name and weight."""
    lines: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{name}.")
        elif name == "sites":
            lines.append((f"{prefix}sites", ", ".join(f"{site['name']} (weight {site['weight']})" for site in value)))
        else:
            lines.append((prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else _plain(value)))
    return lines


def _plain(value: object) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)
