"""How the coordinator's machine ends a training round with target networks: r1, r2, deadlines, kills, late sites."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import Study, parse_study
from fedsecure.node.coordinator import step
from fedsecure.node.coordinator_state import CoordinatorState, Phase, begin
from fedsecure.node.coordinator_target import RESEND_AFTER_S
from fedsecure.node.events import (
    Aggregate,
    Aggregated,
    AskForTarget,
    Bounded,
    Effect,
    Event,
    FrameIn,
    KeepIncoming,
    OpenRound,
    Persist,
    Prepared,
    Refuse,
    Restarted,
    RoundOver,
    Score,
    SendTarget,
    Tick,
)
from protocols.messages import (
    DistanceReport,
    Hello,
    Leave,
    LeaveReason,
    RoundDone,
    TargetUpdate,
    WantTarget,
    WeightUpdate,
)

SITES = ("a", "b")
MODEL, TARGET, OTHER = b"m" * 32, b"t" * 32, b"o" * 32


def study(distance: str = "r2", **settings: Any) -> Study:
    raw: dict[str, Any] = {
        "framework": "fclopt",
        "sites": [{"name": name, "weight": 2} for name in SITES],
        "pretrain": {"rounds": 6, "distance": distance, "threshold": 0.1, "refresh": 4},
        "security": {"secagg": False},
    }
    return parse_study({**raw, **settings})


R1, R2 = study("r1"), study("r2")


def after(state: CoordinatorState, *events: Event, of: Study) -> tuple[CoordinatorState, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = step(of, state, event)
        effects += more
    return state, effects


def hello(site: str, *at: int, done: bool = False, boot: int = 1) -> FrameIn:
    stage, round_ = at or (-1, -1)
    return FrameIn(site, Hello(boot, stage, round_, done))


def target(site: str, round_: int = 0, digest: bytes = TARGET) -> FrameIn:
    return FrameIn(site, TargetUpdate(0, round_, digest, b"\0" * 4))


def trained(of: Study, site: str, round_: int = 0, with_target: bool = False) -> list[FrameIn]:
    events = [FrameIn(site, WeightUpdate(0, round_, MODEL, b"\0" * 4))]
    if of is not R1:
        events.append(FrameIn(site, DistanceReport(0, round_, b"\0" * 4)))
    if with_target:
        events.append(target(site, round_))
    return [*events, FrameIn(site, RoundDone(0, round_))]


def opened(of: Study) -> tuple[CoordinatorState, list[Effect]]:
    state, _ = after(begin(of), Restarted(), hello("a"), hello("b"), of=of)
    return after(state, Prepared(0, MODEL, TARGET), of=of)


def collecting(of: Study = R2) -> CoordinatorState:
    state, _ = opened(of)
    state, _ = after(state, *trained(of, "a"), *trained(of, "b"), Bounded(0, 0, 0.11), of=of)
    assert state.phase is Phase.COLLECTING
    return state


def test_r1_asks_with_the_round_until_the_line_says_otherwise() -> None:
    state, effects = opened(R1)
    assert effects == [Persist(), *(OpenRound(site, 0, 0, (), False, True) for site in SITES)]
    for round_, distance, expected in ((0, 0.05, True), (1, 0.04, False)):
        events = (*trained(R1, "a", round_, True), *trained(R1, "b", round_, True))
        state, effects = after(state, *events, of=R1)
        assert effects[-3:] == [Persist(), RoundOver(0, round_, 2), Aggregate(0, round_, SITES, True)]
        state, effects = after(state, Aggregated(0, round_, MODEL, TARGET, distance), of=R1)
        assert effects[1:] == [OpenRound(site, 0, round_ + 1, (), False, expected) for site in SITES]
    state, effects = after(state, *trained(R1, "a", 2), *trained(R1, "b", 2), of=R1)
    assert effects[-1] == Aggregate(0, 2, SITES, False)
    state, _ = after(state, Aggregated(0, 2, MODEL, TARGET), of=R1)
    assert [(m.round, m.distance) for m in state.measured] == [(0, 0.05), (1, 0.04)]


def test_a_correction_follows_with_the_next_round() -> None:
    state, _ = opened(R1)
    state, _ = after(state, *trained(R1, "a", 0, True), *trained(R1, "b", 0, True), of=R1)
    state, effects = after(state, Aggregated(0, 0, MODEL, OTHER, 0.2, True), of=R1)
    assert effects[1:] == [OpenRound(site, 0, 1, (), True, True) for site in SITES]
    _, effects = after(state, target("a", 1), of=R1)  # trained from the target before the correction
    assert effects == [Refuse("a", "target was trained from another target network than the round's")]


def test_a_round_that_asks_is_not_done_without_the_targets() -> None:
    state, _ = opened(R1)
    _, effects = after(state, *trained(R1, "a", 0), of=R1)
    assert effects[-1] == Refuse("a", "said it was done without the releases it owes")


def test_r2_does_without_the_targets_when_the_scores_are_low_and_costs_no_further_message() -> None:
    state, effects = opened(R2)
    assert effects[1:] == [OpenRound(site, 0, 0, (), False, False) for site in SITES]
    state, effects = after(state, *trained(R2, "a"), *trained(R2, "b"), of=R2)
    assert effects[-1] == Score(0, 0, SITES)
    state, effects = after(state, Bounded(0, 0, 0.1), of=R2)
    assert effects == [Persist(), RoundOver(0, 0, 2), Aggregate(0, 0, SITES, False)]


def test_r2_asks_every_site_of_the_round_once_when_they_are_high() -> None:
    state, _ = opened(R2)
    state, effects = after(state, *trained(R2, "a"), *trained(R2, "b"), Bounded(0, 0, 0.11), of=R2)
    assert effects[-3:] == [Persist(), AskForTarget("a", 0, 0), AskForTarget("b", 0, 0)]
    state, effects = after(state, target("a"), of=R2)
    assert [type(effect) for effect in effects] == [KeepIncoming, Persist]
    assert after(state, target("a"), of=R2) == (state, [])
    _, effects = after(state, target("b"), of=R2)
    assert effects[-1] == Aggregate(0, 0, SITES, True)


def test_r2_asks_with_the_round_when_a_refresh_is_due() -> None:
    state, _ = opened(R2)
    for round_ in range(3):
        state, _ = after(state, *trained(R2, "a", round_), *trained(R2, "b", round_), of=R2)
        state, effects = after(state, Bounded(0, round_, 0.0), Aggregated(0, round_, MODEL, TARGET), of=R2)
    assert effects[-1] == OpenRound("b", 0, 3, (), False, True)
    state, effects = after(state, *trained(R2, "a", 3, True), *trained(R2, "b", 3, True), of=R2)
    assert effects[-1] == Aggregate(0, 3, SITES, True)  # no scoring: the targets are here


def test_a_target_that_was_not_asked_for_is_refused() -> None:
    state, _ = opened(R2)
    _, effects = after(state, target("a"), of=R2)
    assert effects == [Refuse("a", "release of a flow that this round does not take")]


def test_the_last_training_round_asks_for_nothing() -> None:
    state = CoordinatorState(
        cohort=SITES, joined=frozenset(SITES), phase=Phase.AGGREGATING, round=4, finished=frozenset(SITES)
    )
    state, effects = after(state, Aggregated(0, 4, MODEL, TARGET), of=R1)
    assert effects[1] == OpenRound("a", 0, 5, (), False, False)
    for of in (R1, R2):
        last = [FrameIn("a", WeightUpdate(0, 5, MODEL, b"")), FrameIn("a", RoundDone(0, 5))]
        other = [FrameIn("b", WeightUpdate(0, 5, MODEL, b"")), FrameIn("b", RoundDone(0, 5))]
        _, effects = after(state, *last, *other, of=of)
        assert effects[-1] == Aggregate(0, 5, SITES, False)


def test_when_the_targets_do_not_all_come_the_prediction_is_used() -> None:
    hurried = study(round_deadline_s=10.0)
    state, _ = after(collecting(hurried), Tick(5.0), target("a"), of=hurried)
    assert after(state, Tick(14.9), of=hurried)[1] == []
    _, effects = after(state, Tick(15.0), of=hurried)
    assert effects[-1] == Aggregate(0, 0, SITES, False)


def test_a_site_that_leaves_takes_its_weights_with_its_target() -> None:
    state, _ = after(collecting(), target("a"), of=R2)
    _, effects = after(state, FrameIn("b", Leave(LeaveReason.FAILED)), of=R2)
    assert effects[-1] == Aggregate(0, 0, ("a",), True)


def test_a_site_that_was_killed_is_asked_again_or_trains_again() -> None:
    state = collecting()
    assert after(state, hello("a", 0, 0, done=True), of=R2)[1] == []  # the question is on its way
    _, effects = after(state, hello("a", 0, 0, done=True, boot=2), of=R2)
    assert effects == [AskForTarget("a", 0, 0)]
    _, effects = after(state, hello("a", boot=2), of=R2)
    assert effects == [OpenRound("a", 0, 0, (), False, True)]
    state, _ = after(state, target("a"), of=R2)
    assert after(state, hello("a", boot=2), of=R2)[1] == []  # nothing more is wanted of it


def test_a_coordinator_that_was_killed_goes_on_where_it_was() -> None:
    state, effects = after(collecting(), target("b"), Restarted(), of=R2)
    assert state.phase is Phase.COLLECTING
    _, effects = after(state, hello("a", 0, 0, done=True), hello("b", 0, 0, done=True), of=R2)
    assert effects == [AskForTarget("a", 0, 0)]
    _, effects = after(state, target("a"), Restarted(), of=R2)
    assert effects[-1] == Aggregate(0, 0, SITES, True)
    scoring, _ = after(opened(R2)[0], *trained(R2, "a"), *trained(R2, "b"), of=R2)
    assert after(scoring, Restarted(), of=R2)[1] == [Score(0, 0, SITES)]


def test_a_site_with_another_prediction_is_sent_the_target_but_not_at_every_word() -> None:
    state, _ = after(opened(R2)[0], Tick(1.0), of=R2)
    state, effects = after(state, FrameIn("a", WantTarget(0, 0)), of=R2)
    assert effects == [SendTarget("a", 0, 0)]
    assert after(state, FrameIn("a", WantTarget(0, 0)), of=R2)[1] == []
    assert after(state, FrameIn("a", WantTarget(0, 1)), of=R2)[1] == []
    _, effects = after(state, Tick(1.0 + RESEND_AFTER_S), FrameIn("a", WantTarget(0, 0)), of=R2)
    assert effects == [SendTarget("a", 0, 0)]
    _, effects = after(state, hello("a", boot=2), FrameIn("a", WantTarget(0, 0)), of=R2)
    assert effects[-1] == SendTarget("a", 0, 0)  # it was killed and lost what it was sent


def test_no_target_is_sent_where_the_study_has_none() -> None:
    naive = study(pretrain={"rounds": 2, "target": "naive", "distance": "none"})
    state, _ = after(begin(naive), hello("a"), hello("b"), Prepared(0, MODEL), of=naive)
    assert after(state, FrameIn("a", WantTarget(0, 0)), of=naive) == (state, [])


EVENTS: list[Event] = [
    Restarted(),
    Tick(1e3),
    Tick(2e3),
    Prepared(0, MODEL, TARGET),
    Bounded(0, 0, 0.0),
    Bounded(0, 0, 1.0),
    Aggregated(0, 0, MODEL, TARGET, 0.2, True),
    *(event for site in SITES for event in trained(R2, site, with_target=True)),
    *(FrameIn(site, WantTarget(0, 0)) for site in SITES),
    *(hello(site) for site in SITES),
    *(hello(site, 0, 0, done=True) for site in SITES),
    FrameIn("a", Leave(LeaveReason.FAILED)),
]


@pytest.mark.parametrize("distance", ["none", "r1", "r2"])
@given(st.lists(st.sampled_from(EVENTS), max_size=50))
def test_in_any_history_targets_are_averaged_over_all_sites_of_the_round_or_not_at_all(
    distance: str, history: list[Event]
) -> None:
    of = study(distance, round_deadline_s=500.0)
    state, _ = opened(of)
    sent: set[str] = set()
    for event in history:
        state, effects = step(of, state, event)
        for effect in effects:
            if isinstance(effect, KeepIncoming) and isinstance(effect.message, TargetUpdate):
                sent.add(effect.sender)
            if isinstance(effect, Aggregate) and effect.round == 0 and effect.targets:
                assert set(effect.sites) <= sent
            if isinstance(effect, AskForTarget):
                assert distance == "r2"
                assert state.asked
