"""A cheap frame has no large answer at will, and an honest node that lost one is answered at its next try."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import Study, parse_study
from fedsecure.node import coordinator, site
from fedsecure.node.coordinator_end import PARTINGS
from fedsecure.node.coordinator_members import STARTS
from fedsecure.node.coordinator_state import CoordinatorState, Phase, begin
from fedsecure.node.coordinator_target import RESEND_AFTER_S
from fedsecure.node.events import (
    CloseStudy,
    Effect,
    Event,
    FrameIn,
    OpenRound,
    Prepared,
    Refuse,
    ReleaseTarget,
    Resend,
    Restarted,
    SayWantTarget,
    TargetFound,
    Tick,
    TrainDone,
)
from fedsecure.node.pace import Pace
from fedsecure.node.site import AGAIN, HELLO_EVERY_S, TOO_OFTEN, SiteState
from protocols.messages import AskTargets, Hello, Leave, LeaveReason, RoundOpen, TargetRef, model_digest

STUDY: Study = parse_study(
    {
        "sites": [{"name": name, "weight": 2} for name in ("a", "b", "c")],
        "pretrain": {"rounds": 2},
        "security": {"secagg": False},
    }
)
FCLOPT: Study = parse_study({**STUDY.model_dump(mode="json"), "framework": "fclopt"})
FLOOD = 200


@given(st.floats(1, 20), st.floats(0.1, 5), st.lists(st.floats(0, 3), max_size=60))
def test_a_pace_is_a_burst_and_then_so_many_a_second(burst: float, per_s: float, gaps: list[float]) -> None:
    pace, rooms, now, answered = Pace(burst, per_s), {}, 0.0, 0
    for gap in gaps:
        now += gap
        again, rooms = pace.spend(rooms, "a", now)
        answered += again
        assert answered <= burst + now * per_s + 1e-6
        assert pace.spend(rooms, "b", now)[0]  # another peer's is its own


def hub(state: CoordinatorState, *events: Event) -> tuple[CoordinatorState, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = coordinator.step(STUDY, state, event)
        effects += more
    return state, effects


def opened() -> CoordinatorState:
    joined = (FrameIn(name, Hello(1, -1, -1, False)) for name in ("a", "b", "c"))
    state, _ = hub(begin(STUDY), Restarted(), Tick(0.0), *joined, Prepared(0, b"m" * 32))
    assert state.phase is Phase.OPEN
    return state


def leave(reason: LeaveReason = LeaveReason.VETOED) -> FrameIn:
    return FrameIn("a", Leave(reason))


def count(effects: list[Effect], kind: type) -> int:
    return sum(isinstance(effect, kind) for effect in effects)


@pytest.mark.parametrize("event", [leave(), leave(LeaveReason.FAILED), FrameIn("a", Hello(1, -1, -1, False))])
@pytest.mark.parametrize("closed", [False, True])
def test_a_flood_of_goodbyes_is_answered_a_few_times_and_noted(event: FrameIn, closed: bool) -> None:
    state, _ = hub(opened(), leave())
    if closed:
        state = replace(state, phase=Phase.CLOSED, verdict="finished")
    _, effects = hub(state, *[event] * FLOOD)
    assert count(effects, CloseStudy) <= PARTINGS.burst
    assert any(isinstance(effect, Refuse) and effect.peer == "a" for effect in effects)


@pytest.mark.parametrize("closed", [False, True])
def test_a_site_that_is_out_and_hears_nothing_is_answered_at_every_try(closed: bool) -> None:
    state, _ = hub(opened(), leave())
    if closed:
        state = replace(state, phase=Phase.CLOSED, verdict="finished")
    for number in range(1, 5 if closed else 50):  # a closed study lingers for ten seconds
        state, effects = hub(state, Tick(number * HELLO_EVERY_S), leave())
        assert CloseStudy(("a",), False) in effects


def test_ever_new_starts_are_not_sent_a_model_each() -> None:
    state, effects = hub(opened(), *(FrameIn("a", Hello(boot, -1, -1, False)) for boot in range(2, FLOOD)))
    assert count(effects, OpenRound) <= STARTS.burst
    assert Refuse("a", "a site starts no more often than it could need") in effects
    _, effects = hub(state, Tick(RESEND_AFTER_S), FrameIn("a", Hello(FLOOD, -1, -1, False)))
    assert count(effects, OpenRound) == 1  # and is sent it at the next honest try


def test_a_site_that_was_started_again_is_sent_the_round_at_once() -> None:
    state, effects = hub(opened(), FrameIn("a", Hello(2, -1, -1, False)))
    assert count(effects, OpenRound) == 1
    assert count(hub(state, FrameIn("a", Hello(2, -1, -1, False)))[1], OpenRound) == 0


def test_failing_and_coming_back_over_and_over_costs_a_start_each_time() -> None:
    state, effects = hub(opened(), leave(LeaveReason.FAILED), FrameIn("a", Hello(1, -1, -1, False)))
    assert effects[-1] == Refuse("a", "a site that failed comes back when it was started again")
    assert "a" not in state.cohort
    sent = []
    for boot in range(2, FLOOD):
        state, effects = hub(state, FrameIn("a", Hello(boot, -1, -1, False)), leave(LeaveReason.FAILED))
        sent += effects
    assert count(sent, OpenRound) <= STARTS.burst
    assert count(sent, CloseStudy) <= PARTINGS.burst
    state, _ = hub(state, Tick(RESEND_AFTER_S), FrameIn("a", Hello(FLOOD, -1, -1, False)))
    assert "a" in state.cohort


def node(of: Study, state: SiteState, *events: Event) -> tuple[SiteState, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = site.step(of, "hub", state, event)
        effects += more
    return state, effects


def opening(*target: TargetRef) -> FrameIn:
    return FrameIn("hub", RoundOpen(0, 0, model_digest(b"m"), (), target, b"", b"", b"m"))


DONE = (opening(), TrainDone(0, 0))
WANTED = TargetRef(b"t" * 32, follows=False, asked=False)
ASKED = [
    pytest.param(STUDY, DONE, opening(), Resend, id="a round that was done, opened again"),
    pytest.param(STUDY, DONE, FrameIn("hub", AskTargets(0, 0)), ReleaseTarget, id="targets asked for"),
    pytest.param(
        FCLOPT, (opening(WANTED), TargetFound(0, 0, b"other")), opening(WANTED), SayWantTarget, id="a target still lost"
    ),
]


@pytest.mark.parametrize(("of", "before", "asked", "answer"), ASKED)
def test_a_coordinator_that_asks_without_end_is_answered_a_few_times(
    of: Study, before: tuple[Event, ...], asked: FrameIn, answer: type
) -> None:
    state, _ = node(of, SiteState(), Tick(0.0), *before)
    state, effects = node(of, state, *[asked] * FLOOD)
    assert count(effects, answer) == AGAIN.burst
    assert effects[-1] == Refuse("hub", TOO_OFTEN)
    for number in range(1, 20):  # as an honest one asks, whose answers are lost
        state, effects = node(of, state, Tick(number * RESEND_AFTER_S), asked)
        assert count(effects, answer) == 1


def test_the_first_question_of_each_round_is_answered_however_short_rounds_are() -> None:
    state, _ = node(STUDY, SiteState(), Tick(0.0))
    for round_ in range(2):
        start = FrameIn("hub", RoundOpen(0, round_, model_digest(b"m"), (), (), b"", b"", b"m"))
        state, _ = node(STUDY, state, start, TrainDone(0, round_))
        state, effects = node(STUDY, state, *[FrameIn("hub", AskTargets(0, round_))] * FLOOD)
        assert count(effects, ReleaseTarget) == AGAIN.burst
