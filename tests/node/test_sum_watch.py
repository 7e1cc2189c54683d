"""What an operator is told of a secure sum while it runs, from what the coordinator's machine is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsecure.config import Study, parse_study
from fedsecure.node.coordinator_state import CoordinatorState, Phase, RunningSum, begin
from fedsecure.node.events import Event, SumDone, SumShort, SumStands, SumStep, Tick
from fedsecure.node.sum_watch import SumWatch, standing_of
from fedsecure.progress import Progress, SumAsked, SumHeard, Summed, SumStepEnded
from fedsecure.types import Flow

SITES = tuple("abcde")
STUDY: Study = parse_study({"sites": [{"name": name, "weight": 1} for name in SITES]})
AT = {"stage": 0, "round": 3}


class Bench:
    """A watch, a clock that goes on by a second at each event, and what was told."""

    def __init__(self) -> None:
        self.told: list[Progress] = []
        self.now = 0.0
        self.watch = SumWatch(self.told.append, lambda: self.now)
        running = RunningSum(0, (Flow.WEIGHTS,), SumStep.KEYS, frozenset(SITES))
        self.state = replace(begin(STUDY), phase=Phase.SUMMING, round=3, finished=frozenset(SITES), sum=running)

    def hear(self, *events: Event) -> list[Progress]:
        self.told.clear()
        for event in events:
            self.now += 1.0
            self.watch.note(self.state, event)
        return list(self.told)

    def attempt(self, number: int) -> None:
        assert self.state.sum is not None
        self.state = replace(self.state, sum=replace(self.state.sum, attempt=number))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def stands(step: SumStep, waiting: str, attempt: int = 0, told: bool = False) -> SumStands:
    return SumStands(attempt, step, tuple(waiting), told)


def test_a_step_begins_is_answered_and_ends_when_the_next_one_begins(bench: Bench) -> None:
    assert bench.hear(stands(SumStep.KEYS, "abcde", told=True), stands(SumStep.KEYS, "abde")) == [
        SumAsked(**AT, attempt=0, step="advertise-keys", sites=SITES),
        SumHeard(**AT, step="advertise-keys", site="c"),
    ]
    assert bench.hear(stands(SumStep.KEYS, ""), stands(SumStep.SHARES, "abcde", told=True)) == [
        *(SumHeard(**AT, step="advertise-keys", site=site) for site in "abde"),
        SumStepEnded(**AT, attempt=0, step="advertise-keys", asked=5, late=(), seconds=3.0),
        SumAsked(**AT, attempt=0, step="share-keys", sites=SITES),
    ]


def test_who_is_late_is_named_and_not_among_the_survivors(bench: Bench) -> None:
    bench.hear(stands(SumStep.VECTORS, "abcde", told=True), stands(SumStep.VECTORS, "e"))
    ended, asked = bench.hear(stands(SumStep.CHECKS, "abcd", told=True))
    assert ended == SumStepEnded(**AT, attempt=0, step="masked-input", asked=5, late=("e",), seconds=2.0)
    assert asked == SumAsked(**AT, attempt=0, step="consistency-check", sites=tuple("abcd"))
    bench.hear(stands(SumStep.AGREEMENT, "abcd", told=True))
    ended, done = bench.hear(SumDone(0, tuple("abcd"), tuple("abc")))
    assert isinstance(ended, SumStepEnded)
    assert done == Summed(**AT, flows=("weights",), sites=5, survivors=tuple("abcd"), agreed=3, attempts=1, seconds=4.0)


def test_an_attempt_that_is_given_up_ends_its_step_and_is_counted(bench: Bench) -> None:
    bench.hear(stands(SumStep.SHARES, "abcde", told=True), stands(SumStep.SHARES, "de"))
    (ended,) = bench.hear(SumShort(0, SumStep.SHARES, "too few"))
    assert ended == SumStepEnded(**AT, attempt=0, step="share-keys", asked=5, late=("d", "e"), seconds=2.0)
    bench.attempt(1)
    bench.hear(stands(SumStep.KEYS, "abcd", attempt=1, told=True))
    done = bench.hear(SumDone(1, tuple("abcd"), tuple("abcd")))[-1]
    assert isinstance(done, Summed)
    assert (done.attempts, done.seconds) == (2, 1.0)


def test_a_sum_of_targets_counts_its_own_attempts(bench: Bench) -> None:
    """It is the round's second sum, whose attempts go on from the first one's."""
    assert bench.state.sum is not None
    bench.state = replace(bench.state, attempts=1, sum=replace(bench.state.sum, attempt=1, flows=(Flow.TARGET,)))
    done = bench.hear(stands(SumStep.KEYS, "abcde", attempt=1, told=True), SumDone(1, SITES, SITES))[-1]
    assert isinstance(done, Summed)
    assert (done.attempts, done.flows) == (1, ("target",))


@pytest.mark.parametrize("step", [SumStep.ANSWERS, SumStep.AGREEMENT])
def test_answers_that_nothing_replaces_are_still_waited_for(bench: Bench, step: SumStep) -> None:
    bench.hear(stands(step, "abcde", told=True), stands(step, "bcde"))
    assert bench.hear(SumShort(0, step, "too few")) == []
    assert bench.hear(stands(step, "cde")) == [SumHeard(**AT, step=step, site="b")]


def test_of_another_sum_or_none_nothing_is_told(bench: Bench) -> None:
    assert bench.hear(stands(SumStep.KEYS, "abcde", attempt=7, told=True), Tick(1.0)) == []
    bench.state = replace(bench.state, sum=None)
    assert bench.hear(stands(SumStep.KEYS, "abcde", told=True)) == []


def test_after_a_restart_a_step_is_told_from_where_it_stands(bench: Bench) -> None:
    assert bench.hear(stands(SumStep.VECTORS, "de")) == [
        SumAsked(**AT, attempt=0, step="masked-input", sites=("d", "e"))
    ]


def test_status_says_step_attempt_and_who_is_waited_for(bench: Bench) -> None:
    state: CoordinatorState = bench.state
    assert state.sum is not None
    running = replace(state.sum, attempt=1, step=SumStep.VECTORS, waiting=frozenset("ace"))
    found = standing_of(replace(state, sum=running, cohort=tuple("abcd")))  # e has left
    assert found is not None
    assert (found.step, found.number, found.steps, found.attempt) == ("masked-input", 3, 6, 2)
    assert found.awaited == ("a", "c")
    assert standing_of(replace(state, sum=None)) is None
