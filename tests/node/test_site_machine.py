"""The site's machine: every rule of its module docstring, and that no event in any phase can do anything else."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import Study, parse_study
from fedsecure.node.events import (
    Aggregated,
    CancelTraining,
    Effect,
    Event,
    FindTarget,
    FrameIn,
    KeepIncoming,
    Persist,
    Prepared,
    Refuse,
    Release,
    ReleaseTarget,
    Resend,
    Restarted,
    RoundOver,
    SayHello,
    SayLeave,
    SayWantTarget,
    Stop,
    TargetFound,
    Tick,
    Train,
    TrainDone,
    TrainFailed,
    Veto,
)
from fedsecure.node.site import HELLO_EVERY_S, Phase, SiteState, step
from fedsecure.plan import schedule
from protocols.box import box_digest
from protocols.messages import (
    AskTargets,
    BankRef,
    BankRelay,
    CloseReason,
    Hello,
    Leave,
    LeaveReason,
    RoundDone,
    RoundOpen,
    SealedBox,
    StudyClosed,
    TargetModel,
    TargetRef,
    Wrap,
)

STUDY: Study = parse_study(
    {
        "sites": [{"name": name, "weight": 2} for name in ("a", "b", "c")],
        "pretrain": {"rounds": 2},
        "security": {"secagg": False},
    }
)
MODEL = b"\0" * 8


def box(sender: str, filling: bytes = b"x") -> SealedBox:
    return SealedBox(sender, filling * 20, (Wrap("a", b"k" * 80),), b"s" * 64)


def opening(stage: int, round_: int, *banks: SealedBox, prototypes: bytes = b"") -> RoundOpen:
    refs = tuple(BankRef(bank.sender, box_digest(bank)) for bank in banks)
    return RoundOpen(stage, round_, hashlib.sha256(MODEL).digest(), refs, (), prototypes, b"", MODEL)


def after(state: SiteState, *events: Event, of: Study = STUDY) -> tuple[SiteState, list[Effect]]:
    effects: list[Effect] = []
    for event in events:
        state, more = step(of, "coordinator", state, event)
        effects += more
    return state, effects


def incoming(message: object) -> FrameIn:
    return FrameIn("coordinator", message)  # type: ignore[arg-type]


def test_a_round_without_banks_trains_at_once_and_is_released_before_it_is_remembered() -> None:
    opened = opening(0, 0)
    state, effects = after(SiteState(), Restarted(), incoming(opened))
    assert effects == [KeepIncoming("coordinator", opened), Train(0, 0, ())]
    state, effects = after(state, TrainDone(0, 0))
    assert effects == [Release(0, 0, False), Persist(), RoundOver(0, 0, 1)]
    assert (state.phase, state.done) == (Phase.WAITING, (0, 0))


def test_training_waits_for_every_bank_that_was_announced() -> None:
    banks = box("b"), box("c")
    state, effects = after(SiteState(), incoming(opening(0, 1, *banks)))
    assert state.phase is Phase.GATHERING
    assert not any(isinstance(effect, Train) for effect in effects)
    state, effects = after(state, incoming(BankRelay(0, 0, "c", banks[1])))
    assert state.phase is Phase.GATHERING
    _, effects = after(state, incoming(BankRelay(0, 0, "b", banks[0])))
    assert effects[-1] == Train(0, 1, ("b", "c"))


SUMMING = parse_study({**STUDY.model_dump(mode="json"), "pretrain": {"rounds": 2, "exchange": "secagg-prototypes"}})


def test_a_round_that_opens_with_a_sum_needs_nothing_more() -> None:
    opened = opening(0, 1, prototypes=b"\0" * 4)
    _, effects = after(SiteState(), incoming(opened), of=SUMMING)
    assert effects == [KeepIncoming("coordinator", opened), Train(0, 1, ())]
    assert after(SiteState(), incoming(opening(0, 1)), of=SUMMING)[0].phase is Phase.TRAINING  # nobody's could be used


@pytest.mark.parametrize(
    ("of", "opened", "rule"),
    [
        (SUMMING, opening(0, 1, box("b")), "a bank is announced in a study that exchanges none"),
        (SUMMING, opening(0, 0, prototypes=b"\0" * 4), "comes with a round that has none"),
        (SUMMING, opening(0, 2, prototypes=b"\0" * 4), "comes with a round that has none"),
        (SUMMING, opening(5, 1, prototypes=b"\0" * 4), "comes with a round that has none"),
        (STUDY, opening(0, 1, prototypes=b"\0" * 4), "comes with a round that has none"),
    ],
)
def test_features_in_another_form_than_the_studys_are_refused(of: Study, opened: RoundOpen, rule: str) -> None:
    state, effects = after(SiteState(), incoming(opened), of=of)
    assert state == SiteState()
    (refusal,) = effects
    assert isinstance(refusal, Refuse)
    assert rule in refusal.rule


def test_a_bank_other_than_the_announced_one_is_refused_and_the_site_keeps_waiting() -> None:
    state, _ = after(SiteState(), incoming(opening(0, 1, box("b"))))
    following, effects = after(state, incoming(BankRelay(0, 0, "b", box("b", b"y"))))
    assert following == state
    assert effects == [Refuse("coordinator", "relayed another bank than it announced")]


def test_a_round_that_was_done_is_answered_from_storage_only() -> None:
    state = SiteState(done=(0, 1))
    following, effects = after(state, incoming(opening(0, 1)))
    assert (replace(following, answers={}), effects) == (state, [Resend(0, 1)])


@pytest.mark.parametrize("earlier", [(0, 0), (0, 1)])
def test_no_earlier_round_is_gone_back_to(earlier: tuple[int, int]) -> None:
    state = SiteState(done=(0, 2))
    following, effects = after(state, incoming(opening(*earlier)))
    assert following == state
    assert [type(effect) for effect in effects] == [Refuse]


def test_a_later_round_replaces_the_one_in_training() -> None:
    late = parse_study({**STUDY.model_dump(mode="json"), "round_deadline_s": 600.0})
    state, _ = after(SiteState(), incoming(opening(0, 0)), of=late)
    assert state.phase is Phase.TRAINING
    state, effects = after(state, incoming(opening(0, 1)), of=late)
    assert isinstance(effects[0], CancelTraining)
    assert effects[-1] == Train(0, 1, ())
    # The answer of the round that was replaced may still be in the pipe.
    assert after(state, TrainDone(0, 0)) == (state, [])


@pytest.mark.parametrize(("stage", "round_"), [(0, 3), (99, 0)])
def test_a_round_outside_the_schedule_is_refused(stage: int, round_: int) -> None:
    state, effects = after(SiteState(), incoming(opening(stage, round_)))
    assert state == SiteState()
    assert effects == [Refuse("coordinator", "round is not in the study's schedule")]


def test_a_bank_from_outside_the_cohort_is_refused() -> None:
    _, effects = after(SiteState(), incoming(opening(0, 1, box("mallory"))))
    assert effects == [Refuse("coordinator", "a bank is announced from outside the cohort")]


def test_veto_stops_in_the_middle_of_training() -> None:
    state, _ = after(SiteState(), incoming(opening(0, 0)))
    state, effects = after(state, Veto())
    assert effects == [CancelTraining(), Persist()]  # whatever the coordinator is doing, and before it is told
    assert state.phase is Phase.LEAVING


def test_a_veto_is_repeated_until_it_is_answered_and_survives_a_restart() -> None:
    state, effects = after(SiteState(), Veto(), Tick(1.0), Tick(1.0), Veto())
    assert effects == [Persist(), SayLeave("vetoed")]
    state, effects = after(state, Tick(1.0 + HELLO_EVERY_S), Restarted(), Tick(1.0 + HELLO_EVERY_S))
    assert effects == [SayLeave("vetoed"), SayLeave("vetoed")]
    state, effects = after(state, incoming(opening(0, 0)), TrainDone(0, 0))
    assert effects == []  # no round is taken any more
    state, effects = after(state, incoming(StudyClosed(CloseReason.ABORTED)))
    assert effects == [Stop("vetoed")]


def test_a_failed_trainer_is_told_to_the_coordinator_without_its_reason() -> None:
    state, _ = after(SiteState(), incoming(opening(0, 0)))
    _, effects = after(state, TrainFailed("disk full"))
    assert effects == [CancelTraining(), SayLeave("failed"), Stop("failed", "disk full")]


def test_a_restart_forgets_the_running_round_and_keeps_what_was_done() -> None:
    state, _ = after(SiteState(done=(0, 0)), incoming(opening(0, 1)))
    assert after(state, Restarted()) == (SiteState(done=(0, 0), sent=(0, 1)), [])


def test_hello_says_how_far_the_site_is() -> None:
    state, effects = after(SiteState(), Tick(0.0), Tick(HELLO_EVERY_S / 2))
    assert effects == [SayHello(-1, -1, False)]
    state, _ = after(state, incoming(opening(0, 0)))
    state, effects = after(state, Tick(HELLO_EVERY_S))
    assert effects == [SayHello(0, 0, False)]  # training: leave it alone
    state, _ = after(state, TrainDone(0, 0))
    _, effects = after(state, Tick(2 * HELLO_EVERY_S))
    assert effects == [SayHello(0, 0, True)]


def test_a_site_whose_banks_were_lost_says_that_it_lacks_something_and_takes_them_again() -> None:
    state, _ = after(SiteState(done=(0, 0)), incoming(opening(0, 1, box("b"))))
    state, effects = after(state, Tick(100.0))
    assert effects == [SayHello(0, 0, True)]  # not (0, 1): the coordinator sends that round again
    state, effects = after(state, incoming(opening(0, 1, box("b"))))
    assert effects == []
    _, effects = after(state, incoming(BankRelay(0, 0, "b", box("b"))))
    assert effects[-1] == Train(0, 1, ("b",))


@pytest.mark.parametrize(("reason", "stop"), [(CloseReason.FINISHED, "finished"), (CloseReason.ABORTED, "aborted")])
def test_a_site_says_goodbye_when_the_study_is_over(reason: CloseReason, stop: str) -> None:
    _, effects = after(SiteState(), incoming(StudyClosed(reason)))
    assert effects == [SayLeave("finished"), Stop(stop)]


def test_only_the_coordinator_is_heard() -> None:
    state, effects = after(SiteState(), FrameIn("b", opening(0, 0)))
    assert state == SiteState()
    assert effects == [Refuse("b", "only the coordinator talks to a site")]


# --- target networks ------------------------------------------------------------------------------------------

FCLOPT: Study = parse_study({**STUDY.model_dump(mode="json"), "framework": "fclopt"})
TARGET = b"t" * 12
DIGEST = hashlib.sha256(TARGET).digest()


def announcing(round_: int, follows: bool = False, asked: bool = False) -> FrameIn:
    target = (TargetRef(DIGEST, follows, asked),)
    return incoming(RoundOpen(0, round_, hashlib.sha256(MODEL).digest(), (), target, b"", b"", MODEL))


def target_model(round_: int, target: bytes = TARGET) -> FrameIn:
    return incoming(TargetModel(0, round_, hashlib.sha256(target).digest(), target))


def fclopt(state: SiteState, *events: Event) -> tuple[SiteState, list[Effect]]:
    return after(state, *events, of=FCLOPT)


def test_a_prediction_with_the_announced_digest_is_trained_from() -> None:
    state, effects = fclopt(SiteState(), announcing(0))
    assert [type(effect) for effect in effects] == [KeepIncoming, FindTarget]
    assert effects[1] == FindTarget(0, 0, DIGEST)
    assert state.phase is Phase.GATHERING
    _, effects = fclopt(state, TargetFound(0, 0, DIGEST))
    assert effects == [Train(0, 0, ())]


@pytest.mark.parametrize("found", [b"o" * 32, b""])
def test_another_prediction_or_none_is_not_trained_from_but_the_target_is_asked_for(found: bytes) -> None:
    state, _ = fclopt(SiteState(), announcing(1))
    state, effects = fclopt(state, TargetFound(0, 1, found))
    assert effects == [SayWantTarget(0, 1)]
    assert state.phase is Phase.GATHERING
    again, effects = fclopt(state, announcing(1))  # it was lost on its way, and the round came again
    assert (replace(again, answers={}), effects) == (state, [SayWantTarget(0, 1)])
    state, effects = fclopt(state, target_model(1))
    assert [type(effect) for effect in effects] == [KeepIncoming, Train]
    assert fclopt(state, target_model(1)) == (state, [])


def test_a_correction_is_waited_for_and_nothing_is_predicted() -> None:
    state, effects = fclopt(SiteState(), announcing(1, follows=True))
    assert [type(effect) for effect in effects] == [KeepIncoming]
    _, effects = fclopt(state, target_model(1))
    assert effects[-1] == Train(0, 1, ())


def test_another_target_network_than_the_announced_one_is_refused() -> None:
    before, _ = fclopt(SiteState(), announcing(1, follows=True))
    state, effects = fclopt(before, target_model(1, b"x" * 12))
    assert state == before
    assert effects == [Refuse("coordinator", "sent another target network than it announced")]
    assert fclopt(before, target_model(0)) == (before, [])


@pytest.mark.parametrize(("study", "opened"), [(STUDY, announcing(0)), (FCLOPT, incoming(opening(0, 0)))])
def test_a_target_network_is_announced_where_the_study_has_one_and_nowhere_else(study: Study, opened: FrameIn) -> None:
    state, effects = after(SiteState(), opened, of=study)
    assert state == SiteState()
    (refusal,) = effects
    assert isinstance(refusal, Refuse)
    assert "target network" in refusal.rule


def test_a_sites_own_target_leaves_with_the_round_or_when_all_are_asked_after_it() -> None:
    state, effects = fclopt(SiteState(), announcing(0, asked=True), TargetFound(0, 0, DIGEST), TrainDone(0, 0))
    assert Release(0, 0, True) in effects
    state, effects = fclopt(SiteState(), announcing(0), TargetFound(0, 0, DIGEST), TrainDone(0, 0))
    assert Release(0, 0, False) in effects
    _, effects = fclopt(state, incoming(AskTargets(0, 0)))
    assert effects == [ReleaseTarget(0, 0)]
    assert fclopt(state, incoming(AskTargets(0, 1))) == (state, [])
    state, _ = fclopt(state, announcing(1))
    assert fclopt(state, incoming(AskTargets(0, 0))) == (state, [])  # of a round that is over


def test_a_site_that_trains_the_round_again_after_a_kill_sends_its_target_with_it() -> None:
    state, _ = fclopt(SiteState(), announcing(0), TargetFound(0, 0, DIGEST))
    _, effects = fclopt(state, incoming(AskTargets(0, 0)), TrainDone(0, 0))
    assert effects[0] == Release(0, 0, True)


# --- the whole table: every phase with every event ------------------------------------------------------------

PHASES = {
    Phase.WAITING: SiteState(done=(0, 0)),
    Phase.GATHERING: SiteState(
        done=(0, 0), phase=Phase.GATHERING, current=(0, 1), missing={"b": box_digest(box("b"))}, banks=("b",)
    ),
    Phase.TRAINING: SiteState(done=(0, 0), phase=Phase.TRAINING, current=(0, 1)),
    Phase.LEAVING: SiteState(done=(0, 0), phase=Phase.LEAVING),
    Phase.CLOSED: SiteState(done=(0, 0), phase=Phase.CLOSED),
}
WORKING = (Phase.WAITING, Phase.GATHERING, Phase.TRAINING)
EVENTS: dict[str, Event] = {
    "restart": Restarted(),
    "tick": Tick(100.0),
    "veto": Veto(),
    "done": TrainDone(0, 1),
    "failed": TrainFailed("x"),
    "prepared": Prepared(0, b""),
    "aggregated": Aggregated(0, 0, b""),
    "open": incoming(opening(0, 1)),
    "next": incoming(opening(0, 2)),
    "bank": incoming(BankRelay(0, 0, "b", box("b"))),
    "target": target_model(1),
    "found": TargetFound(0, 1, DIGEST),
    "asked": incoming(AskTargets(0, 1)),
    "asked-before": incoming(AskTargets(0, 0)),
    "closed": incoming(StudyClosed(CloseReason.FINISHED)),
    "hello": incoming(Hello(1, 0, 0, False)),
    "round-done": incoming(RoundDone(0, 0)),
    "leave": incoming(Leave(LeaveReason.FAILED)),
}
# (phase, event) -> phase afterwards; what is not listed changes nothing and asks for nothing but a refusal.
MOVES = {
    **{(phase, "restart"): Phase.WAITING for phase in WORKING},
    **{(phase, "veto"): Phase.LEAVING for phase in WORKING},
    **{(phase, "failed"): Phase.CLOSED for phase in WORKING},
    **{(phase, "closed"): Phase.CLOSED for phase in PHASES if phase is not Phase.CLOSED},
    **{(phase, "tick"): phase for phase in PHASES if phase is not Phase.CLOSED},
    **{(phase, "next"): Phase.TRAINING for phase in WORKING},
    (Phase.WAITING, "open"): Phase.TRAINING,
    (Phase.GATHERING, "bank"): Phase.TRAINING,
    (Phase.GATHERING, "asked"): Phase.GATHERING,
    (Phase.TRAINING, "asked"): Phase.TRAINING,
    (Phase.WAITING, "asked-before"): Phase.WAITING,
    (Phase.TRAINING, "done"): Phase.WAITING,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", EVENTS)
def test_every_event_in_every_phase(phase: Phase, name: str) -> None:
    before = PHASES[phase]
    state, effects = step(STUDY, "coordinator", before, EVENTS[name])
    expected = MOVES.get((phase, name))
    if expected is None:
        assert state == before
        assert all(isinstance(effect, Refuse) for effect in effects)
    else:
        assert state.phase is expected


@given(st.lists(st.sampled_from(sorted(EVENTS)), max_size=30))
def test_in_any_history_done_only_grows_and_nothing_is_released_twice(names: list[str]) -> None:
    state, released = SiteState(), []
    last = len(schedule(STUDY)), 0
    for name in names:
        following, effects = step(STUDY, "coordinator", state, EVENTS[name])
        assert state.done <= following.done < last
        released += [effect for effect in effects if isinstance(effect, Release)]
        state = replace(following)
    assert len(released) == len(set(released))
