"""What crossed the wire, in totals and in plain words: who sent it, what is in it, who could read it.

The words describe this version of the protocol; they are the report's promise, so they say what is *not* protected too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fedsecure.config import Framework
from fedsecure.report.results import Results, TrafficRow

# Fine-tuning costs the same whatever the framework, and only the run that has the random start pays for that too: what
# frameworks are compared by is pre-training, which is a study's first stage (plan.schedule).
Part = Literal["pre-training", "fine-tuning"]
PARTS: Final[tuple[Part, ...]] = ("pre-training", "fine-tuning")


@dataclass(frozen=True, slots=True)
class Words:
    """What a frame holds, and who can read it."""

    holds: str
    readers: str


_RELEASES: Final[Mapping[str, Words]] = {
    "weights": Words(
        "how one site's training moved each weight of the network; nothing else in it, but computed from its images",
        "the coordinator, site by site: neither summed under masks nor noised",
    ),
    "features": Words(
        "one short vector per slice; in FCL with the number of its partition, and computed by the momentum encoder",
        "the other sites of the study; the coordinator passes it on sealed and sees size and time only",
    ),
    "prototypes": Words(
        "sums over one site's patients of their average feature in each part of the volume, each patient clipped",
        "the other sites of the study; the coordinator passes it on sealed and sees size and time only",
    ),
    "prototype-sum": Words(
        "sums over one site's patients of their average feature in each part of the volume, each patient clipped",
        "the coordinator, site by site: not summed under masks; all sites read the sum over the sites",
    ),
    "target": Words(
        "how one site's training moved each weight of its target network; sent only when all sites are asked",
        "the coordinator, site by site: neither summed under masks nor noised",
    ),
    "distance": Words(
        "one number: how far a site's target network is from what the prediction makes of its own round",
        "the coordinator",
    ),
    "metrics": Words(
        "mean scores of a site, sent only because the study asks for them",
        "the coordinator",
    ),
}
_MASKED: Final = Words(
    "a site's updates of a round as one vector of integers under masks",
    "nobody as it is; the coordinator, which opens the sum over all sites",
)
_RELAYED: Final = Words(
    "what one site shared of its features in the round before, sealed by that site",
    "the site it is sent to; not the coordinator",
)
_CORRECTION: Final = Words(
    "the target network of a round, where its prediction was off or a site could not make it", "the sites it is sent to"
)
_OTHERS: Final[Mapping[str, Words]] = {
    "release": Words("something computed from a site's images", "the coordinator"),
    "control": Words(
        "joining, ready, round numbers and receipts: no decimal number, array or free text",
        "the coordinator and the site concerned",
    ),
    "share": Words("key material of the protocol, sealed to one member", "that member alone"),
    "publish": Words(
        "the shared model of a round, and the sum of what sites released for one, signed by the coordinator",
        "every site of the study",
    ),
}


@dataclass(frozen=True, slots=True)
class KindTotal:
    """Frames of one kind, flow and direction in one part of a run: the mean over seeds."""

    direction: str
    kind: str
    flow: str
    messages: float
    bytes: float

    @property
    def words(self) -> Words:
        if self.kind == "release" and self.flow.startswith("masked "):
            return _MASKED
        if self.kind == "release" and self.flow in _RELEASES:
            return _RELEASES[self.flow]
        published = {"BankRelay": _RELAYED, "target": _CORRECTION}
        return published.get(self.flow, _OTHERS[self.kind])


@dataclass(frozen=True, slots=True)
class SiteTotal:
    """Bytes of one site in one part of a run, mean over seeds: what it sent, and what was sent to it."""

    site: str
    up: float
    down: float


def by_kind(results: Results, framework: Framework, part: Part) -> tuple[KindTotal, ...]:
    """Totals per direction, kind and flow, the largest first within a direction, up before down."""
    rows, runs = _rows(results, framework, part)
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        total = sums[row.direction, row.kind, row.flow]
        total[0] += row.messages
        total[1] += row.bytes
    totals = [KindTotal(*key, messages / runs, size / runs) for key, (messages, size) in sums.items()]
    return tuple(sorted(totals, key=lambda total: (total.direction == "down", -total.bytes, total.kind, total.flow)))


def by_site(results: Results, framework: Framework, part: Part) -> tuple[SiteTotal, ...]:
    """Totals per site, sorted by name."""
    rows, runs = _rows(results, framework, part)
    up: dict[str, int] = defaultdict(int)
    down: dict[str, int] = defaultdict(int)
    for row in rows:
        site, side = (row.node, up) if row.direction == "up" else (row.peer, down)
        side[site] += row.bytes
    return tuple(SiteTotal(site, up[site] / runs, down[site] / runs) for site in sorted(up.keys() | down.keys()))


def has_baseline(results: Results, framework: Framework) -> bool:
    """Whether the random start was fine-tuned in this framework's runs, so that its traffic is among theirs."""
    return any(study.framework == framework and study.settings["baseline"] for study in results.studies)


def _rows(results: Results, framework: Framework, part: Part) -> tuple[list[TrafficRow], int]:
    own = [row for row in results.traffic if row.framework == framework]
    return [row for row in own if (row.name == PARTS[0]) == (part == PARTS[0])], max(1, len({row.seed for row in own}))
