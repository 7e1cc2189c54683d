"""The machine's part of secure sums, by hand: when a step is over, when a sum is given up, and what changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsecure.config import Study, parse_study
from fedsecure.node.coordinator import step
from fedsecure.node.coordinator_state import CoordinatorState, Phase, begin
from fedsecure.node.coordinator_sum import PATIENCE
from fedsecure.node.events import (
    Aggregate,
    AskAgain,
    CloseSumStep,
    FrameIn,
    OpenRound,
    OpenSum,
    Restarted,
    Stop,
    SumDone,
    SumShort,
    SumStands,
    SumStep,
    TakeForSum,
    Tick,
)
from fedsecure.plan import least_sites
from fedsecure.types import Flow
from protocols.messages import Hello, Leave, LeaveReason, RoundDone
from protocols.secagg.messages import ResultAgreement

SITES = ("a", "b", "c", "d", "e", "f")  # t = 4


def study(**settings: Any) -> Study:
    sites = [{"name": name, "weight": 1} for name in SITES]
    return parse_study({"sites": sites, "security": {"secagg": True}, "framework": "simclr", **settings})


def summing(of: Study) -> tuple[CoordinatorState, tuple[Any, ...]]:
    """All have trained."""
    state = replace(begin(of), phase=Phase.OPEN, model_digest=bytes(32), joined=frozenset(SITES), now=1.0)
    effects: tuple[Any, ...] = ()
    for site in SITES:
        state, effects = step(of, state, FrameIn(site, RoundDone(0, 0)))
    return state, effects


MANY = tuple(f"s{number:03}" for number in range(110))  # a sparse graph: t = 66, and 99 must be there


def many(at: SumStep) -> tuple[Study, CoordinatorState]:
    """A sum of more than 100 sites, in a step that all were asked for."""
    of = study(sites=[{"name": name, "weight": 1} for name in MANY])
    state = replace(begin(of), phase=Phase.OPEN, model_digest=bytes(32), joined=frozenset(MANY), now=1.0)
    for site in MANY:
        state, _ = step(of, state, FrameIn(site, RoundDone(0, 0)))
    state, _ = step(of, state, SumStands(0, at, MANY, told=True))
    return of, state


def of_kind(effects: tuple[Any, ...], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_round_ends_in_a_sum_of_all_who_trained_and_then_in_the_model() -> None:
    of = study()
    state, effects = summing(of)
    assert of_kind(effects, OpenSum) == [OpenSum(0, 0, 0, (Flow.WEIGHTS,), SITES)]
    for at in SumStep:
        state, effects = step(of, state, SumStands(0, at, SITES, told=True))
        assert not of_kind(effects, CloseSumStep)
        state, effects = step(of, state, SumStands(0, at, ()))
        assert of_kind(effects, CloseSumStep) == [CloseSumStep(0, at)]
    state, effects = step(of, state, SumDone(0, SITES[:5], SITES[:4]))
    assert of_kind(effects, Aggregate) == [Aggregate(0, 0, SITES[:5])]
    assert (state.phase, state.sum, state.agreed) == (Phase.AGGREGATING, None, frozenset(SITES[:4]))


def test_a_step_is_closed_at_its_deadline_and_counts_anew_in_the_next() -> None:
    of = study(security={"secagg": True, "step_deadline_s": 10.0})
    state, _ = summing(of)
    state, _ = step(of, state, SumStands(0, SumStep.KEYS, SITES, told=True))
    state, _ = step(of, state, Tick(5.0))
    state, effects = step(of, state, Tick(14.0))
    assert not effects
    state, effects = step(of, state, Tick(15.0))
    assert of_kind(effects, CloseSumStep) == [CloseSumStep(0, SumStep.KEYS)]
    state, _ = step(of, state, SumStands(0, SumStep.SHARES, SITES[1:], told=True))
    state, _ = step(of, state, Tick(16.0))
    assert state.deadline == 26.0


@pytest.mark.parametrize("at", [SumStep.KEYS, SumStep.SHARES, SumStep.VECTORS, SumStep.CHECKS])
def test_too_few_before_unmasking_begin_the_next_attempt_until_sites_would_not(at: SumStep) -> None:
    of = study()
    state, _ = summing(of)
    for attempt in (1, 2):
        state, effects = step(of, state, SumShort(attempt - 1, at, "too few"))
        assert of_kind(effects, OpenSum) == [OpenSum(0, 0, attempt, (Flow.WEIGHTS,), SITES)]
    state, effects = step(of, state, SumShort(2, at, "too few"))
    assert (state.phase, state.verdict) == (Phase.CLOSED, "aborted")
    assert not of_kind(effects, OpenSum)


@pytest.mark.parametrize("at", [SumStep.ANSWERS, SumStep.AGREEMENT])
def test_from_the_unmasking_on_no_other_sum_is_begun_and_patience_ends(at: SumStep) -> None:
    of = study()
    state, _ = summing(of)
    state, _ = step(of, state, SumStands(0, at, SITES, told=True))
    for _ in range(PATIENCE):
        state, effects = step(of, state, SumShort(0, at, "too few"))
        assert (state.phase, effects) == (Phase.SUMMING, ())
    state, effects = step(of, state, SumShort(0, at, "too few"))
    assert state.phase is Phase.CLOSED
    assert "the same sites or not at all" in state.detail
    assert not of_kind(effects, OpenSum)


def test_of_many_sites_who_signed_joins_no_other_sum_so_that_too_few_signatures_are_waited_for() -> None:
    of, state = many(SumStep.CHECKS)
    for _ in range(PATIENCE):
        state, effects = step(of, state, SumShort(0, SumStep.CHECKS, "too few"))
        assert (state.phase, effects) == (Phase.SUMMING, ())
    state, _ = step(of, state, SumShort(0, SumStep.CHECKS, "too few"))
    assert "the same sites or not at all" in state.detail
    of, state = many(SumStep.VECTORS)
    state, effects = step(of, state, SumShort(0, SumStep.VECTORS, "too few"))
    assert of_kind(effects, OpenSum) == [OpenSum(0, 0, 1, (Flow.WEIGHTS,), MANY)]


def test_of_many_sites_a_veto_takes_a_vector_out_until_the_others_have_signed_it() -> None:
    for at, anew in ((SumStep.VECTORS, True), (SumStep.CHECKS, False)):
        of, state = many(at)
        state, _ = step(of, state, SumStands(0, at, MANY[50:], told=False))
        state, effects = step(of, state, FrameIn(MANY[0], Leave(LeaveReason.VETOED)))
        assert [opened.sites for opened in of_kind(effects, OpenSum)] == ([MANY[1:]] if anew else [])
        assert state.phase is Phase.SUMMING


def test_of_many_sites_nine_in_ten_must_be_there() -> None:
    of, state = many(SumStep.KEYS)
    assert least_sites(of) == 99
    for site in MANY[:12]:
        state, _ = step(of, state, FrameIn(site, Leave(LeaveReason.FAILED)))
    assert (state.verdict, state.detail) == ("aborted", "fewer sites are left than a secure sum needs")


def test_what_is_said_of_another_attempt_changes_nothing() -> None:
    of = study()
    state, _ = summing(of)
    state, _ = step(of, state, SumShort(0, SumStep.KEYS, "too few"))
    for event in (SumStands(0, SumStep.SHARES, ()), SumShort(0, SumStep.KEYS, "x"), SumDone(0, SITES, SITES)):
        assert step(of, state, event) == (state, ())


@pytest.mark.parametrize(
    ("at", "waiting", "reason", "anew"),
    [
        (SumStep.SHARES, SITES[1:], LeaveReason.VETOED, False),  # its vector is not in
        (SumStep.VECTORS, SITES, LeaveReason.VETOED, False),
        (SumStep.VECTORS, SITES[1:], LeaveReason.VETOED, True),
        (SumStep.CHECKS, SITES, LeaveReason.VETOED, True),
        (SumStep.CHECKS, SITES, LeaveReason.FAILED, False),
        (SumStep.ANSWERS, SITES, LeaveReason.VETOED, False),  # too late
    ],
)
def test_a_veto_takes_a_vector_out_until_it_may_be_unmasked(
    at: SumStep, waiting: tuple[str, ...], reason: LeaveReason, anew: bool
) -> None:
    of = study()
    state, _ = summing(of)
    state, _ = step(of, state, SumStands(0, at, waiting, told=True))
    state, effects = step(of, state, FrameIn("a", Leave(reason)))
    assert [opened.sites for opened in of_kind(effects, OpenSum)] == ([SITES[1:]] if anew else [])
    assert state.phase is Phase.SUMMING


def test_fewer_than_open_a_sum_end_the_study() -> None:
    of = study()
    state, _ = summing(of)
    for site in SITES[:2]:
        state, effects = step(of, state, FrameIn(site, Leave(LeaveReason.FAILED)))
        assert not of_kind(effects, Stop)
    state, _ = step(of, state, FrameIn("c", Leave(LeaveReason.FAILED)))
    assert (state.verdict, state.detail) == ("aborted", "fewer sites are left than a secure sum needs")


def test_a_site_that_speaks_without_having_answered_is_asked_again_and_others_are_not() -> None:
    of = study()
    state, _ = summing(of)
    state, _ = step(of, state, SumStands(0, SumStep.KEYS, ("a",), told=False))
    state, effects = step(of, state, FrameIn("b", Hello(1, 0, 0, True)))
    assert not effects
    state, effects = step(of, state, FrameIn("a", Hello(1, 0, 0, True)))
    assert effects == (AskAgain("a"),)
    assert step(of, state, FrameIn("a", Hello(1, 0, 0, True)))[1] == ()


def test_a_restart_goes_on_with_the_same_attempt_and_answers_go_to_the_shell() -> None:
    of = study()
    state, _ = summing(of)
    state, effects = step(of, state, Restarted())
    assert of_kind(effects, OpenSum) == [OpenSum(0, 0, 0, (Flow.WEIGHTS,), SITES)]
    agreement = ResultAgreement(bytes(32), bytes(64))
    assert step(of, state, FrameIn("a", agreement))[1] == (TakeForSum("a", agreement),)


def test_a_site_that_missed_the_end_of_pre_training_is_shown_it_before_the_round_that_is_open() -> None:
    of = study(pretrain={"rounds": 3})
    state = replace(begin(of), phase=Phase.OPEN, stage=1, model_digest=bytes(32), joined=frozenset(SITES), now=1.0)
    missed = OpenRound("a", 0, 3, (), False, False, True)
    for place in ((-1, -1), (0, 2)):
        after, effects = step(of, state, FrameIn("a", Hello(1, *place, place[0] >= 0)))
        assert effects == (missed,)
        assert step(of, after, FrameIn("a", Hello(1, *place, place[0] >= 0)))[1] == ()  # it is on its way
        assert step(of, after, FrameIn("a", Hello(1, 0, 3, False)))[1] == ()  # it is working
        assert [(o.stage, o.round) for o in step(of, after, FrameIn("a", Hello(1, 0, 3, True)))[1]] == [(1, 0)]
    plain = study(pretrain={"rounds": 3}, security={"secagg": False})
    assert [(o.stage, o.round) for o in step(plain, state, FrameIn("a", Hello(1, -1, -1, False)))[1]] == [(1, 0)]
