"""The part of the coordinator's machine that is about secure sums. Pure, like the rest.

    OPEN -> SUMMING -> what coordinator_target.py says of a round whose updates are here

A round's sum begins among the sites that have trained. Each step is over when all who were asked have answered, or at
its deadline: who is late is out of this sum. Too few before anybody was asked to unmask: the sum is given up, and the
next attempt is of whoever is there. After that it may be open to whoever has the answers, so that the same sum is
waited for, and never another one of these updates (protocols/secagg/SPEC.md, *When a sum fails*). Above 100 sites fewer
than t open a sum, so that a site counts it as open when it has signed: from there on another one would be refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fedsecure.config import Study
from fedsecure.learning.distance import too_far
from fedsecure.node.coordinator_end import abort
from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase, RunningSum
from fedsecure.node.coordinator_target import after_training, aggregate, bounded, recently
from fedsecure.node.events import (
    AskAgain,
    CloseSumStep,
    Effect,
    OpenRound,
    OpenSum,
    Persist,
    SumDone,
    SumShort,
    SumStands,
    SumStep,
    TakeForSum,
)
from fedsecure.plan import StageKind, least_sites, schedule, summed
from fedsecure.types import Flow
from protocols.messages import Hello, LeaveReason, SumAnswer
from protocols.secagg.graph import COMPLETE

ATTEMPTS: Final = 3  # sums begun for one round: sites' floors (config.SumFloors) say no more by themselves
PATIENCE: Final = 10  # deadlines that answers are waited for which nothing can replace


def _binds(study: Study, step: SumStep) -> bool:
    """Whether sites may count the sum as open in this step, and take part in none over other survivors."""
    signing = len(study.sites) > COMPLETE and step is SumStep.CHECKS
    return signing or step in (SumStep.ANSWERS, SumStep.AGREEMENT)


def begin_sum(study: Study, state: CoordinatorState, flows: tuple[Flow, ...], attempt: int) -> Outcome:
    """Ask the sites that have trained. Aborts the study where they are too few, or sites would take part no more."""
    sites = tuple(sorted(state.finished.intersection(state.cohort)))
    if len(sites) < least_sites(study):
        return _without_sum(state, flows, "fewer sites are left than a secure sum needs")
    if attempt >= ATTEMPTS:
        return _without_sum(state, flows, f"the secure sum of a round was given up {ATTEMPTS} times")
    running = RunningSum(attempt, flows, SumStep.KEYS, frozenset(sites))
    state = replace(state, phase=Phase.SUMMING, sum=running, deadline=None)
    return state, (Persist(), _opening(state, running))


def _without_sum(state: CoordinatorState, flows: tuple[Flow, ...], reason: str) -> Outcome:
    """Targets are done without: the prediction needs nobody. Without the updates there is no model."""
    if flows == (Flow.TARGET,):
        return aggregate(replace(state, sum=None, asked=False))
    return abort(state, "aborted", reason)


def resumed(state: CoordinatorState) -> Outcome:
    """After a restart: what the store holds of the sum says where it stands."""
    return (state, ()) if state.sum is None else (state, (_opening(state, state.sum),))


def _opening(state: CoordinatorState, running: RunningSum) -> OpenSum:
    sites = tuple(sorted(state.finished.intersection(state.cohort)))
    return OpenSum(state.stage, state.round, running.attempt, running.flows, sites)


def in_sum(study: Study, state: CoordinatorState, event: SumStands | SumShort | SumDone) -> Outcome:
    """What the shell says of the running sum. Of another one, or of none, it changes nothing."""
    if state.phase is not Phase.SUMMING or state.sum is None or event.attempt != state.sum.attempt:
        return state, ()
    match event:
        case SumStands():
            return _stands(state, state.sum, event)
        case SumShort():
            return _short(study, state, state.sum, event)
        case SumDone():
            return _done(study, state, state.sum, event)


def _stands(state: CoordinatorState, running: RunningSum, event: SumStands) -> Outcome:
    step = event.told or event.step is not running.step
    waiting = frozenset(event.waiting)
    running = replace(running, step=event.step, waiting=waiting, patience=0 if step else running.patience)
    sent = {**state.sent, **dict.fromkeys(waiting, state.now)} if event.told else state.sent
    return _close_if_all(replace(state, sum=running, sent=sent, deadline=None if step else state.deadline))


def _close_if_all(state: CoordinatorState) -> Outcome:
    here = set(state.cohort)
    if state.sum is not None and not state.sum.waiting & here:
        return state, _closing(state.sum)
    return state, ()


def _closing(running: RunningSum) -> tuple[Effect, ...]:
    return (CloseSumStep(running.attempt, running.step),)


def late(state: CoordinatorState) -> Outcome:
    """The step's deadline has passed."""
    return replace(state, deadline=None), () if state.sum is None else _closing(state.sum)


