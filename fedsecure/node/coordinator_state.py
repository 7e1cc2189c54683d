"""What the coordinator's machine remembers. It is kept as JSON, and is what a restart begins from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fedsecure.config import Study
from fedsecure.learning.distance import Measurement
from fedsecure.node.events import Effect, SumStep
from fedsecure.node.pace import Rooms
from fedsecure.types import Flow
from protocols.messages import LeaveReason


class Phase(StrEnum):
    JOINING = "joining"
    PREPARING = "preparing"
    OPEN = "open"
    SUMMING = "summing"  # with secure aggregation: the updates of the sites that have trained are summed
    SCORING = "scoring"  # r2: the sites' scores are put together
    COLLECTING = "collecting"  # r2: the round is done, the target networks that it ended with were asked for
    AGGREGATING = "aggregating"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class RunningSum:
    """waiting: sites that were asked in `step` and have not answered. patience: deadlines of the step that passed."""

    attempt: int
    flows: tuple[Flow, ...]
    step: SumStep
    waiting: frozenset[str]
    patience: int = 0


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """`cohort` shrinks when a site leaves; `left` says why. `received` and `finished` are of the current round.

    `shared`: sites whose banks of the round before are relayed with this round.
    `target_digest`: of the round's target network, empty where there is none apart from the model; `corrected`: it is
    sent with the round; `asked`: all sites of the round are to send their own; `measured`: the last distances of the
    stage; `supplied`: site -> time at which it was last sent the target network.
    `boots`: site -> its number of starts, as it last said; `sent`: site -> time of its last OpenRound or AskForTarget.
    `sum`: the secure sum that runs; `attempts`: sums begun for the round; `agreed`: sites that know what came of the
    last one, for as long as they do not start again.
    `starts`, `partings`: what a site may still ask in a row by starting again, and by leaving.
    Times are forgotten in a restart, and what a site was sent is forgotten when it starts again: it is sent anew.
    `verdict` and `detail`: how the study ended; `parted`: sites that know; `close_by`: when the rest is not waited for.
    """

    cohort: tuple[str, ...]
    phase: Phase = Phase.JOINING
    stage: int = 0
    round: int = 0
    model_digest: bytes = b""
    joined: frozenset[str] = frozenset()
    received: frozenset[tuple[str, Flow]] = frozenset()
    finished: frozenset[str] = frozenset()
    shared: tuple[str, ...] = ()
    target_digest: bytes = b""
    corrected: bool = False
    asked: bool = False
    measured: tuple[Measurement, ...] = ()
    supplied: Mapping[str, float] = field(default_factory=dict)
    boots: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[str, float] = field(default_factory=dict)
    starts: Rooms = field(default_factory=dict)
    partings: Rooms = field(default_factory=dict)
    now: float = 0.0
    deadline: float | None = None
    left: Mapping[str, LeaveReason] = field(default_factory=dict)
    verdict: str = ""
    detail: str = ""
    parted: frozenset[str] = frozenset()
    sum: RunningSum | None = None
    attempts: int = 0
    agreed: frozenset[str] = frozenset()
    close_by: float | None = None


Outcome = tuple[CoordinatorState, tuple[Effect, ...]]


def begin(study: Study) -> CoordinatorState:
    """The state before anything happened."""
    return CoordinatorState(cohort=tuple(sorted(member.name for member in study.sites)))
