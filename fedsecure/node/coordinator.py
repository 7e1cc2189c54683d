"""The coordinator's machine. Rules:

1. Everything that changes its state is here and in coordinator_sum.py, coordinator_target.py and coordinator_end.py;
   it knows no socket, file, clock or tensor.
2. JOINING -> PREPARING -> OPEN -> AGGREGATING -> OPEN ... -> CLOSED, stage by stage as `plan.schedule` says.
   What can come between OPEN and AGGREGATING is in coordinator_sum.py and coordinator_target.py.
3. A site is done with a round when every flow the stage owes has arrived and the site said RoundDone.
4. A round closes when all sites of the cohort are done, or at its deadline with at least
   `minimum_sites`, and as many as a secure sum needs.
5. The first copy of an update counts. Later ones are the site's stored bytes again, or an attempt; both change nothing.
6. A restart begins from the last persisted state; updates that were kept are not asked for again.
7. A site that failed may come back, one that vetoed may not: nothing of it is relayed or averaged any more. Whoever
   says that it leaves is answered, each time.
8. A closed study stays to tell every site so: coordinator_end.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fedsecure.config import Study
from fedsecure.node.coordinator_end import abort, closed
from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase
from fedsecure.node.coordinator_sum import (
    answered,
    end_shown,
    in_sum,
    is_waited_for,
    late,
    left,
    remind,
    resumed,
    scored,
    sum_of_round,
)
from fedsecure.node.coordinator_target import (
    asked_at_opening,
    averaged,
    collected,
    do_without,
    recently,
    supply,
)
from fedsecure.node.events import (
    Aggregate,
    Aggregated,
    AskForTarget,
    Bounded,
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
    Score,
    SumDone,
    SumShort,
    SumStands,
    Tick,
    TrainFailed,
    Veto,
)
from fedsecure.plan import least_sites, offered, owed, relays_boxes, schedule, shared_flow
from fedsecure.types import Flow
from protocols.messages import (
    DistanceReport,
    FeatureBank,
    Hello,
    Leave,
    LeaveReason,
    MetricReport,
    PrototypeSum,
    RoundDone,
    TargetUpdate,
    Unmasked,
    WantTarget,
    WeightUpdate,
)
from protocols.secagg.messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    MaskedInput,
    ResultAgreement,
    ShareKeys,
    UnmaskShares,
)


def step(study: Study, state: CoordinatorState, event: Event) -> Outcome:
    """One event in, the next state and what to do about it out. Total over all phases and events; raises nothing."""
    if state.phase is Phase.CLOSED:
        return closed(state, event)
    match event:
        case Restarted():
            forgotten = replace(state, joined=frozenset(), boots={}, sent={}, supplied={}, now=0.0, deadline=None)
            return _restarted(forgotten)
        case Tick(now):
            return _tick(study, replace(state, now=now))
        case Veto():
            return abort(state, "vetoed", "")
        case TrainFailed(reason):
            return abort(state, "failed", reason)
        case Prepared(stage, model, target) if state.phase is Phase.PREPARING and stage == state.stage:
            first = replace(
                state, round=0, model_digest=model, target_digest=target, corrected=False, measured=(), shared=()
            )
            return _open(study, first)
        case Bounded(stage, round_, bound) if _at(state, Phase.SCORING, stage, round_):
            return scored(study, state, bound)
        case Aggregated(stage, round_) if _at(state, Phase.AGGREGATING, stage, round_):
            return _open(study, replace(averaged(state, event), shared=_shared(study, state)))
        case SumStands() | SumShort() | SumDone():
            return in_sum(study, state, event)
        case FrameIn(sender, message):
            return _frame(study, state, sender, message)
        case _:
            return state, ()


def _at(state: CoordinatorState, phase: Phase, stage: int, round_: int) -> bool:
    return state.phase is phase and (stage, round_) == (state.stage, state.round)


def _shared(study: Study, state: CoordinatorState) -> tuple[str, ...]:
    """Whose banks go out with the next round; none with the evaluation round, which trains nothing."""
    if state.round + 1 == schedule(study)[state.stage].rounds or not relays_boxes(study):
        return ()
    boxed = shared_flow(study)
    vetoed = {site for site, reason in state.left.items() if reason is LeaveReason.VETOED}
    return tuple(sorted(site for site, flow in state.received if flow is boxed and site not in vetoed))


def _restarted(state: CoordinatorState) -> Outcome:
    if state.phase is Phase.PREPARING:
        return state, (Prepare(state.stage),)
    if state.phase is Phase.SUMMING:
        return resumed(state)
    sites = tuple(sorted(state.finished))
    if state.phase is Phase.SCORING:
        return state, (Score(state.stage, state.round, sites),)
    if state.phase is Phase.AGGREGATING:
        return state, (Aggregate(state.stage, state.round, sites, state.asked),)
    return state, ()


def _tick(study: Study, state: CoordinatorState) -> Outcome:
    allowed = _allowed(study, state)
    if allowed is None:
        return state, ()
    if state.deadline is None:  # first tick since the phase began, since targets were asked for, or since a restart
        return replace(state, deadline=state.now + allowed), ()
    if state.now < state.deadline:
        return state, ()
    if state.phase is Phase.JOINING:
        return _begin_without(study, state)
    if state.phase is Phase.SUMMING:
        return late(state)
    if state.phase is Phase.COLLECTING:
        return do_without(state)
    if len(state.finished) < least_sites(study):
        return abort(state, "aborted", f"the round's deadline passed with fewer sites than {_needed(study)}")
    return _close_round(study, state)


def _needed(study: Study) -> str:
    return "minimum_sites" if least_sites(study) == study.minimum_sites else "a secure sum needs"


def _allowed(study: Study, state: CoordinatorState) -> float | None:
    """Seconds that a phase may last; None: it waits for every site."""
    match state.phase:
        case Phase.JOINING:
            return study.join_deadline_s
        case Phase.OPEN if state.round == schedule(study)[state.stage].rounds and study.evaluation_deadline_s:
            return study.evaluation_deadline_s
        case Phase.SUMMING:
            return study.security.step_deadline_s
        case Phase.OPEN | Phase.COLLECTING:
            return study.round_deadline_s
        case _:
            return None


def _begin_without(study: Study, state: CoordinatorState) -> Outcome:
    """The joining deadline has passed. Who is late is still in the cohort, and is sent the round that is open then."""
    if len(state.joined) < study.minimum_sites:
        return abort(state, "aborted", "the joining deadline passed with fewer sites than minimum_sites")
    return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))


def _frame(study: Study, state: CoordinatorState, sender: str, message: object) -> Outcome:
    if sender not in state.cohort:
        return _outsider(study, state, sender, message)
    match message:
        case Hello():
            return _hello(study, state, sender, message)
        case WeightUpdate() | FeatureBank() | PrototypeSum() | MetricReport() | TargetUpdate() | DistanceReport():
            return _release(study, state, sender, message)
        case AdvertiseKeys() | ShareKeys() | MaskedInput() | ConsistencyCheck() | UnmaskShares() | ResultAgreement():
            return answered(state, sender, message)
        case WantTarget(stage, round_):
            return supply(state, sender, (stage, round_))
        case RoundDone(stage, round_):
            return _round_done(study, state, sender, (stage, round_))
        case Leave(reason):
            return _leave(study, state, sender, reason)
        case _:
            return state, (Refuse(sender, "a coordinator takes what a site sends"),)


def _outsider(study: Study, state: CoordinatorState, sender: str, message: object) -> Outcome:
    """A site that left: back after a failure it is taken in again, after a veto it is told that it is out."""
    refused = Refuse(sender, "has left the study or never was in its cohort")
    if sender in state.left and isinstance(message, Leave):
        return _leave(study, state, sender, message.reason)  # it was not answered, or vetoes after it failed
    if sender not in state.left or not isinstance(message, Hello):
        return state, (refused,)
    if state.left[sender] is LeaveReason.VETOED:
        return state, (refused, CloseStudy((sender,), False))
    left = {site: reason for site, reason in state.left.items() if site != sender}
    back = replace(state, cohort=tuple(sorted((*state.cohort, sender))), left=left)
    following, effects = _frame(study, back, sender, message)
    return following, (*effects, Persist())


def _hello(study: Study, state: CoordinatorState, sender: str, hello: Hello) -> Outcome:
    known = state.boots.get(sender)
    if known is not None and hello.boot < known:
        return state, (Refuse(sender, "a node's boot number never falls"),)
    state = replace(state, joined=state.joined | {sender})
    if hello.boot != known:
        sent, supplied = (
            {site: at for site, at in times.items() if site != sender} for times in (state.sent, state.supplied)
        )
        state = replace(
            state, boots={**state.boots, sender: hello.boot}, sent=sent, supplied=supplied,
            agreed=state.agreed - {sender},
        )  # fmt: skip
    if state.phase is Phase.JOINING:
        if state.joined != set(state.cohort):
            return state, ()
        return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))
    if not _waited_for(state, sender):
        return state, ()
    shown = end_shown(study, state, sender, hello) if state.phase is Phase.OPEN else None
    if shown is not None:
        return shown
    if recently(state.sent, sender, state.now):
        return state, ()
    if state.phase is Phase.SUMMING:
        return remind(state, sender)
    in_this_round = (hello.stage, hello.round) == (state.stage, state.round)
    if state.phase is Phase.COLLECTING and in_this_round:
        sent = {**state.sent, sender: state.now}
        return replace(state, sent=sent), (AskForTarget(sender, state.stage, state.round),)
    if in_this_round and not hello.done:
        return state, ()  # it is working
    return _open_for(study, state, sender)


def _waited_for(state: CoordinatorState, site: str) -> bool:
    if state.phase is Phase.SUMMING:
        return is_waited_for(state, site)
    if state.phase is Phase.COLLECTING:
        return site in state.finished and (site, Flow.TARGET) not in state.received
    return state.phase is Phase.OPEN and site not in state.finished


def _open_for(study: Study, state: CoordinatorState, site: str) -> Outcome:
    banks = tuple(other for other in state.shared if other != site)
    behind = study.security.secagg and site not in state.agreed
    opened = OpenRound(site, state.stage, state.round, banks, state.corrected, state.asked, behind)
    supplied = {**state.supplied, site: state.now} if state.corrected else state.supplied
    return replace(state, sent={**state.sent, site: state.now}, supplied=supplied), (opened,)


def _release(study: Study, state: CoordinatorState, sender: str, message: Unmasked) -> Outcome:
    flow = _flow(study, message)
    of, current = (message.stage, message.round), (state.stage, state.round)
    if of < current or (of == current and ((sender, flow) in state.received or not _takes(state, sender, flow))):
        return state, ()  # late or repeated, harmless
    if of > current:
        return state, (Refuse(sender, "release for a round that is not open"),)
    if flow not in offered(study, *current, state.asked):
        return state, (Refuse(sender, "release of a flow that this round does not take"),)
    if isinstance(message, WeightUpdate | PrototypeSum) and message.model_digest != state.model_digest:
        return state, (Refuse(sender, "update was trained from another model than the round's"),)
    if isinstance(message, TargetUpdate) and message.target_digest != state.target_digest:
        return state, (Refuse(sender, "target was trained from another target network than the round's"),)
    state = replace(state, received=state.received | {(sender, flow)})
    following, effects = collected(state) if state.phase is Phase.COLLECTING else (state, (Persist(),))
    return following, (KeepIncoming(sender, message), *effects)


def _flow(study: Study, message: Unmasked) -> Flow:
    """What a box holds only the study says."""
    if isinstance(message, FeatureBank) and shared_flow(study) is Flow.PROTOTYPES:
        return Flow.PROTOTYPES
    return _FLOWS[type(message)]


_FLOWS: Final[Mapping[type, Flow]] = {
    WeightUpdate: Flow.WEIGHTS,
    FeatureBank: Flow.FEATURES,
    PrototypeSum: Flow.PROTOTYPE_SUM,
    MetricReport: Flow.METRICS,
    TargetUpdate: Flow.TARGET,
    DistanceReport: Flow.DISTANCE,
}


def _takes(state: CoordinatorState, sender: str, flow: Flow) -> bool:
    if state.phase is Phase.COLLECTING:
        return flow is Flow.TARGET and sender in state.finished
    return state.phase is Phase.OPEN


def _round_done(study: Study, state: CoordinatorState, sender: str, of: tuple[int, int]) -> Outcome:
    if state.phase is not Phase.OPEN or of != (state.stage, state.round) or sender in state.finished:
        return state, ()
    if not owed(study, *of, state.asked) <= {flow for site, flow in state.received if site == sender}:
        return state, (Refuse(sender, "said it was done without the releases it owes"),)
    state = replace(state, finished=state.finished | {sender})
    if state.finished != set(state.cohort):
        return state, (Persist(),)
    return _close_round(study, state)


def _leave(study: Study, state: CoordinatorState, sender: str, reason: LeaveReason) -> Outcome:
    following, effects = _without(study, state, sender, reason)
    return following, (CloseStudy((sender,), False), *effects)


def _without(study: Study, state: CoordinatorState, sender: str, reason: LeaveReason) -> Outcome:
    if state.left.get(sender) is LeaveReason.VETOED:
        return state, ()
    cohort = tuple(site for site in state.cohort if site != sender)
    state = replace(
        state,
        cohort=cohort,
        left={**state.left, sender: reason},
        finished=state.finished - {sender},
        joined=state.joined - {sender},
        received=frozenset(pair for pair in state.received if pair[0] != sender),
        shared=tuple(site for site in state.shared if site != sender or reason is not LeaveReason.VETOED),
    )
    if len(cohort) < least_sites(study):
        return abort(state, "aborted", f"fewer sites are left than {_needed(study)}")
    if state.phase is Phase.SUMMING:
        return left(study, state, sender, reason)
    if state.phase is Phase.OPEN and state.finished == set(cohort):
        return _close_round(study, state)
    if state.phase is Phase.COLLECTING:
        return collected(state)
    if state.phase is Phase.JOINING and state.joined == set(cohort):
        return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))
    return state, (Persist(),)


def _open(study: Study, state: CoordinatorState) -> Outcome:
    """Open the state's round to every site that is here; the others get it with their next Hello."""
    state = replace(
        state, phase=Phase.OPEN, received=frozenset(), finished=frozenset(), deadline=None, supplied={},
        attempts=0, asked=asked_at_opening(study, state),
    )  # fmt: skip
    effects: list[Effect] = [Persist()]
    for site in sorted(state.joined & set(state.cohort)):
        state, opened = _open_for(study, state, site)
        effects += opened
    return state, tuple(effects)


def _close_round(study: Study, state: CoordinatorState) -> Outcome:
    stages = schedule(study)
    if state.round < stages[state.stage].rounds:
        return sum_of_round(study, state)
    over = RoundOver(state.stage, state.round, len(state.finished))
    if state.stage + 1 < len(stages):
        following = replace(state, phase=Phase.PREPARING, stage=state.stage + 1, round=0)
        return following, (Persist(), over, Prepare(following.stage))
    closed = replace(state, phase=Phase.CLOSED, verdict="finished")
    return closed, (Persist(), over, CloseStudy(state.cohort, True))
