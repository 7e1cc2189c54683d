"""Secure sums and what could be learnt in a setting, as the report shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from fedsecure.config import Framework
from fedsecure.report.results import ExposureRow, Results, SumRow


@dataclass(frozen=True, slots=True)
class ExposureBlock:
    """One table. seeds: of the studies that have it; studies of one framework differ where their runs did."""

    seeds: tuple[int, ...]
    words: str
    rows: tuple[ExposureRow, ...]


@dataclass(frozen=True, slots=True)
class SumBlock:
    """A framework's secure sums. steps: their names, in order; longest: seconds of each step at most."""

    rows: tuple[SumRow, ...]
    steps: tuple[str, ...]
    longest: Mapping[str, float]

    @property
    def fewest(self) -> int:
        return min(row.survivors for row in self.rows)

    @property
    def again(self) -> int:
        """Attempts that were given up."""
        return sum(row.attempts - 1 for row in self.rows)

    @property
    def late(self) -> int:
        return sum(len(row.late) for row in self.rows)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)


def sum_block(results: Results, framework: Framework) -> SumBlock | None:
    """None where updates were not summed securely."""
    rows = tuple(row for row in results.sums if row.framework == framework)
    if not rows:
        return None
    longest: dict[str, float] = defaultdict(float)
    for row in rows:
        for step, seconds in row.steps.items():
            longest[step] = max(longest[step], seconds)
    return SumBlock(rows, tuple(longest), longest)


def exposure_blocks(results: Results, framework: Framework) -> tuple[ExposureBlock, ...]:
    """The tables of a framework's studies, each once."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = defaultdict(list)
    rows: dict[int, tuple[ExposureRow, ...]] = {}
    for terms in results.terms:
        if terms.framework != framework:
            continue
        own = tuple(row for row in results.exposure if (row.framework, row.seed) == (framework, terms.seed))
        found[terms.words, tuple((row.who, row.learns) for row in own)].append(terms.seed)
        rows[terms.seed] = own
    return tuple(ExposureBlock(tuple(seeds), words, rows[seeds[0]]) for (words, _), seeds in found.items())
