"""The coordinator's machine: a whole study by hand, every rule of its docstring, and the table of phases and events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import SparseSettings, Study, parse_study
from fedsecure.node.coordinator import step
from fedsecure.node.coordinator_end import LINGER_S
from fedsecure.node.coordinator_state import CoordinatorState, Phase, begin
from fedsecure.node.coordinator_target import RESEND_AFTER_S
from fedsecure.node.events import (
    Aggregate,
    Aggregated,
    CloseStudy,
    Effect,
    Event,
    FrameIn,
    KeepIncoming,
    OpenRound,
    Persist,
    Prepare,
    Prepared,
    Refuse,
    Restarted,
    RoundOver,
    Stop,
    Tick,
    TrainFailed,
    Veto,
)
from fedsecure.plan import owed, schedule
from fedsecure.types import Flow
from protocols.messages import (
    CloseReason,
    FeatureBank,
    Hello,
    Leave,
    LeaveReason,
    MetricReport,
    PrototypeSum,
    RoundDone,
    SealedBox,
    StudyClosed,
    WeightUpdate,
    Wrap,
)

SITES = ("a", "b")
MODEL = b"m" * 32


def study(**settings: Any) -> Study:
    return parse_study(
        {
            "sites": [{"name": name, "weight": 2} for name in SITES],
            "pretrain": {"rounds": 2},
            "finetune": {"labelled": [1], "modes": ["federated"], "rounds": 1},
            "baseline": False,
            "security": {"secagg": False},
            **settings,
        }
    )


STUDY = study()


def hello(site: str, stage: int = -1, round_: int = -1, done: bool = False, boot: int = 1) -> FrameIn:
    return FrameIn(site, Hello(boot, stage, round_, done))


def weights(site: str, stage: int, round_: int, model: bytes = MODEL) -> FrameIn:
    return FrameIn(site, WeightUpdate(stage, round_, model, b"\0" * 4))


def features(site: str, stage: int, round_: int) -> FrameIn:
    box = SealedBox(site, b"c" * 16, (Wrap("z", b"k" * 80),), b"s" * 64)
    return FrameIn(site, FeatureBank(stage, round_, box))


def done(site: str, stage: int, round_: int) -> FrameIn:
    return FrameIn(site, RoundDone(stage, round_))


def leave(site: str, reason: LeaveReason) -> FrameIn:
    return FrameIn(site, Leave(reason))


def finished_study() -> CoordinatorState:
    state = opened()
    state, _ = after(state, *round_of("a", 0, 0), *round_of("b", 0, 0), Aggregated(0, 0, MODEL))
    state, _ = after(state, *round_of("a", 0, 1), *round_of("b", 0, 1), Aggregated(0, 1, MODEL))
    state, _ = after(state, done("a", 0, 2), done("b", 0, 2), Prepared(1, MODEL))
    state, _ = after(state, *round_of("a", 1, 0), *round_of("b", 1, 0), Aggregated(1, 0, MODEL))
    state, _ = after(state, done("a", 1, 1), done("b", 1, 1))
    assert state.phase is Phase.CLOSED
    return state


def after(state: CoordinatorState, *events: Event, of: Study = STUDY) -> tuple[CoordinatorState, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = step(of, state, event)
        effects += more
    return state, effects


def opened(of: Study = STUDY) -> CoordinatorState:
    state, _ = after(begin(of), Restarted(), hello("a"), hello("b"), Prepared(0, MODEL), of=of)
    assert state.phase is Phase.OPEN
    return state


def round_of(site: str, stage: int, round_: int) -> list[FrameIn]:
    sent = [weights(site, stage, round_), done(site, stage, round_)]
    return [sent[0], features(site, stage, round_), sent[1]] if (stage, round_) == (0, 0) else sent


def test_where_updates_are_sparse_who_has_done_a_round_holds_its_model_and_who_asks_again_may_not() -> None:
    sparse = STUDY.model_copy(update={"sparse": SparseSettings(period=2), "minimum_sites": 1, "round_deadline_s": 9.0})
    _, effects = after(begin(sparse), Restarted(), hello("a"), hello("b"), Prepared(0, MODEL), of=sparse)
    assert [effect.holds for effect in effects if isinstance(effect, OpenRound)] == [False, False]
    closing = [*round_of("a", 0, 0), Tick(0.0), Tick(10.0), Aggregated(0, 0, MODEL)]
    state, effects = after(opened(sparse), *closing, of=sparse)
    found = [(effect.site, effect.holds) for effect in effects if isinstance(effect, OpenRound)]
    assert found == [("a", True), ("b", False)]
    _, effects = after(state, Tick(100.0), hello("a"), of=sparse)
    assert [(effect.site, effect.holds) for effect in effects if isinstance(effect, OpenRound)] == [("a", False)]


def test_a_whole_study() -> None:
    state, effects = after(begin(STUDY), Restarted(), hello("a"))
    assert effects == []  # nobody trains before everybody is here
    state, effects = after(state, hello("b"))
    assert effects == [Persist(), Prepare(0)]
    state, effects = after(state, Prepared(0, MODEL))
    assert effects == [Persist(), OpenRound("a", 0, 0, ()), OpenRound("b", 0, 0, ())]
    for round_, banks in ((0, {"a": ("b",), "b": ("a",)}), (1, {"a": (), "b": ()})):
        state, effects = after(state, *round_of("a", 0, round_), *round_of("b", 0, round_))
        assert effects[-1] == Aggregate(0, round_, SITES)
        state, effects = after(state, Aggregated(0, round_, MODEL))
        assert effects == [Persist(), *(OpenRound(site, 0, round_ + 1, banks[site]) for site in SITES)]
    state, effects = after(state, done("a", 0, 2), done("b", 0, 2))
    assert effects[-1] == Prepare(1)
    state, _ = after(state, Prepared(1, MODEL), *round_of("a", 1, 0), *round_of("b", 1, 0), Aggregated(1, 0, MODEL))
    state, effects = after(state, done("a", 1, 1), done("b", 1, 1))
    assert effects == [Persist(), Persist(), RoundOver(1, 1, 2), CloseStudy(SITES, True)]
    state, effects = after(state, leave("a", LeaveReason.FINISHED))
    assert effects == []
    _, effects = after(state, leave("b", LeaveReason.FINISHED))
    assert effects == [Stop("finished")]


def test_an_update_is_kept_before_it_counts_and_counts_once() -> None:
    state, effects = after(opened(), weights("a", 0, 0))
    assert effects == [KeepIncoming("a", weights("a", 0, 0).message), Persist()]  # type: ignore[arg-type]
    assert after(state, weights("a", 0, 0)) == (state, [])


def test_done_without_what_is_owed_is_refused() -> None:
    state, effects = after(opened(), weights("a", 0, 0), done("a", 0, 0))
    assert effects[-1] == Refuse("a", "said it was done without the releases it owes")
    assert state.finished == frozenset()


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (weights("a", 0, 1), "round that is not open"),
        (weights("a", 0, 0, b"x" * 32), "trained from another model"),
        (FrameIn("a", MetricReport(0, 0, b"")), "flow that this round does not take"),
        (FrameIn("a", StudyClosed(CloseReason.FINISHED)), "a coordinator takes"),
        (hello("mallory"), "never was in its cohort"),
    ],
)
def test_what_does_not_belong_is_refused_and_changes_nothing(event: FrameIn, rule: str) -> None:
    before = opened()
    state, effects = after(before, event)
    assert state == before
    (refusal,) = effects
    assert isinstance(refusal, Refuse)
    assert rule in refusal.rule


def test_metrics_are_taken_only_where_the_study_releases_them() -> None:
    free = study(release_metrics=True)
    state = opened(free)
    for round_ in range(2):
        state, _ = after(state, *round_of("a", 0, round_), *round_of("b", 0, round_), of=free)
        state, _ = after(state, Aggregated(0, round_, MODEL), of=free)
    _, effects = after(state, FrameIn("a", MetricReport(0, 2, b"")), done("a", 0, 2), of=free)
    assert any(isinstance(effect, KeepIncoming) for effect in effects)
    assert not any(isinstance(effect, Refuse) for effect in effects)


def test_a_site_that_lost_the_round_is_sent_it_again_but_not_at_every_hello() -> None:
    state, effects = after(opened(), Tick(1.0), hello("a"))
    assert effects == []  # it is on its way
    state, effects = after(state, Tick(RESEND_AFTER_S), hello("a"))
    assert effects == [OpenRound("a", 0, 0, ())]
    _, effects = after(state, hello("a", boot=2))
    assert effects == [OpenRound("a", 0, 0, ())]  # it was killed and lost what it held


def test_a_site_is_sent_nothing_for_starts_that_take_turns() -> None:
    state, _ = after(opened(), hello("a", boot=2))
    before = state
    state, effects = after(state, hello("a", boot=1))
    assert effects == [Refuse("a", "a node's boot number never falls")]
    assert state == before
    assert after(state, hello("a", boot=2))[1] == []


def test_a_site_that_is_working_is_left_alone() -> None:
    state, _ = after(opened(), Tick(1.0))
    assert after(state, hello("a", 0, 0))[1] == []


def test_a_restarted_coordinator_asks_again_who_is_there_and_keeps_what_it_had() -> None:
    state, _ = after(opened(), *round_of("a", 0, 0), weights("b", 0, 0))
    state, effects = after(state, Restarted())
    assert effects == []
    assert state.joined == frozenset()
    _, effects = after(state, hello("b", 0, 0, done=True))
    assert effects == [OpenRound("b", 0, 0, ())]  # the site answers with its stored messages
    state, effects = after(state, features("b", 0, 0), done("b", 0, 0))
    assert effects[-1] == Aggregate(0, 0, SITES)


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.AGGREGATING])
def test_work_that_a_kill_interrupted_is_ordered_again(phase: Phase) -> None:
    state = CoordinatorState(cohort=SITES, phase=phase, finished=frozenset(SITES))
    _, effects = after(state, Restarted())
    assert effects == [Prepare(0) if phase is Phase.PREPARING else Aggregate(0, 0, SITES)]


def test_a_deadline_closes_the_round_with_enough_sites_and_ends_the_study_with_too_few() -> None:
    hurried = study(round_deadline_s=10.0)
    state, _ = after(opened(hurried), Tick(0.0), *round_of("a", 0, 0), of=hurried)
    assert after(state, Tick(9.9), of=hurried)[1] == []
    _, effects = after(state, Tick(10.0), of=hurried)
    assert effects[-1] == Aggregate(0, 0, ("a",))
    strict = study(round_deadline_s=10.0, minimum_sites=2)
    state, _ = after(opened(strict), Tick(0.0), *round_of("a", 0, 0), of=strict)
    state, effects = after(state, Tick(10.0), of=strict)
    assert effects == [CloseStudy(SITES, False)]
    _, effects = after(state, leave("a", LeaveReason.FINISHED), leave("b", LeaveReason.FINISHED), of=strict)
    assert effects == [Stop("aborted", "the round's deadline passed with fewer sites than minimum_sites")]


def test_a_site_that_leaves_is_not_waited_for() -> None:
    state, _ = after(opened(), *round_of("a", 0, 0))
    state, effects = after(state, leave("b", LeaveReason.VETOED))
    assert effects[-1] == Aggregate(0, 0, ("a",))
    _, effects = after(state, Aggregated(0, 0, MODEL))
    assert effects == [Persist(), OpenRound("a", 0, 1, ())]
    _, effects = after(state, hello("b"))
    assert effects == [Refuse("b", "has left the study or never was in its cohort"), CloseStudy(("b",), False)]


def test_nothing_of_a_site_that_vetoed_is_relayed_or_averaged_any_more() -> None:
    three = parse_study({**STUDY.model_dump(mode="json"), "sites": [{"name": n, "weight": 1} for n in "abc"]})
    state, _ = after(begin(three), *(hello(site) for site in "abc"), Prepared(0, MODEL), of=three)
    state, _ = after(state, *round_of("c", 0, 0), leave("c", LeaveReason.VETOED), of=three)
    state, effects = after(state, *round_of("a", 0, 0), *round_of("b", 0, 0), of=three)
    assert effects[-1] == Aggregate(0, 0, ("a", "b"))
    _, effects = after(state, Aggregated(0, 0, MODEL), of=three)
    assert effects == [Persist(), OpenRound("a", 0, 1, ("b",)), OpenRound("b", 0, 1, ("a",))]


def test_a_site_that_failed_comes_back_and_is_waited_for_again() -> None:
    state, _ = after(opened(), leave("b", LeaveReason.FAILED), Tick(1.0))
    state, effects = after(state, hello("b", boot=2))
    assert effects == [OpenRound("b", 0, 0, ()), Persist()]
    assert state.cohort == SITES
    state, effects = after(state, *round_of("a", 0, 0))
    assert not any(isinstance(effect, Aggregate) for effect in effects)


def test_who_missed_the_end_is_told_and_nobody_is_waited_for_without_end() -> None:
    state, effects = after(finished_study(), hello("b"))
    assert effects == [CloseStudy(("b",), True)]
    state, effects = after(state, leave("a", LeaveReason.FINISHED), Tick(5.0), Tick(5.0 + LINGER_S - 0.1))
    assert effects == []
    _, effects = after(state, Tick(5.0 + LINGER_S))
    assert effects == [Stop("finished")]


def test_a_coordinator_killed_at_the_end_tells_the_end_and_stops() -> None:
    state, effects = after(finished_study(), Restarted(), hello("a"), hello("b"))
    assert effects == [CloseStudy(("a",), True), CloseStudy(("b",), True)]
    _, effects = after(state, leave("a", LeaveReason.FINISHED), leave("b", LeaveReason.FINISHED))
    assert effects == [Stop("finished")]


def test_the_last_site_to_leave_ends_the_study() -> None:
    state, _ = after(opened(), FrameIn("b", Leave(LeaveReason.FAILED)))
    state, effects = after(state, FrameIn("a", Leave(LeaveReason.FAILED)))
    assert effects[:2] == [CloseStudy(("a",), False), CloseStudy((), False)]
    assert state.phase is Phase.CLOSED


@pytest.mark.parametrize("reason", [LeaveReason.VETOED, LeaveReason.FAILED])
def test_whoever_leaves_is_answered_each_time(reason: LeaveReason) -> None:
    """A site says so until it was: the coordinator may have been away, or its answer lost."""
    state, effects = after(opened(), leave("b", reason))
    assert CloseStudy(("b",), False) in effects
    following, effects = after(state, leave("b", reason))
    assert following.cohort == state.cohort == ("a",)
    assert effects[0] == CloseStudy(("b",), False)
    _, effects = after(finished_study(), leave("b", reason))
    assert effects == [CloseStudy(("b",), False)]


def test_a_site_that_failed_and_then_vetoes_is_out_for_good() -> None:
    state, _ = after(opened(), leave("b", LeaveReason.FAILED), leave("b", LeaveReason.VETOED))
    assert state.left == {"b": LeaveReason.VETOED}
    state, _ = after(state, leave("b", LeaveReason.FAILED), hello("b", boot=2))
    assert state.left == {"b": LeaveReason.VETOED}
    assert state.cohort == ("a",)


def test_a_joining_deadline_begins_with_enough_sites_and_the_late_one_joins_the_open_round() -> None:
    hurried = study(join_deadline_s=10.0, round_deadline_s=60.0)
    state, effects = after(begin(hurried), Tick(0.0), hello("a"), Tick(9.9), of=hurried)
    assert (state.phase, effects) == (Phase.JOINING, [])
    state, effects = after(state, Tick(10.0), of=hurried)
    assert effects == [Persist(), Prepare(0)]
    state, effects = after(state, Prepared(0, MODEL), of=hurried)
    assert effects == [Persist(), OpenRound("a", 0, 0, ())]
    state, effects = after(state, hello("b"), of=hurried)
    assert effects == [OpenRound("b", 0, 0, ())]
    _, effects = after(state, *round_of("a", 0, 0), *round_of("b", 0, 0), of=hurried)
    assert effects[-1] == Aggregate(0, 0, SITES)


def test_a_joining_deadline_ends_a_study_with_too_few_sites() -> None:
    strict = study(join_deadline_s=10.0, round_deadline_s=60.0, minimum_sites=2)
    _, effects = after(begin(strict), Tick(0.0), hello("a"), Tick(10.0), of=strict)
    assert effects == [CloseStudy(SITES, False)]


def test_an_evaluation_has_a_deadline_of_its_own() -> None:
    patient = study(round_deadline_s=10.0, evaluation_deadline_s=100.0)
    state, _ = after(opened(patient), *round_of("a", 0, 0), *round_of("b", 0, 0), Aggregated(0, 0, MODEL), of=patient)
    state, _ = after(state, *round_of("a", 0, 1), *round_of("b", 0, 1), Aggregated(0, 1, MODEL), Tick(0.0), of=patient)
    state, effects = after(state, done("a", 0, 2), Tick(99.0), of=patient)
    assert effects == [Persist()]
    _, effects = after(state, Tick(100.0), of=patient)
    assert effects[-1] == Prepare(1)


def sums(site: str, stage: int, round_: int, model: bytes = MODEL) -> FrameIn:
    return FrameIn(site, PrototypeSum(stage, round_, model, b"\0" * 4))


@pytest.mark.parametrize(
    ("exchange", "share", "other", "banks"),
    [
        ("prototypes", features, sums, {"a": ("b",), "b": ("a",)}),  # boxed: relayed unread, like vectors
        ("secagg-prototypes", sums, features, {"a": (), "b": ()}),  # in the sum, so that there is nothing to relay
    ],
)
def test_prototypes_are_owed_in_the_form_of_the_study_and_in_no_other(
    exchange: str, share: Callable[..., FrameIn], other: Callable[..., FrameIn], banks: dict[str, tuple[str, ...]]
) -> None:
    of = study(pretrain={"rounds": 2, "exchange": exchange})
    state, effects = after(opened(of), weights("a", 0, 0), other("a", 0, 0), done("a", 0, 0), of=of)
    rules = [effect.rule for effect in effects if isinstance(effect, Refuse)]
    assert rules == ["release of a flow that this round does not take", "said it was done without the releases it owes"]
    state, _ = after(state, share("a", 0, 0), done("a", 0, 0), weights("b", 0, 0), share("b", 0, 0), of=of)
    state, effects = after(state, done("b", 0, 0), of=of)
    assert effects[-1] == Aggregate(0, 0, SITES)
    state, effects = after(state, Aggregated(0, 0, MODEL), of=of)
    assert effects == [Persist(), *(OpenRound(site, 0, 1, banks[site]) for site in SITES)]
    # The last training round's would train nobody.
    _, effects = after(state, share("a", 0, 1), of=of)
    assert effects == [Refuse("a", "release of a flow that this round does not take")]


def test_prototypes_of_another_model_are_refused() -> None:
    of = study(pretrain={"rounds": 2, "exchange": "secagg-prototypes"})
    _, effects = after(opened(of), sums("a", 0, 0, b"x" * 32), of=of)
    assert effects == [Refuse("a", "update was trained from another model than the round's")]


def test_a_single_site_owes_no_features() -> None:
    alone = study(sites=[{"name": "a", "weight": 1}], pretrain={"rounds": 1})
    state, _ = after(begin(alone), hello("a"), Prepared(0, MODEL), of=alone)
    _, effects = after(state, weights("a", 0, 0), done("a", 0, 0), of=alone)
    assert effects[-1] == Aggregate(0, 0, ("a",))


EVENTS: list[Event] = [
    Restarted(),
    Tick(1e6),
    Veto(),
    TrainFailed("x"),
    Prepared(0, MODEL),
    Aggregated(0, 0, MODEL),
    *(make(site, 0, 0) for make in (weights, features, done) for site in SITES),
    *(hello(site) for site in (*SITES, "mallory")),
    FrameIn("a", Leave(LeaveReason.VETOED)),
    FrameIn("a", StudyClosed(CloseReason.ABORTED)),
]


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_in_any_history_a_round_is_averaged_only_over_sites_that_sent_what_they_owe(history: list[Event]) -> None:
    state = begin(STUDY)
    kept: set[tuple[str, Flow]] = set()
    for event in history:
        state, effects = step(STUDY, state, event)
        assert state.stage < len(schedule(STUDY))
        for effect in effects:
            if isinstance(effect, KeepIncoming):
                flow = Flow.WEIGHTS if isinstance(effect.message, WeightUpdate) else Flow.FEATURES
                kept.add((effect.sender, flow))
            if isinstance(effect, Aggregate):
                assert effect.sites
                assert all((site, flow) in kept for site in effect.sites for flow in owed(STUDY, 0, effect.round))
            if isinstance(effect, OpenRound) and effect.round == 1:
                kept.clear()


@given(st.lists(st.sampled_from(EVENTS), max_size=20))
def test_a_closed_study_stays_closed(history: list[Event]) -> None:
    state, effects = after(finished_study(), *history)
    assert state.phase is Phase.CLOSED
    assert all(isinstance(effect, CloseStudy | Stop | Refuse) for effect in effects)
