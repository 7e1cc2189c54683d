"""What the rows say: means, and the paired difference between a pre-trained and a random start.

The unit is one site under one seed. Its Dice is the mean over its held-out patients, so that a site with many patients
does not outvote the others. The labelled patients are drawn anew for each site and seed, and both starts get the same
ones: pairing by (mode, N, seed, site) takes that draw, the largest source of spread, out of the difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from fedsecure.config import Framework
from fedsecure.report.results import DiceRow, Mode, Results

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean of `n` values with sample SD and two-sided 95 % t-interval; SD and interval are None for n = 1."""

    mean: float
    n: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """What the interval says when the values are differences from zero."""
        if self.low is None or self.high is None:
            return "too few pairs"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "no difference measurable"


@dataclass(frozen=True, slots=True)
class Group:
    """One line of a table. `framework` is None for a random start, `structure` None for the mean over structures."""

    framework: Framework | None
    mode: Mode
    labelled: int
    structure: str | None


class Unit(NamedTuple):
    """One site under one seed."""

    seed: int
    site: str


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, SD and interval of at least one value."""
    n = len(values)
    mean = fmean(values)
    if n < 2:
        return Estimate(mean, n)
    from scipy.special import stdtrit  # the t quantile without loading all of scipy.stats

    sd = stdev(values)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / sqrt(n)
    return Estimate(mean, n, sd, mean - half, mean + half)


def unit_means(rows: Iterable[DiceRow]) -> dict[Group, dict[Unit, float]]:
    """Mean Dice over the patients of each site and seed, per structure and, under None, over the structures."""
    dice: dict[Group, dict[Unit, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = Group(row.framework, row.mode, row.labelled, row.structure)
        dice[group][Unit(row.seed, row.site)].append(row.dice)
    means = {group: {unit: fmean(values) for unit, values in units.items()} for group, units in dice.items()}
    overall: dict[Group, dict[Unit, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group, units in means.items():
        for unit, mean in units.items():
            overall[Group(group.framework, group.mode, group.labelled, None)][unit].append(mean)
    return means | {group: {unit: fmean(v) for unit, v in units.items()} for group, units in overall.items()}


def means(results: Results) -> dict[Group, Estimate]:
    """Per group the mean over sites and seeds of the site means."""
    return {group: estimate(list(units.values())) for group, units in unit_means(results.dice).items()}


def differences(results: Results) -> dict[Group, Estimate]:
    """Per pre-trained group: pre-trained minus random, over the sites and seeds that have both.

    A group without any pair is absent.
    """
    found = unit_means(results.dice)
    pairs = {}
    for group, units in found.items():
        random = found.get(Group(None, group.mode, group.labelled, group.structure), {})
        shared = sorted(units.keys() & random.keys())
        if group.framework is not None and shared:
            pairs[group] = estimate([units[unit] - random[unit] for unit in shared])
    return pairs
