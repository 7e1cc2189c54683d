"""The part of the coordinator's machine about who is there: sites that come, come back, leave and are out. Pure.

A site that was started again is sent anew what it was sent before, but not at ever new starts: the answer to a hello of
a hundred bytes is a model. Whoever leaves, or is out, is told so within a pace too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fedsecure.config import Study
from fedsecure.node.coordinator_end import abort, tell
from fedsecure.node.coordinator_rounds import close_round, needed, open_for
from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase
from fedsecure.node.coordinator_sum import is_waited_for, left, remind
from fedsecure.node.coordinator_target import RESEND_AFTER_S, collected, recently
from fedsecure.node.events import AskForTarget, Persist, Prepare, Refuse
from fedsecure.node.pace import Pace
from fedsecure.plan import least_sites
from fedsecure.types import Flow
from protocols.messages import Hello, Leave, LeaveReason

STARTS: Final = Pace(burst=3, per_s=1 / RESEND_AFTER_S)  # of a site, after which it is sent everything anew


def hello(study: Study, state: CoordinatorState, sender: str, message: Hello) -> Outcome:
    known = state.boots.get(sender)
    if known is not None and message.boot < known:
        return state, (Refuse(sender, "a node's boot number never falls"),)
    state, refusals = (state, ()) if message.boot == known else _started(state, sender, message.boot)
    following, effects = _answer(study, replace(state, joined=state.joined | {sender}), sender, message)
    return following, (*refusals, *effects)


def _started(state: CoordinatorState, sender: str, boot: int) -> Outcome:
    anew, starts = STARTS.spend(state.starts, sender, state.now)
    state = replace(state, boots={**state.boots, sender: boot}, starts=starts, agreed=state.agreed - {sender})
    if not anew:
        return state, (Refuse(sender, "a site starts no more often than it could need"),)
    sent, supplied = (
        {site: at for site, at in times.items() if site != sender} for times in (state.sent, state.supplied)
    )
    return replace(state, sent=sent, supplied=supplied), ()


def _answer(study: Study, state: CoordinatorState, sender: str, message: Hello) -> Outcome:
    if state.phase is Phase.JOINING:
        if state.joined != set(state.cohort):
            return state, ()
        return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))
    if not _waited_for(state, sender) or recently(state.sent, sender, state.now):
        return state, ()
    if state.phase is Phase.SUMMING:
        return remind(state, sender)
    in_this_round = (message.stage, message.round) == (state.stage, state.round)
    if state.phase is Phase.COLLECTING and in_this_round:
        sent = {**state.sent, sender: state.now}
        return replace(state, sent=sent), (AskForTarget(sender, state.stage, state.round),)
    if in_this_round and not message.done:
        return state, ()  # it is working
    return open_for(study, state, sender)


def outsider(study: Study, state: CoordinatorState, sender: str, message: object) -> Outcome:
    """A site that left: back after a failure it is taken in again, after a veto it is told that it is out."""
    refused = Refuse(sender, "has left the study or never was in its cohort")
    if sender in state.left and isinstance(message, Leave):
        return leave(study, state, sender, message.reason)  # it was not answered, or vetoes after it failed
    if sender not in state.left or not isinstance(message, Hello):
        return state, (refused,)
    if state.left[sender] is LeaveReason.VETOED:
        following, effects = tell(state, sender, False)
        return following, (refused, *effects)
    if message.boot == state.boots.get(sender):
        return state, (Refuse(sender, "a site that failed comes back when it was started again"),)
    others = {site: reason for site, reason in state.left.items() if site != sender}
    back = replace(state, cohort=tuple(sorted((*state.cohort, sender))), left=others)
    following, effects = hello(study, back, sender, message)
    return following, (*effects, Persist())


def _waited_for(state: CoordinatorState, site: str) -> bool:
    if state.phase is Phase.SUMMING:
        return is_waited_for(state, site)
    if state.phase is Phase.COLLECTING:
        return site in state.finished and (site, Flow.TARGET) not in state.received
    return state.phase is Phase.OPEN and site not in state.finished


def leave(study: Study, state: CoordinatorState, sender: str, reason: LeaveReason) -> Outcome:
    following, effects = _without(study, state, sender, reason)
    following, answers = tell(following, sender, False)
    return following, (*answers, *effects)


def _without(study: Study, state: CoordinatorState, sender: str, reason: LeaveReason) -> Outcome:
    if state.left.get(sender) in (LeaveReason.VETOED, reason):
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
        return abort(state, "aborted", f"fewer sites are left than {needed(study)}")
    if state.phase is Phase.SUMMING:
        return left(study, state, sender, reason)
    if state.phase is Phase.OPEN and state.finished == set(cohort):
        return close_round(study, state)
    if state.phase is Phase.COLLECTING:
        return collected(state)
    if state.phase is Phase.JOINING and state.joined == set(cohort):
        return replace(state, phase=Phase.PREPARING), (Persist(), Prepare(0))
    return state, (Persist(),)
