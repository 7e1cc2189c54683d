"""What came out of a run, in a few lines for the terminal. The report says the same with pictures and intervals."""

from __future__ import annotations

from collections.abc import Iterator

from fedsecure.config import Framework
from fedsecure.report.results import Representation, Results
from fedsecure.report.summary import Estimate, Group, differences, means
from fedsecure.report.sums import sum_block
from fedsecure.report.wire import PARTS, by_site, has_baseline
from fedsecure.report.words import size


def lines(results: Results) -> Iterator[str]:
    """Partition probe, Dice of each start with its paired difference from the random one, and bytes."""
    for row in results.representation:
        if row.probe == "pooled":
            yield (
                f"{row.framework:7} {row.neighbours}-NN partition accuracy {row.knn_partition_accuracy:.3f} "
                f"({_untrained(row)}chance {row.chance:.3f}), norm of the mean embedding {row.embedding_mean_norm:.2f}"
            )
    paired = differences(results)
    for group, dice in sorted(means(results).items(), key=lambda item: _order(item[0])):
        if group.structure is None:
            yield f"Dice, {group.mode}, N={group.labelled}: {group.framework or 'random':7} {dice.mean:.3f}" + _against(
                paired.get(group)
            )
    for framework in results.frameworks:
        yield f"{framework:7} secure sums: {_sums(results, framework)}"
    for part in PARTS:
        for framework in results.frameworks:
            sites = by_site(results, framework, part)
            up, down = sum(site.up for site in sites), sum(site.down for site in sites)
            baseline = part == "fine-tuning" and has_baseline(results, framework)
            with_random = ", random start included" if baseline else ""
            yield f"{framework:7} {part}: {size(up)} from the sites, {size(down)} to them{with_random}"


def _sums(results: Results, framework: Framework) -> str:
    block = sum_block(results, framework)
    if block is None:
        if results.studies[0].settings["security"]["secagg"]:
            return "none, as nothing was averaged"
        return "off; the coordinator could read each site's update"
    return f"{len(block.rows)}, the smallest of {block.fewest} sites, in {block.seconds:.0f} s"


def _untrained(row: Representation) -> str:
    return "" if row.untrained is None else f"untrained {row.untrained:.3f}, "


def _order(group: Group) -> tuple[str, int, str]:
    return group.mode, group.labelled, group.framework or ""


def _against(difference: Estimate | None) -> str:
    if difference is None:
        return ""
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    pairs = "1 pair" if difference.n == 1 else f"{difference.n} pairs"
    return f"   against random {difference.mean:+.3f}{interval}: {difference.verdict} ({pairs})"
