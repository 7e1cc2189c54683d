"""What the rows say: means, and the paired difference between a pre-trained and a random start.

A site's Dice is the mean over its held-out patients, so that a site with many patients does not outvote the others. The
labelled patients are drawn anew for each site and seed, and both starts get the same ones: pairing by (mode, N, seed,
site) takes that draw, the largest source of spread, out of the difference.

What is counted, the unit, is one training. Local fine-tuning trains one network a site: the unit is a site under a
seed. Federated fine-tuning trains one network for all: its sites are averaged first, and the unit is the seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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


class Place(NamedTuple):
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


def site_means(rows: Iterable[DiceRow]) -> dict[Group, dict[Place, float]]:
    """Mean Dice over the patients of each site and seed, per structure and, under None, over the structures."""
    dice: dict[Group, dict[Place, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        group = Group(row.framework, row.mode, row.labelled, row.structure)
        dice[group][Place(row.seed, row.site)].append(row.dice)
    means = {group: {place: fmean(values) for place, values in sites.items()} for group, sites in dice.items()}
    overall: dict[Group, dict[Place, list[float]]] = defaultdict(lambda: defaultdict(list))
    for group, sites in means.items():
        for place, mean in sites.items():
            overall[Group(group.framework, group.mode, group.labelled, None)][place].append(mean)
    return means | {group: {place: fmean(v) for place, v in sites.items()} for group, sites in overall.items()}


def means(results: Results) -> dict[Group, Estimate]:
    """Per group the mean over units."""
    return {group: estimate(_by_unit(group.mode, sites)) for group, sites in site_means(results.dice).items()}


def differences(results: Results) -> dict[Group, Estimate]:
    """Per pre-trained group: pre-trained minus random, site by site and seed by seed where both are, then by unit.

    A group without any pair is absent.
    """
    found = site_means(results.dice)
    pairs = {}
    for group, sites in found.items():
        random = found.get(Group(None, group.mode, group.labelled, group.structure), {})
        shared = sorted(sites.keys() & random.keys())
        if group.framework is not None and shared:
            pairs[group] = estimate(_by_unit(group.mode, {place: sites[place] - random[place] for place in shared}))
    return pairs


def _by_unit(mode: Mode, sites: Mapping[Place, float]) -> list[float]:
    if mode == "local":
        return list(sites.values())
    seeds: dict[int, list[float]] = defaultdict(list)
    for place, value in sites.items():
        seeds[place.seed].append(value)
    return [fmean(values) for values in seeds.values()]
