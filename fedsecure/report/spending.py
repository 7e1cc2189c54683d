"""What one site's patients have spent, from its folder: what its ledger was charged, held against its record of all it
sent.

Neither is believed alone. A ledger says nothing of what went past it, and the record nothing of the noise: a release
that the record calls non-private is one, whatever the ledger says, and one with noise that the ledger was not charged
for leaves the budget unknown, as does a record that is not there.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fedsecure.config import Study
from fedsecure.egress import MASKED, NON_PRIVATE, REPEAT
from fedsecure.errors import SettingsError
from fedsecure.learning.shapes import model_schema, target_schema
from fedsecure.learning.sparse import sent_schema
from fedsecure.plan import has_target
from fedsecure.privacy.accountant import Spent, spent
from fedsecure.privacy.chain import Charged
from fedsecure.privacy.events import DiscreteGaussian, Event, Gaussian, NonPrivate, read_alone
from fedsecure.privacy.ledger import open_ledger
from fedsecure.privacy.planning import releases
from fedsecure.report.sum_bytes import sum_bytes
from fedsecure.types import Flow

LEDGER: Final = "ledger.db"
RECORD: Final = "node.db"


@dataclass(frozen=True, slots=True)
class FlowLine:
    """One flow of a site. alone: its epsilon if nothing else had left; without: what all others cost without it."""

    flow: str
    releases: int
    planned: int
    alone: float
    without: float


@dataclass(frozen=True, slots=True)
class SiteBudget:
    """spent: against whoever sees sums over sites alone; alone: against whoever reads releases one by one.
    `cap` and `left` are None without a cap; `head` is the ledger's, empty without one."""

    site: str
    spent: Spent
    alone: Spent
    flows: tuple[FlowLine, ...]
    cap: float | None
    left: float | None
    withdrawals: int
    head: str
    masked: Masked


@dataclass(frozen=True, slots=True)
class Masked:
    """Vectors that a site put into secure sums: how many, their bytes on record, and what the protocol says of so many
    (report/sum_bytes.py)."""

    vectors: int
    bytes: int
    modelled: float


class _Row(NamedTuple):
    """Releases of one flow in one round, by the record."""

    flow: str
    event: str
    stage: int
    round: int
    times: int


def spending(folder: Path, study: Study, delta: float) -> SiteBudget:
    """Raises SettingsError, naming the site, where what it has spent cannot be known; GateRefused for a ledger that is
    not whole."""
    charged, cap, withdrawals, head = _charged(folder / LEDGER, study.digest().hex())
    bare = _unaccounted(_released(folder), charged, folder.name)
    events = (*(event for entry in charged for event in entry.events), *bare)
    total, alone = spent(events, delta), spent(read_alone(events), delta, reference=False)
    left = None if cap is None else max(0.0, cap - total.epsilon)
    flows, masked = _flows(study, events, delta), _masked(folder / RECORD, study)
    return SiteBudget(folder.name, total, alone, flows, cap, left, withdrawals, head, masked)


def _charged(path: Path, study: str) -> tuple[tuple[Charged, ...], float | None, int, str]:
    """What a study was charged, its cap, its withdrawals and the ledger's head; nothing of it without a ledger."""
    if not path.is_file():
        return (), None, 0, ""
    with open_ledger(path) as ledger:
        caps = [opened.cap.epsilon for opened in ledger.studies() if opened.study == study and opened.cap]
        return ledger.charges(study), next(iter(caps), None), ledger.withdrawals(study), ledger.head.digest.hex()


def _released(folder: Path) -> tuple[_Row, ...]:
    """All that ever left but for what was sent again. Raises SettingsError without a record that can be read."""
    path = folder / RECORD
    if not path.is_file():
        raise SettingsError(f"{folder.name} has no record of what it sent ({RECORD}): its budget is unknown")
    query = (
        "SELECT flow, event, stage, round, count(*) FROM sent WHERE kind = 'release' AND event != ? "
        "GROUP BY flow, event, stage, round ORDER BY stage, round, flow, event"
    )
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return tuple(each for row in db.execute(query, (REPEAT,)) for each in _by_flow(_Row(*row)))
    except sqlite3.DatabaseError:
        raise SettingsError(
            f"{folder.name}'s record of what it sent ({RECORD}) cannot be read: its budget is unknown"
        ) from None


def _by_flow(row: _Row) -> tuple[_Row, ...]:
    """A masked vector is a release of each flow that is in it."""
    return tuple(row._replace(flow=flow) for flow in _joined(row.flow) or (row.flow,))


def _joined(flow: str) -> tuple[str, ...]:
    """The flows of a masked vector, by its name on record ("masked target+weights"); none of anything else."""
    return tuple(flow.removeprefix(MASKED).split("+")) if flow.startswith(MASKED) else ()


def _masked(record: Path, study: Study) -> Masked:
    query = "SELECT flow, stage, round, bytes FROM sent WHERE kind = 'release' AND event != ? AND flow LIKE ?"
    with closing(sqlite3.connect(f"file:{record}?mode=ro", uri=True)) as db:
        rows = db.execute(query, (REPEAT, f"{MASKED}%")).fetchall()
    modelled = 0.0
    for flow, stage, round_, _ in rows:
        model = sent_schema(study, stage, round_, model_schema(study, stage))
        target = target_schema(study) if has_target(study, stage, round_) else ()
        modelled += sum_bytes(study, tuple(map(Flow, _joined(flow))), model, target).vector
    return Masked(len(rows), sum(size for *_, size in rows), modelled)


def _unaccounted(released: Sequence[_Row], charged: Sequence[Charged], site: str) -> tuple[NonPrivate, ...]:
    """What left without noise and is not in the ledger as that. Raises SettingsError for noise that was not charged.

    A charge covers one release of its flow in its round.
    """
    bare, noised = Counter[tuple[str, int, int]](), Counter[tuple[str, int, int]]()
    for entry in charged:
        for event in entry.events:
            kind = bare if isinstance(event, NonPrivate) else noised
            kind[event.flow, entry.stage, entry.round] += 1
    found: Counter[str] = Counter()
    for row in released:
        place = row.flow, row.stage, row.round
        if row.event == NON_PRIVATE:
            found[row.flow] += max(0, row.times - bare[place])
        elif row.times > bare[place] + noised[place]:
            raise SettingsError(
                f"{site} released {row.flow} in round {row.round + 1} of stage {row.stage} with noise, and its ledger "
                "was not charged for it: its budget is unknown"
            )
    reason = "released without noise"
    return tuple(NonPrivate(flow=flow, count=count, reason=reason) for flow, count in sorted(found.items()) if count)


def _flows(study: Study, events: Sequence[Event], delta: float) -> tuple[FlowLine, ...]:
    planned, lines = releases(study), []
    for flow in sorted({event.flow for event in events}):
        own = [event for event in events if event.flow == flow]
        others = [event for event in events if event.flow != flow]
        count = sum(event.count for event in own if isinstance(event, Gaussian | DiscreteGaussian | NonPrivate))
        alone, without = (spent(part, delta, reference=False).epsilon for part in (own, others))
        lines.append(FlowLine(flow, count, planned[flow], alone, without))
    return tuple(lines)
