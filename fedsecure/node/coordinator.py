"""The coordinator's machine. Rules:

1. Everything that changes its state is here and in coordinator_{members,rounds,release,sum,target,end}.py; it knows no
   socket, file, clock or tensor.
2. JOINING -> PREPARING -> OPEN -> AGGREGATING -> OPEN ... -> CLOSED, stage by stage as `plan.schedule` says.
   What can come between OPEN and AGGREGATING is in coordinator_sum.py and coordinator_target.py.
3. A site is done with a round when every flow the stage owes has arrived and the site said RoundDone.
4. A round closes when all sites of the cohort are done, or at its deadline with at least
   `minimum_sites`, and as many as a secure sum needs.
5. The first copy of an update counts. Later ones are the site's stored bytes again, or an attempt; both change nothing.
6. A restart begins from the last persisted state; updates that were kept are not asked for again.
7. A site that failed may come back, one that vetoed may not: nothing of it is relayed or averaged any more. Whoever
   says that it leaves is answered, again whenever that may have been lost.
8. What costs a site little to ask is answered within a pace: pace.py.
9. A closed study stays to tell every site so: coordinator_end.py.
"""

from __future__ import annotations

from dataclasses import replace

from fedsecure.config import Study
from fedsecure.node.coordinator_end import abort, closed
from fedsecure.node.coordinator_members import hello, leave, outsider
from fedsecure.node.coordinator_release import release, round_done
from fedsecure.node.coordinator_rounds import close_round, needed, open_round, shared
from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase
from fedsecure.node.coordinator_sum import answered, in_sum, late, resumed, scored
from fedsecure.node.coordinator_target import averaged, do_without, supply
from fedsecure.node.events import (
    Aggregate,
    Aggregated,
    Bounded,
    Event,
    FrameIn,
    Persist,
    Prepare,
    Prepared,
    Refuse,
    Restarted,
    Score,
    SumDone,
    SumShort,
    SumStands,
    Tick,
    TrainFailed,
    Veto,
)
from fedsecure.plan import deadline_of, least_sites
from protocols.messages import (
    DistanceReport,
    FeatureBank,
    Hello,
    Leave,
    MetricReport,
    PrototypeSum,
    RoundDone,
    TargetUpdate,
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
            forgotten = replace(state, joined=frozenset(), boots={}, sent={}, supplied={}, starts={}, partings={},
                                now=0.0, deadline=None)  # fmt: skip
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
            return open_round(study, first)
        case Bounded(stage, round_, bound) if _at(state, Phase.SCORING, stage, round_):
            return scored(study, state, bound)
        case Aggregated(stage, round_) if _at(state, Phase.AGGREGATING, stage, round_):
            return open_round(study, replace(averaged(state, event), shared=shared(study, state)))
        case SumStands() | SumShort() | SumDone():
            return in_sum(study, state, event)
        case FrameIn(sender, message):
            return _frame(study, state, sender, message)
        case _:
            return state, ()


def _at(state: CoordinatorState, phase: Phase, stage: int, round_: int) -> bool:
    return state.phase is phase and (stage, round_) == (state.stage, state.round)


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
        return abort(state, "aborted", f"the round's deadline passed with fewer sites than {needed(study)}")
    return close_round(study, state)


def _allowed(study: Study, state: CoordinatorState) -> float | None:
    """Seconds that a phase may last; None: it waits for every site."""
    match state.phase:
        case Phase.JOINING:
            return study.join_deadline_s
        case Phase.OPEN:
            return deadline_of(study, state.stage, state.round)
        case Phase.SUMMING:
            return study.security.step_deadline_s
        case Phase.COLLECTING:
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
        return outsider(study, state, sender, message)
    match message:
        case Hello():
            return hello(study, state, sender, message)
        case WeightUpdate() | FeatureBank() | PrototypeSum() | MetricReport() | TargetUpdate() | DistanceReport():
            return release(study, state, sender, message)
        case AdvertiseKeys() | ShareKeys() | MaskedInput() | ConsistencyCheck() | UnmaskShares() | ResultAgreement():
            return answered(state, sender, message)
        case WantTarget(stage, round_):
            return supply(state, sender, (stage, round_))
        case RoundDone(stage, round_):
            return round_done(study, state, sender, (stage, round_))
        case Leave(reason):
            return leave(study, state, sender, reason)
        case _:
            return state, (Refuse(sender, "a coordinator takes what a site sends"),)
