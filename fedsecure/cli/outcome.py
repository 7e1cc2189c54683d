"""What came out of a run, in a few lines for the terminal. The report says the same with pictures and intervals."""

from __future__ import annotations

from collections.abc import Iterator

from fedsecure.report.results import Results
from fedsecure.report.summary import Estimate, Group, differences, means
from fedsecure.report.words import size


def lines(results: Results) -> Iterator[str]:
    """Partition probe, Dice of each start with its paired difference from the random one, and bytes."""
    for row in results.representation:
        if row.probe == "pooled":
            yield (
                f"{row.framework:7} {row.neighbours}-NN partition accuracy {row.knn_partition_accuracy:.3f} "
                f"(chance {row.chance:.3f}), norm of the mean embedding {row.embedding_mean_norm:.2f}"
            )
    paired = differences(results)
    for group, dice in sorted(means(results).items(), key=lambda item: _order(item[0])):
        if group.structure is None:
            yield f"Dice, {group.mode}, N={group.labelled}: {group.framework or 'random':7} {dice.mean:.3f}" + _against(
                paired.get(group)
            )
    for framework in results.frameworks:
        sent = {way: sum(row.bytes for row in results.traffic if (row.framework, row.direction) == (framework, way))
                for way in ("up", "down")}  # fmt: skip
        yield f"{framework:7} {size(sent['up'])} from the sites, {size(sent['down'])} to them"


def _order(group: Group) -> tuple[str, int, str]:
    return group.mode, group.labelled, group.framework or ""


def _against(difference: Estimate | None) -> str:
    if difference is None:
        return ""
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"   against random {difference.mean:+.3f}{interval}: {difference.verdict} ({difference.n} pairs)"
