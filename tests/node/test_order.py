"""A coordinator that leaves out rounds is refused as soon as a site can tell; an honest one never is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsecure.config import Study, parse_study
from fedsecure.node import coordinator, site, wiring
from fedsecure.node.coordinator_state import begin
from fedsecure.node.coordinator_target import RESEND_AFTER_S
from fedsecure.node.events import (
    Aggregate,
    Aggregated,
    CloseStudy,
    FrameIn,
    OpenRound,
    Persist,
    Prepare,
    Prepared,
    Refuse,
    Release,
    Resend,
    Restarted,
    SayHello,
    SayLeave,
    Stop,
    Tick,
    Train,
    TrainDone,
    TrainFailed,
)
from fedsecure.node.order import LEFT_OUT, NEVER, TOO_SOON, TRAVEL_S, objection
from fedsecure.node.site import Phase, SiteState
from fedsecure.plan import places
from protocols.messages import (
    CloseReason,
    Hello,
    Leave,
    LeaveReason,
    RoundDone,
    RoundOpen,
    StudyClosed,
    WeightUpdate,
    model_digest,
)

D = 600.0
MODEL = model_digest(b"m")


def study(**settings: Any) -> Study:
    return parse_study(
        {
            "framework": "simclr",
            "sites": [{"name": name, "weight": 2} for name in ("a", "b")],
            "pretrain": {"rounds": 4},
            "finetune": {"labelled": [1], "modes": ["local"]},
            "security": {"secagg": False},
            **settings,
        }
    )


PATIENT, DRIVEN = study(), study(round_deadline_s=D)
ENDS = study(evaluation_deadline_s=D)


def opening(stage: int, round_: int) -> FrameIn:
    return FrameIn("hub", RoundOpen(stage, round_, MODEL, (), (), b"", b"", b"m"))


def after(of: Study, state: SiteState, *events: Any) -> tuple[SiteState, list[Any]]:
    effects: list[Any] = []
    for event in events:
        state, more = site.step(of, "hub", state, event)
        effects += more
    return state, effects


def waiting(of: Study, stage: int = 0, round_: int = 0) -> SiteState:
    state, _ = after(of, SiteState(), Tick(0.0), opening(stage, round_), TrainDone(stage, round_))
    assert (state.phase, state.sent) == (Phase.WAITING, (stage, round_))
    return state


def refusal(of: Study, state: SiteState, *events: Any) -> str:
    following, effects = after(of, state, *events)
    rules = [effect.rule for effect in effects if isinstance(effect, Refuse)]
    assert bool(rules) != any(isinstance(effect, Train) for effect in effects)
    if rules:
        assert following.sent == state.sent
    return rules[0] if rules else ""


def test_without_a_deadline_the_next_round_is_the_only_one() -> None:
    every = places(PATIENT)
    for number, place in enumerate(every):
        state = waiting(PATIENT, *place)
        for later in every[number + 1 :]:
            expected = "" if later == every[number + 1] else LEFT_OUT
            assert refusal(PATIENT, state, Tick(1e9), opening(*later)) == expected


def test_without_a_deadline_no_round_follows_one_that_the_site_is_still_at() -> None:
    state, _ = after(PATIENT, SiteState(), opening(0, 0))
    assert refusal(PATIENT, state, opening(0, 1)) == LEFT_OUT
    state, _ = after(DRIVEN, SiteState(), opening(0, 0))
    assert refusal(DRIVEN, state, opening(0, 1)) == ""


def test_with_deadlines_each_round_that_was_missed_took_its_own() -> None:
    state = waiting(DRIVEN)
    assert refusal(DRIVEN, state, opening(0, 1)) == ""
    for missed in (1, 2):
        due = missed * D - TRAVEL_S
        assert refusal(DRIVEN, state, Tick(due - 1), opening(0, 1 + missed)) == TOO_SOON
        assert refusal(DRIVEN, state, Tick(due + 1), opening(0, 1 + missed)) == ""
    last = places(DRIVEN)[-1]
    assert refusal(DRIVEN, state, Tick(3 * D), opening(*last)) == TOO_SOON


def test_who_is_refused_too_soon_is_heard_when_the_time_has_come() -> None:
    state, _ = after(DRIVEN, waiting(DRIVEN), Tick(1.0), opening(0, 2))
    assert refusal(DRIVEN, state, Tick(D), opening(0, 2)) == ""


def test_only_an_evaluation_that_has_a_deadline_may_be_left_out() -> None:
    assert refusal(ENDS, waiting(ENDS, 0, 3), Tick(D), opening(1, 0)) == ""
    assert refusal(ENDS, waiting(ENDS, 0, 3), Tick(1.0), opening(1, 0)) == TOO_SOON
    assert refusal(ENDS, waiting(ENDS, 0, 2), Tick(9 * D), opening(1, 0)) == LEFT_OUT


def test_a_restart_forgets_the_time_and_keeps_the_order() -> None:
    state, _ = after(DRIVEN, waiting(DRIVEN, 0, 1), Restarted())
    assert refusal(DRIVEN, state, opening(0, 3)) == ""
    assert refusal(DRIVEN, state, opening(0, 0)) == "opens a round that is past: with an older model"
    state, _ = after(PATIENT, waiting(PATIENT, 0, 1), Restarted())
    assert refusal(PATIENT, state, opening(0, 3)) == LEFT_OUT


def test_a_round_that_was_missed_is_past_also_after_a_restart() -> None:
    state, _ = after(DRIVEN, waiting(DRIVEN), Tick(2 * D), opening(0, 3), Restarted())
    assert state.done == (0, 0)
    assert refusal(DRIVEN, state, opening(0, 2)) == "opens a round that is past: with an older model"


@pytest.mark.parametrize("of", [PATIENT, DRIVEN])
def test_with_a_new_folder_nobody_can_tell(of: Study) -> None:
    assert all(objection(of, NEVER, True, None, place) == "" for place in places(of))


def test_the_clock_never_falls_and_counts_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"time": 1000.0, "monotonic": 10.0}
    monkeypatch.setattr(wiring.time, "time", lambda: times["time"])
    monkeypatch.setattr(wiring.time, "monotonic", lambda: times["monotonic"])
    now = wiring.waking_clock()
    began = now()
    times.update(time=1005.0, monotonic=15.0)
    assert now() - began == 5.0
    times.update(time=9005.0, monotonic=15.0)  # it slept
    assert now() - began == 8005.0
    times.update(time=1.0, monotonic=16.0)  # and somebody set its clock back
    assert now() - began == 8006.0


class Pair:
    """An honest coordinator and site a, by their machines; site b is always done at once. Frames to a can be lost; a
    can be killed between any two effects, and fail."""

    def __init__(self, of: Study) -> None:
        self.of, self.now, self.boot = of, 0.0, 1
        self.hub, self.site = begin(of), SiteState()
        self.kept: tuple[tuple[int, int], tuple[int, int]] = (NEVER, NEVER)
        self.lost = False
        self.kill_after: int | None = None
        self.refused: list[str] = []
        self.stopped = False
        self.to_hub(Restarted(), FrameIn("b", Hello(1, -1, -1, False)))
        self.to_site(Restarted())

    def to_hub(self, *events: Any) -> None:
        for event in events:
            self.hub, effects = coordinator.step(self.of, self.hub, event)
            for effect in effects:
                self.of_hub(effect)

    def of_hub(self, effect: Any) -> None:
        match effect:
            case Prepare(stage):
                self.to_hub(Prepared(stage, MODEL))
            case Aggregate(stage, round_):
                self.to_hub(Aggregated(stage, round_, MODEL))
            case OpenRound("b", stage, round_):
                self.to_hub(*self.work("b", stage, round_))
            case OpenRound("a", stage, round_) if not self.lost:
                self.to_site(opening(stage, round_))
            case CloseStudy(sites, finished) if "a" in sites and not self.lost:
                self.to_site(FrameIn("hub", StudyClosed(CloseReason.FINISHED if finished else CloseReason.ABORTED)))
            case Stop():
                self.stopped = True
            case Refuse("a", rule):
                self.refused.append(rule)

    def work(self, name: str, stage: int, round_: int) -> list[FrameIn]:
        averaged = round_ < (self.of.pretrain.rounds if stage == 0 else 0)
        update = [FrameIn(name, WeightUpdate(stage, round_, MODEL, b"\0" * 4))] if averaged else []
        return [*update, FrameIn(name, RoundDone(stage, round_))]

    def to_site(self, *events: Any) -> None:
        for event in events:
            self.site, effects = site.step(self.of, "hub", self.site, event)
            before = self.boot
            for effect in effects:
                if self.boot == before:  # killed: the rest of them is gone
                    self.of_site(effect)

    def of_site(self, effect: Any) -> None:
        if self.kill_after == 0:
            self.kill_after = None
            self.restart()
            return
        if self.kill_after is not None:
            self.kill_after -= 1
        match effect:
            case SayHello(stage, round_, done):
                self.to_hub(FrameIn("a", Hello(self.boot, stage, round_, done)))
            case SayLeave(reason):
                self.kept = self.kept[0], NEVER
                self.to_hub(FrameIn("a", Leave(LeaveReason(reason))))
            case Release(stage, round_) | Resend(stage, round_):
                self.to_hub(*self.work("a", stage, round_))
            case Persist():
                self.kept = self.site.done, self.kept[1]
            case Refuse("hub", rule):
                self.refused.append(rule)
            case Train():
                self.kept = self.kept[0], self.site.sent
            case Stop("failed"):
                self.restart()

    def restart(self) -> None:
        self.now += RESEND_AFTER_S
        self.boot += 1
        self.site = SiteState(done=self.kept[0], sent=self.kept[1])
        self.to_site(Restarted())

    def act(self, what: str) -> None:
        match what:
            case "wait":
                self.now += 25.0
            case "wait long":
                self.now += 0.6 * D
            case "kill":
                self.restart()
            case "kill after one" | "kill after two":
                self.kill_after = 1 if what.endswith("one") else 2
            case "lose" | "find":
                self.lost = what == "lose"
            case "train" if self.site.phase is Phase.TRAINING:
                self.to_site(TrainDone(*self.site.current))
            case "fail" if self.site.phase is Phase.TRAINING:
                self.to_site(TrainFailed("it broke"))
            case "hub restarts":
                self.to_hub(Restarted(), FrameIn("b", Hello(1, -1, -1, False)))
        self.to_hub(Tick(self.now))
        self.to_site(Tick(self.now))


WAYS = [
    "wait", "wait", "wait long", "train", "train", "kill", "kill after one", "kill after two", "lose", "find", "fail",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([PATIENT, DRIVEN, ENDS]), st.lists(st.sampled_from([*WAYS, "hub restarts"]), max_size=60))
def test_an_honest_coordinator_is_never_refused(of: Study, ways: list[str]) -> None:
    pair = Pair(of)
    for way in ways:
        if pair.stopped:
            break
        pair.act(way)
    assert pair.refused == []


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([PATIENT, DRIVEN, ENDS]), st.lists(st.sampled_from(WAYS), max_size=30))
def test_whatever_came_between_the_study_comes_to_its_end(of: Study, ways: list[str]) -> None:
    pair = Pair(of)
    for way in (*ways, "find", *["wait", "train"] * 40):
        if not pair.stopped:
            pair.act(way)
    assert pair.hub.verdict == "finished"
