"""The part of the coordinator's machine that opens rounds and closes them. Pure, like the rest."""

from __future__ import annotations

from dataclasses import replace

from fedsecure.config import Study
from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase
from fedsecure.node.coordinator_sum import sum_of_round
from fedsecure.node.coordinator_target import asked_at_opening
from fedsecure.node.events import CloseStudy, Effect, OpenRound, Persist, Prepare, RoundOver
from fedsecure.plan import least_sites, relays_boxes, schedule, shared_flow
from protocols.messages import LeaveReason


def open_round(study: Study, state: CoordinatorState) -> Outcome:
    """Open the state's round to every site that is here; the others get it with their next Hello. Who has done the
    round before holds its model; whoever asks again is sent all, as it may not."""
    holding = state.finished if study.sparse.period > 1 and state.round > 0 else frozenset()
    state = replace(
        state, phase=Phase.OPEN, received=frozenset(), finished=frozenset(), deadline=None, supplied={},
        attempts=0, asked=asked_at_opening(study, state),
    )  # fmt: skip
    effects: list[Effect] = [Persist()]
    for site in sorted(state.joined & set(state.cohort)):
        state, opened = open_for(study, state, site, site in holding)
        effects += opened
    return state, tuple(effects)


def open_for(study: Study, state: CoordinatorState, site: str, holds: bool = False) -> Outcome:
    banks = tuple(other for other in state.shared if other != site)
    behind = study.security.secagg and site not in state.agreed
    opened = OpenRound(site, state.stage, state.round, banks, state.corrected, state.asked, behind, holds)
    supplied = {**state.supplied, site: state.now} if state.corrected else state.supplied
    return replace(state, sent={**state.sent, site: state.now}, supplied=supplied), (opened,)


def shared(study: Study, state: CoordinatorState) -> tuple[str, ...]:
    """Whose banks go out with the next round; none with the evaluation round, which trains nothing."""
    if state.round + 1 == schedule(study)[state.stage].rounds or not relays_boxes(study):
        return ()
    boxed = shared_flow(study)
    vetoed = {site for site, reason in state.left.items() if reason is LeaveReason.VETOED}
    return tuple(sorted(site for site, flow in state.received if flow is boxed and site not in vetoed))


def close_round(study: Study, state: CoordinatorState) -> Outcome:
    stages = schedule(study)
    if state.round < stages[state.stage].rounds:
        return sum_of_round(study, state)
    over = RoundOver(state.stage, state.round, len(state.finished))
    if state.stage + 1 < len(stages):
        following = replace(state, phase=Phase.PREPARING, stage=state.stage + 1, round=0)
        return following, (Persist(), over, Prepare(following.stage))
    closed = replace(state, phase=Phase.CLOSED, verdict="finished")
    return closed, (Persist(), over, CloseStudy(state.cohort, True))


def needed(study: Study) -> str:
    return "minimum_sites" if least_sites(study) == study.minimum_sites else "a secure sum needs"
