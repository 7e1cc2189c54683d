"""The coordinator's machine. Rules:

1. Everything that changes its state is in this file; it knows no socket, file, clock or tensor.
2. JOINING -> PREPARING -> OPEN -> AGGREGATING -> OPEN ... -> CLOSED, stage by stage as `plan.schedule` says.
3. A site is done with a round when every flow the stage owes has arrived and the site said RoundDone.
4. A round closes when all sites of the cohort are done, or at its deadline with at least `minimum_sites`.
5. The first copy of an update counts. Later ones are the site's stored bytes again, or an attempt; both change nothing.
6. A restart begins from the last persisted state; updates that were kept are not asked for again.
7. A site that failed may come back, one that vetoed may not: nothing of it is relayed or averaged any more.
8. A closed study stays to tell every site so, until all have said goodbye or LINGER_S have passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from fedsecure.config import Study
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
from fedsecure.plan import offered, owed, schedule
from fedsecure.types import Flow
from protocols.messages import FeatureBank, Hello, Leave, LeaveReason, MetricReport, Release, RoundDone, WeightUpdate

RESEND_AFTER_S: Final = 20.0  # a site that still has not begun the round by then is sent it again
LINGER_S: Final = 10.0


class Phase(StrEnum):
    JOINING = "joining"
    PREPARING = "preparing"
    OPEN = "open"
    AGGREGATING = "aggregating"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class CoordinatorState:
    """`cohort` shrinks when a site leaves; `left` says why. `received` and `finished` are of the current round.

    `shared`: sites whose banks of the round before are relayed with this round.
    `boots`: site -> its number of starts, as it last said; `sent`: site -> time of its last OpenRound. Both are
    forgotten in a restart, and what a site was sent is forgotten when it starts again, so that it is sent anew.
    `verdict` and `detail`: how the study ended; `parted`: sites that know; `close_by`: when the rest is not waited for.
    """

    cohort: tuple[str, ...]
    phase: Phase = Phase.JOINING
    stage: int = 0
    round: int = 0
    model_digest: bytes = b""
    joined: frozenset[str] = frozenset()
    received: frozenset[tuple[str, Flow]] = frozenset()
    finished: frozenset[str] = frozenset()
    shared: tuple[str, ...] = ()
    boots: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[str, float] = field(default_factory=dict)
    now: float = 0.0
    deadline: float | None = None
    left: Mapping[str, LeaveReason] = field(default_factory=dict)
    verdict: str = ""
    detail: str = ""
    parted: frozenset[str] = frozenset()
    close_by: float | None = None


Outcome = tuple[CoordinatorState, tuple[Effect, ...]]


def begin(study: Study) -> CoordinatorState:
    """The state before anything happened."""
    return CoordinatorState(cohort=tuple(sorted(member.name for member in study.sites)))


def step(study: Study, state: CoordinatorState, event: Event) -> Outcome:
    """One event in, the next state and what to do about it out. Total over all phases and events; raises nothing."""
    if state.phase is Phase.CLOSED:
        return _closed(state, event)
    match event:
        case Restarted():
            return _restarted(replace(state, joined=frozenset(), boots={}, sent={}, now=0.0, deadline=None))
        case Tick(now):
            return _tick(study, replace(state, now=now))
        case Veto():
            return _abort(state, "vetoed", "")
        case TrainFailed(reason):
            return _abort(state, "failed", reason)
        case Prepared(stage, model_digest) if state.phase is Phase.PREPARING and stage == state.stage:
            return _open(replace(state, round=0, model_digest=model_digest, shared=()))
        case Aggregated(stage, round_, model_digest) if _aggregating(state, stage, round_):
            return _open(replace(state, round=round_ + 1, model_digest=model_digest, shared=_shared(study, state)))
        case FrameIn(sender, message):
            return _frame(study, state, sender, message)
        case _:
            return state, ()


def _aggregating(state: CoordinatorState, stage: int, round_: int) -> bool:
    return state.phase is Phase.AGGREGATING and (stage, round_) == (state.stage, state.round)


def _shared(study: Study, state: CoordinatorState) -> tuple[str, ...]:
    """Whose banks go out with the next round; none with the evaluation round, which trains nothing."""
    if state.round + 1 == schedule(study)[state.stage].rounds:
        return ()
    vetoed = {site for site, reason in state.left.items() if reason is LeaveReason.VETOED}
    return tuple(sorted(site for site, flow in state.received if flow is Flow.FEATURES and site not in vetoed))


def _restarted(state: CoordinatorState) -> Outcome:
    if state.phase is Phase.PREPARING:
        return state, (Prepare(state.stage),)
    if state.phase is Phase.AGGREGATING:
        return state, (Aggregate(state.stage, state.round, tuple(sorted(state.finished))),)
    return state, ()


def _tick(study: Study, state: CoordinatorState) -> Outcome:
    if state.phase is not Phase.OPEN or study.round_deadline_s is None:
        return state, ()
    if state.deadline is None:  # first tick since the round opened, or since a restart
        return replace(state, deadline=state.now + study.round_deadline_s), ()
    if state.now < state.deadline:
        return state, ()
    if len(state.finished) < study.minimum_sites:
        return _abort(state, "aborted", "the round's deadline passed with fewer sites than minimum_sites")
    return _close_round(study, state)


def _frame(study: Study, state: CoordinatorState, sender: str, message: object) -> Outcome:
    if sender not in state.cohort:
        return _outsider(study, state, sender, message)
    match message:
        case Hello():
            return _hello(state, sender, message)
        case WeightUpdate() | FeatureBank() | MetricReport():
            return _release(study, state, sender, message)
        case RoundDone(stage, round_):
            return _round_done(study, state, sender, (stage, round_))
        case Leave(reason):
            return _leave(study, state, sender, reason)
        case _:
            return state, (Refuse(sender, "a coordinator takes Hello, releases, RoundDone and Leave only"),)


def _outsider(study: Study, state: CoordinatorState, sender: str, message: object) -> Outcome:
    """A site that left: back after a failure it is taken in again, after a veto it is told that it is out."""
    refused = Refuse(sender, "has left the study or never was in its cohort")
    if sender not in state.left or not isinstance(message, Hello):
        return state, (refused,)
    if state.left[sender] is LeaveReason.VETOED:
        return state, (refused, CloseStudy((sender,), False))
    left = {site: reason for site, reason in state.left.items() if site != sender}
    back = replace(state, cohort=tuple(sorted((*state.cohort, sender))), left=left)
    following, effects = _frame(study, back, sender, message)
    return following, (*effects, Persist())


def _hello(state: CoordinatorState, sender: str, hello: Hello) -> Outcome:
    state = replace(state, joined=state.joined | {sender})
    if state.boots.get(sender) != hello.boot:
        sent = {site: at for site, at in state.sent.items() if site != sender}
        state = replace(state, boots={**state.boots, sender: hello.boot}, sent=sent)
    if state.phase is Phase.JOINING:
        if state.joined != set(state.cohort):
            return state, ()
        return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))
    if state.phase is not Phase.OPEN or sender in state.finished:
        return state, ()
    working = (hello.stage, hello.round) == (state.stage, state.round) and not hello.done
    at = state.sent.get(sender)
    if working or (at is not None and state.now - at < RESEND_AFTER_S):
        return state, ()
    return _open_for(state, sender)


def _open_for(state: CoordinatorState, site: str) -> Outcome:
    banks = tuple(other for other in state.shared if other != site)
    return replace(state, sent={**state.sent, site: state.now}), (OpenRound(site, state.stage, state.round, banks),)


def _release(study: Study, state: CoordinatorState, sender: str, message: Release) -> Outcome:
    flow = {WeightUpdate: Flow.WEIGHTS, FeatureBank: Flow.FEATURES, MetricReport: Flow.METRICS}[type(message)]
    of, current = (message.stage, message.round), (state.stage, state.round)
    if of < current or (of == current and (state.phase is not Phase.OPEN or (sender, flow) in state.received)):
        return state, ()  # late or repeated, harmless
    if of > current:
        return state, (Refuse(sender, "release for a round that is not open"),)
    if flow not in offered(study, *current):
        return state, (Refuse(sender, "release of a flow that this round does not take"),)
    if isinstance(message, WeightUpdate) and message.model_digest != state.model_digest:
        return state, (Refuse(sender, "update was trained from another model than the round's"),)
    return replace(state, received=state.received | {(sender, flow)}), (KeepIncoming(sender, message), Persist())


def _round_done(study: Study, state: CoordinatorState, sender: str, of: tuple[int, int]) -> Outcome:
    if state.phase is not Phase.OPEN or of != (state.stage, state.round) or sender in state.finished:
        return state, ()
    if not owed(study, *of) <= {flow for site, flow in state.received if site == sender}:
        return state, (Refuse(sender, "said it was done without the releases it owes"),)
    state = replace(state, finished=state.finished | {sender})
    if state.finished != set(state.cohort):
        return state, (Persist(),)
    return _close_round(study, state)


def _leave(study: Study, state: CoordinatorState, sender: str, reason: LeaveReason) -> Outcome:
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
    if len(cohort) < max(1, study.minimum_sites):
        return _abort(state, "aborted", "fewer sites are left than minimum_sites")
    if state.phase is Phase.OPEN and state.finished == set(cohort):
        return _close_round(study, state)
    if state.phase is Phase.JOINING and state.joined == set(cohort):
        return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))
    return state, (Persist(),)


def _open(state: CoordinatorState) -> Outcome:
    """Open the state's round to every site that is here; the others get it with their next Hello."""
    state = replace(
        state, phase=Phase.OPEN, received=frozenset(), finished=frozenset(), deadline=None,
    )  # fmt: skip
    effects: list[Effect] = [Persist()]
    for site in sorted(state.joined & set(state.cohort)):
        state, opened = _open_for(state, site)
        effects += opened
    return state, tuple(effects)


