"""What the coordinator's operator is told of secure sums: each step that begins, who has answered, who was late, and
what came of it. It listens to what the shell tells its machine, and keeps nothing over a restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fedsecure.node.coordinator_state import CoordinatorState
from fedsecure.node.events import Event, SumDone, SumShort, SumStands, SumStep
from fedsecure.node.vitals import SumStanding
from fedsecure.progress import Observe, SumAsked, SumHeard, Summed, SumStepEnded

_PATIENT: Final = frozenset({SumStep.ANSWERS, SumStep.AGREEMENT})  # in which answers are waited for, however long


@dataclass(slots=True)
class _Step:
    """The step that runs. asked: how many were waited for when it began, or when this node began to look."""

    attempt: int
    step: SumStep
    asked: int
    waiting: set[str]
    began: float


@dataclass(slots=True)
class SumWatch:
    """observe: takes the events. clock: seconds, of which differences are told."""

    observe: Observe
    clock: Callable[[], float]
    _running: _Step | None = None
    _sum: tuple[int, int, int] = (-1, -1, -1)  # stage, round, attempt
    _began: float = 0.0

    def note(self, state: CoordinatorState, event: Event) -> None:
        """state: the coordinator's before the event. Of another sum than the one that runs nothing is told."""
        if not isinstance(event, SumStands | SumShort | SumDone) or state.sum is None:
            return
        if event.attempt != state.sum.attempt:
            return
        place = state.stage, state.round, event.attempt
        if self._sum != place:
            self._running, self._sum, self._began = None, place, self.clock()
        match event:
            case SumStands():
                self._stands(event)
            case SumShort(step=step):
                if step not in _PATIENT:
                    self._end()
            case SumDone():
                self._end()
                self._summed(state, tuple(state.sum.flows), event)

    def _stands(self, event: SumStands) -> None:
        stage, round_, attempt = self._sum
        now = self._running
        if now is None or now.step is not event.step:
            self._end()
            self._running = _Step(attempt, event.step, len(event.waiting), set(event.waiting), self.clock())
            self.observe(SumAsked(stage=stage, round=round_, attempt=attempt, step=event.step, sites=event.waiting))
            return
        for site in sorted(now.waiting.difference(event.waiting)):
            now.waiting.discard(site)
            self.observe(SumHeard(stage=stage, round=round_, step=event.step, site=site))

    def _end(self) -> None:
        ended, self._running = self._running, None
        if ended is None:
            return
        stage, round_, _ = self._sum
        late, seconds = tuple(sorted(ended.waiting)), self.clock() - ended.began
        self.observe(
            SumStepEnded(
                stage=stage, round=round_, attempt=ended.attempt, step=ended.step, asked=ended.asked, late=late,
                seconds=seconds,
            )
        )  # fmt: skip

    def _summed(self, state: CoordinatorState, flows: tuple[str, ...], event: SumDone) -> None:
        self.observe(
            Summed(
                stage=state.stage, round=state.round, flows=flows, sites=len(state.finished),
                survivors=event.survivors, agreed=len(event.agreed), attempts=event.attempt + 1 - state.attempts,
                seconds=self.clock() - self._began,
            )
        )  # fmt: skip


def standing_of(state: CoordinatorState) -> SumStanding | None:
    """Where the coordinator's running sum is, and for whom it waits: who has not answered and has not left."""
    if state.sum is None:
        return None
    steps, awaited = tuple(SumStep), state.sum.waiting.intersection(state.cohort)
    return SumStanding(
        step=state.sum.step, number=steps.index(state.sum.step) + 1, steps=len(steps), attempt=state.sum.attempt + 1,
        awaited=tuple(sorted(awaited)),
    )  # fmt: skip