def _short(study: Study, state: CoordinatorState, running: RunningSum, event: SumShort) -> Outcome:
    if not _binds(study, event.step):
        return begin_sum(study, state, running.flows, running.attempt + 1)
    if running.patience >= PATIENCE:
        reason = (
            f"{event.reason}: the sum may be open to others, and is made over the same sites or not at all. Start "
            "again when they are back, or have their keys revoked"
        )
        return _without_sum(state, running.flows, reason)
    waiting = replace(running, patience=running.patience + 1)
    return replace(state, sum=waiting, sent={}, deadline=None), ()


def _done(study: Study, state: CoordinatorState, running: RunningSum, event: SumDone) -> Outcome:
    flows, survivors = running.flows, frozenset(event.survivors)
    state = replace(state, sum=None, attempts=event.attempt + 1, deadline=None)
    if flows == (Flow.TARGET,):  # averaged over the sites of the weights or not at all
        return aggregate(replace(state, asked=survivors == state.finished))
    return after_training(study, replace(state, finished=survivors, agreed=frozenset(event.agreed)))


def scored(study: Study, state: CoordinatorState, bound: float) -> Outcome:
    """The sites' scores of a prediction are together: where it is too far, their targets are a sum of their own."""
    if not study.security.secagg or not too_far(study.pretrain, bound):
        return bounded(study, state, bound)
    return begin_sum(study, replace(state, asked=True), (Flow.TARGET,), state.attempts)


def answered(state: CoordinatorState, sender: str, message: SumAnswer) -> Outcome:
    """Also of whoever was late: the shell knows what counts."""
    if state.phase is not Phase.SUMMING or state.sum is None:
        return state, ()
    return state, (TakeForSum(sender, message),)


def remind(state: CoordinatorState, site: str) -> Outcome:
    """A site that has not answered speaks: it may have lost what it was asked."""
    return replace(state, sent={**state.sent, site: state.now}), (AskAgain(site),)


def is_waited_for(state: CoordinatorState, site: str) -> bool:
    return state.sum is not None and site in state.sum.waiting


def left(study: Study, state: CoordinatorState, site: str, reason: LeaveReason) -> Outcome:
    """A site left while a sum runs. A veto takes its vector out, unless others may have unmasked it already."""
    running = state.sum
    if running is None:
        return state, ()
    given = running.step is SumStep.CHECKS or (running.step is SumStep.VECTORS and site not in running.waiting)
    if reason is LeaveReason.VETOED and given and not _binds(study, running.step):
        return begin_sum(study, state, running.flows, running.attempt + 1)
    following, effects = _close_if_all(state)
    return following, (*effects, Persist())


def sum_of_round(study: Study, state: CoordinatorState) -> Outcome:
    """The training of a round is over."""
    flows = summed(study, state.stage, state.round, state.asked)
    return begin_sum(study, state, flows, 0) if flows else after_training(study, state)


def end_shown(study: Study, state: CoordinatorState, site: str, hello: Hello) -> Outcome | None:
    """Of a site that did not do the evaluation round of pre-training, when the study has gone on: it is opened for it.

    With secure sums a site makes the first models of later stages itself, of what came of that stage's last sum, and
    is shown the signatures of t sites that it is that. None: there is nothing to be shown.
    """
    first = schedule(study)[0]
    end, here = (0, first.rounds), (hello.stage, hello.round)
    if not study.security.secagg or first.kind is not StageKind.PRETRAIN or not first.rounds or not state.stage:
        return None
    if here > end or (here == end and hello.done):
        return None
    if here == end or recently(state.supplied, site, state.now):
        return state, ()  # it is working, or on its way
    opened = OpenRound(site, *end, (), False, False, True)
    return replace(state, supplied={**state.supplied, site: state.now}), (opened,)