def _close_round(study: Study, state: CoordinatorState) -> Outcome:
    over = RoundOver(state.stage, state.round, len(state.finished))
    stages = schedule(study)
    if state.round < stages[state.stage].rounds:
        aggregate = Aggregate(state.stage, state.round, tuple(sorted(state.finished)))
        return replace(state, phase=Phase.AGGREGATING), (Persist(), over, aggregate)
    if state.stage + 1 < len(stages):
        following = replace(state, phase=Phase.PREPARING, stage=state.stage + 1, round=0)
        return following, (Persist(), over, Prepare(following.stage))
    closed = replace(state, phase=Phase.CLOSED, verdict="finished")
    return closed, (Persist(), over, CloseStudy(state.cohort, True))


def _abort(state: CoordinatorState, reason: str, detail: str) -> Outcome:
    closed = replace(state, phase=Phase.CLOSED, verdict=reason, detail=detail)
    # A study that was aborted is not persisted as such: the operator may mend the cause and start it again.
    return closed, (CloseStudy(state.cohort, False), *_stop_if_alone(closed))


def _closed(state: CoordinatorState, event: Event) -> Outcome:
    """Tell everybody who asks; stop when all know, or when the rest has not asked for LINGER_S."""
    finished = state.verdict == "finished"
    match event:
        case Restarted():
            return replace(state, parted=frozenset(), close_by=None), ()
        case Tick(now):
            if state.close_by is None:
                return replace(state, close_by=now + LINGER_S), _stop_if_alone(state)
            return state, (Stop(state.verdict, state.detail),) if now >= state.close_by else ()
        case FrameIn(sender, Leave()):
            state = replace(state, parted=state.parted | {sender})
            return state, _stop_if_alone(state)
        case FrameIn(sender, Hello()):
            return state, (CloseStudy((sender,), finished and sender in state.cohort),)
        case _:
            return state, ()


def _stop_if_alone(state: CoordinatorState) -> tuple[Effect, ...]:
    return (Stop(state.verdict, state.detail),) if state.parted >= set(state.cohort) else ()
