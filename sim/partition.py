"""One data set dealt out to simulated hospitals, by patient. Each patient has exactly one hospital."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from fedsecure.errors import SettingsError
from fedsecure.seeds import derive_seed

Scheme = Literal["group", "random", "dirichlet"]
LEAST: Final = 2  # patients a hospital needs: one to train on, one to hold out
CONCENTRATION: Final = 0.5  # of the Dirichlet draw, the value commonly used for strong label skew

Parts = tuple[tuple[int, ...], ...]


def partition(groups: Sequence[str | None], sites: int, scheme: Scheme, seed: int) -> Parts:
    """Positions 0..len(groups)-1 dealt to `sites` hospitals, each sorted; every position exactly once.

    group      one hospital a group (disease, scanner) when their numbers agree, else patients sorted by group are cut
               into equal runs
    random     shuffled and dealt evenly
    dirichlet  each group is split over the hospitals in proportions drawn from Dirichlet(0.5)

    Raises SettingsError when there are not two patients for each hospital, or no groups for a scheme that needs them.
    """
    if sites < 1:
        raise SettingsError("at least one site is needed (--sites)")
    if len(groups) < LEAST * sites:
        raise SettingsError(
            f"{len(groups)} patients cannot make {sites} sites: each needs {LEAST}, one to train on and one to hold "
            f"out. Use fewer sites (--sites) or more patients."
        )
    rng = np.random.default_rng(derive_seed(seed, "partition", scheme, sites))
    match scheme:
        case "group":
            parts = _by_group(groups, sites)
        case "random":
            parts = [part.tolist() for part in np.array_split(rng.permutation(len(groups)), sites)]
        case "dirichlet":
            parts = _dirichlet(groups, sites, rng)
    return tuple(tuple(sorted(part)) for part in _at_least(parts, LEAST))


def _members(groups: Sequence[str | None]) -> dict[str, list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group or ""].append(position)
    return {group: members[group] for group in sorted(members)}


def _by_group(groups: Sequence[str | None], sites: int) -> list[list[int]]:
    if None in groups:
        raise SettingsError("this data source names no group for some patients: use --partition random or dirichlet")
    members = _members(groups)
    if len(members) == sites:
        return list(members.values())
    ordered = [position for group in members.values() for position in group]
    return [part.tolist() for part in np.array_split(np.array(ordered), sites)]


def _dirichlet(groups: Sequence[str | None], sites: int, rng: np.random.Generator) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(sites)]
    for positions in _members(groups).values():
        shares = rng.dirichlet(np.full(sites, CONCENTRATION))
        cuts = np.round(np.cumsum(shares)[:-1] * len(positions)).astype(int)
        for part, chunk in zip(parts, np.split(rng.permutation(positions), cuts), strict=True):
            part.extend(chunk.tolist())
    return parts


def _at_least(parts: list[list[int]], least: int) -> list[list[int]]:
    """Move patients from the largest hospitals to those that have too few."""
    while min(map(len, parts)) < least:
        max(parts, key=len).sort()
        min(parts, key=len).append(max(parts, key=len).pop())
    return parts
