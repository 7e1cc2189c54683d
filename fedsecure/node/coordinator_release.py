"""The part of the coordinator's machine that takes what sites release in a round. Pure, like the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fedsecure.config import Study
from fedsecure.node.coordinator_rounds import close_round
from fedsecure.node.coordinator_state import CoordinatorState, Outcome, Phase
from fedsecure.node.coordinator_target import collected
from fedsecure.node.events import KeepIncoming, Persist, Refuse
from fedsecure.plan import offered, owed, shared_flow
from fedsecure.types import Flow
from protocols.messages import (
    DistanceReport,
    FeatureBank,
    MetricReport,
    PrototypeSum,
    TargetUpdate,
    Unmasked,
    WeightUpdate,
)

_FLOWS: Final[Mapping[type, Flow]] = {
    WeightUpdate: Flow.WEIGHTS,
    FeatureBank: Flow.FEATURES,
    PrototypeSum: Flow.PROTOTYPE_SUM,
    MetricReport: Flow.METRICS,
    TargetUpdate: Flow.TARGET,
    DistanceReport: Flow.DISTANCE,
}


def release(study: Study, state: CoordinatorState, sender: str, message: Unmasked) -> Outcome:
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


def round_done(study: Study, state: CoordinatorState, sender: str, of: tuple[int, int]) -> Outcome:
    if state.phase is not Phase.OPEN or of != (state.stage, state.round) or sender in state.finished:
        return state, ()
    if not owed(study, *of, state.asked) <= {flow for site, flow in state.received if site == sender}:
        return state, (Refuse(sender, "said it was done without the releases it owes"),)
    state = replace(state, finished=state.finished | {sender})
    if state.finished != set(state.cohort):
        return state, (Persist(),)
    return close_round(study, state)


def _flow(study: Study, message: Unmasked) -> Flow:
    """What a box holds only the study says."""
    if isinstance(message, FeatureBank) and shared_flow(study) is Flow.PROTOTYPES:
        return Flow.PROTOTYPES
    return _FLOWS[type(message)]


def _takes(state: CoordinatorState, sender: str, flow: Flow) -> bool:
    if state.phase is Phase.COLLECTING:
        return flow is Flow.TARGET and sender in state.finished
    return state.phase is Phase.OPEN
