"""The end in the coordinator's machine: a closed study stays to tell every site so, until all have said goodbye or
LINGER_S have passed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase
from fedsecure.node.events import CloseStudy, Effect, Event, FrameIn, Refuse, Restarted, Stop, Tick
from fedsecure.node.pace import Pace
from protocols.messages import Hello, Leave, LeaveReason

LINGER_S: Final = 10.0
PARTINGS: Final = Pace(burst=4, per_s=1.0)  # answers to a site that leaves, or is out: it asks every two seconds


def abort(state: CoordinatorState, reason: str, detail: str) -> Outcome:
    ended = replace(state, phase=Phase.CLOSED, verdict=reason, detail=detail)
    # A study that was aborted is not persisted as such: the operator may mend the cause and start it again.
    return ended, (CloseStudy(state.cohort, False), *_stop_if_alone(ended))


def tell(state: CoordinatorState, site: str, finished: bool) -> Outcome:
    """There is no further round, for a site that asks."""
    answered, partings = PARTINGS.spend(state.partings, site, state.now)
    state = replace(state, partings=partings)
    if not answered:
        return state, (Refuse(site, "a site that is out asks no more often than it could need"),)
    return state, (CloseStudy((site,), finished),)


def closed(state: CoordinatorState, event: Event) -> Outcome:
    """Tell everybody who asks; stop when all know, or when the rest has not asked for LINGER_S."""
    finished = state.verdict == "finished"
    match event:
        case Restarted():
            return replace(state, parted=frozenset(), partings={}, close_by=None), ()
        case Tick(now):
            state = replace(state, now=now)
            if state.close_by is None:
                return replace(state, close_by=now + LINGER_S), _stop_if_alone(state)
            return state, (Stop(state.verdict, state.detail),) if now >= state.close_by else ()
        case FrameIn(sender, Leave(reason)):
            state = replace(state, parted=state.parted | {sender})
            # After "finished" it has stopped; after a veto it waits for the answer.
            state, answer = (state, ()) if reason is LeaveReason.FINISHED else tell(state, sender, False)
            return state, (*answer, *_stop_if_alone(state))
        case FrameIn(sender, Hello()):
            return tell(state, sender, finished and sender in state.cohort)
        case _:
            return state, ()


def _stop_if_alone(state: CoordinatorState) -> tuple[Effect, ...]:
    return (Stop(state.verdict, state.detail),) if state.parted >= set(state.cohort) else ()
