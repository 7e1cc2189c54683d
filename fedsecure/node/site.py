"""The site's machine. Rules:

1. Everything that changes a site's state is in this file; it knows no socket, file, clock or tensor.
2. A round goes WAITING -> GATHERING -> TRAINING -> WAITING. The coordinator opens rounds; a later one replaces an
   earlier one that is still running, an earlier one is never gone back to, and none comes before it can: order.py.
3. A round that was done is answered by the stored bytes, never by computing or sealing again, and within a pace.
4. A round trains from the target network whose digest was announced, or not at all: held, predicted, or asked for.
5. What does not fit the table is refused and changes nothing.
6. A kill loses the running round only: it is opened and trained again, to the same bytes.
7. Steps of secure sums are site_sum.py's; here is only whether a sum is of the round that was done.
8. A veto is final for the study. It ends training at once, and is repeated until the coordinator has answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from fedsecure.config import Study
from fedsecure.node.events import (
    CancelTraining,
    Effect,
    Event,
    FindTarget,
    FrameIn,
    HearSum,
    KeepIncoming,
    Persist,
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
from fedsecure.node.order import NEVER, objection
from fedsecure.node.pace import Pace, Rooms
from fedsecure.plan import has_target, opens_with_sum, relays_boxes, schedule
from protocols.box import box_digest
from protocols.messages import AskTargets, BankRelay, RoundOpen, StudyClosed, SumRequest, TargetModel
from protocols.secagg.messages import (
    AgreedResult,
    Keyset,
    RelayShares,
    SecAggOpen,
    SumResult,
    Survivors,
    UnmaskRequest,
)

HELLO_EVERY_S: Final = 2.0
AGAIN: Final = Pace(burst=3, per_s=0.1)  # of what is sent once more: an honest coordinator waits 20 s before it asks
TOO_OFTEN: Final = "asks for the same more often than it could have been lost"


class Phase(StrEnum):
    WAITING = "waiting"  # for the coordinator to open a round
    GATHERING = "gathering"  # model is here; the target network or sealed banks of other sites are not all here
    TRAINING = "training"
    LEAVING = "leaving"  # vetoed; the coordinator may not know yet
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SiteState:
    """`done`: last (stage, round) whose release is on disk; `sent`: the last that this site was sent, on disk as well.
    The rest describes the round in work and dies in a kill."""

    done: tuple[int, int] = NEVER
    sent: tuple[int, int] = NEVER
    sent_at: float | None = None
    phase: Phase = Phase.WAITING
    current: tuple[int, int] = NEVER
    missing: Mapping[str, bytes] = field(default_factory=dict)  # site -> digest of the sealed bank still to come
    banks: tuple[str, ...] = ()
    target: bytes = b""  # digest of the target network still to be found; empty: none, or it is here
    asked: bool = False  # for this site's own target network, with the round's updates
    next_hello: float = 0.0
    now: float = 0.0
    answers: Rooms = field(default_factory=dict)  # what the coordinator may still ask for again in this round


Outcome = tuple[SiteState, tuple[Effect, ...]]


def step(study: Study, coordinator: str, state: SiteState, event: Event) -> Outcome:
    """One event in, the next state and what to do about it out. Total over all phases and events; raises nothing."""
    if state.phase is Phase.CLOSED:
        return state, ()
    if state.phase is Phase.LEAVING:
        return _leaving(coordinator, state, event)
    match event:
        case Restarted():
            return SiteState(done=state.done, sent=state.sent), ()
        case Tick(now):
            return _tick(state, now)
        case Veto():
            cancel = (CancelTraining(),) if state.phase is Phase.TRAINING else ()
            return SiteState(done=state.done, phase=Phase.LEAVING), (*cancel, Persist())
        case TrainFailed(reason):
            return _close(state, SayLeave("failed"), Stop("failed", reason))
        case TrainDone(stage, round_):
            return _trained(state, (stage, round_))
        case TargetFound(stage, round_, digest):
            return _found(state, (stage, round_), digest)
        case FrameIn(sender, message) if sender == coordinator:
            return _frame(study, state, sender, message)
        case FrameIn(sender, _):
            return state, (Refuse(sender, "only the coordinator talks to a site"),)
        case _:
            return state, ()


def _leaving(coordinator: str, state: SiteState, event: Event) -> Outcome:
    match event:
        case Restarted():
            return replace(state, next_hello=0.0), ()
        case Tick(now) if now >= state.next_hello:
            return replace(state, next_hello=now + HELLO_EVERY_S), (SayLeave("vetoed"),)
        case FrameIn(sender, StudyClosed()) if sender == coordinator:
            return _close(state, Stop("vetoed"))
        case _:
            return state, ()


def _again(state: SiteState, sender: str, answer: Effect) -> Outcome:
    """What was sent before, or takes as many bytes as that, once more."""
    answered, answers = AGAIN.spend(state.answers, sender, state.now)
    return replace(state, answers=answers), (answer if answered else Refuse(sender, TOO_OFTEN),)


def _tick(state: SiteState, now: float) -> Outcome:
    state = replace(state, now=now)
    if now < state.next_hello:
        return state, ()
    # While something is missing the site speaks of the round before: it lacks something, and is sent it again.
    training = state.phase is Phase.TRAINING
    stage, round_ = state.current if training else state.done
    done = not training and state.done != NEVER
    return replace(state, next_hello=now + HELLO_EVERY_S), (SayHello(stage, round_, done),)


def _frame(study: Study, state: SiteState, sender: str, message: object) -> Outcome:
    match message:
        case RoundOpen():
            return _open(study, state, sender, message)
        case BankRelay():
            return _bank(state, sender, message)
        case TargetModel():
            return _target(state, sender, message)
        case AskTargets(stage, round_):
            return _asked(state, sender, (stage, round_))
        case SecAggOpen() | SumResult() | Keyset() | RelayShares() | Survivors() | UnmaskRequest() | AgreedResult():
            return _sum(study, state, sender, message)
        case StudyClosed(reason):
            return _close(state, SayLeave("finished"), Stop("finished" if reason == "finished" else "aborted"))
        case _:
            return state, (Refuse(sender, "a site takes what a coordinator sends"),)


def _open(study: Study, state: SiteState, sender: str, message: RoundOpen) -> Outcome:
    asked = (message.stage, message.round)
    stages = schedule(study)
    if message.stage >= len(stages) or message.round > stages[message.stage].rounds:
        return state, (Refuse(sender, "round is not in the study's schedule"),)
    if asked == state.done:
        return _again(state, sender, Resend(*asked))
    if asked < max(state.done, state.sent):  # its frames are numbered: an honest one never opens them out of order
        return state, (Refuse(sender, "opens a round that is past: with an older model"),)
    if state.phase is not Phase.WAITING and asked == state.current:
        # Repeated, harmless; but where the target network was lost on its way it is asked for again.
        lost = state.phase is Phase.GATHERING and asked == state.current and state.target
        return _again(state, sender, SayWantTarget(*asked)) if lost else (state, ())
    waited = None if state.sent_at is None else state.now - state.sent_at
    # After a restart nobody knows whether the round was released before the kill that came before it was noted.
    if reason := objection(study, state.sent, state.phase is Phase.WAITING, waited, asked):
        return state, (Refuse(sender, reason),)
    if bool(message.target) != has_target(study, *asked):
        return state, (Refuse(sender, "announces a target network where the study has none, or none where it has one"),)
    if message.banks and not relays_boxes(study):
        return state, (Refuse(sender, "a bank is announced in a study that exchanges none"),)
    if message.prototypes and not opens_with_sum(study, *asked):
        return state, (Refuse(sender, "a sum of prototypes comes with a round that has none"),)
    others = {member.name for member in study.sites}
    missing = {ref.site: ref.digest for ref in message.banks}
    if not missing.keys() <= others:
        return state, (Refuse(sender, "a bank is announced from outside the cohort"),)
    cancel = (CancelTraining(),) if state.phase is Phase.TRAINING else ()
    opened = replace(
        state, phase=Phase.GATHERING, current=asked, sent=asked, sent_at=state.now, missing=missing,
        banks=tuple(sorted(missing)), target=b"", asked=False,
    )  # fmt: skip
    search: tuple[Effect, ...] = ()
    for target in message.target:
        opened = replace(opened, target=target.digest, asked=target.asked)
        search = () if target.follows else (FindTarget(*asked, target.digest),)
    following, effects = _train_if_complete(opened)
    return following, (*cancel, KeepIncoming(sender, message), *search, *effects)


def _bank(state: SiteState, sender: str, message: BankRelay) -> Outcome:
    if state.phase is not Phase.GATHERING or message.site not in state.missing:
        return state, ()  # late or repeated, harmless
    if box_digest(message.box) != state.missing[message.site]:
        return state, (Refuse(sender, "relayed another bank than it announced"),)
    missing = {site: digest for site, digest in state.missing.items() if site != message.site}
    following, effects = _train_if_complete(replace(state, missing=missing))
    return following, (KeepIncoming(sender, message), *effects)


def _found(state: SiteState, of: tuple[int, int], digest: bytes) -> Outcome:
    if state.phase is not Phase.GATHERING or of != state.current or not state.target:
        return state, ()  # of a round that was replaced meanwhile
    if digest != state.target:
        return state, (SayWantTarget(*of),)
    return _train_if_complete(replace(state, target=b""))


def _target(state: SiteState, sender: str, message: TargetModel) -> Outcome:
    of = (message.stage, message.round)
    if state.phase is not Phase.GATHERING or of != state.current or not state.target:
        return state, ()  # late or repeated, harmless
    if message.target_digest != state.target:
        return state, (Refuse(sender, "sent another target network than it announced"),)
    following, effects = _train_if_complete(replace(state, target=b""))
    return following, (KeepIncoming(sender, message), *effects)


def _asked(state: SiteState, sender: str, of: tuple[int, int]) -> Outcome:
    """All sites are asked for the target networks that a round ended with."""
    if of == state.done and state.phase is Phase.WAITING:
        return _again(state, sender, ReleaseTarget(*of))
    if of == state.current:
        return replace(state, asked=True), ()  # after a kill: it is training the round again
    return state, ()  # late, harmless


def _sum(study: Study, state: SiteState, sender: str, message: SumRequest) -> Outcome:
    if not study.security.secagg:
        return state, (Refuse(sender, "asks for a secure sum in a study that has none"),)
    mine = False
    if isinstance(message, SecAggOpen):  # of another round it is what a site that was late is shown
        mine = state.phase is Phase.WAITING and (message.manifest.stage, message.manifest.round) == state.done
    return state, (HearSum(message, mine),)


def _train_if_complete(state: SiteState) -> Outcome:
    if state.missing or state.target:
        return state, ()
    return replace(state, phase=Phase.TRAINING), (Train(*state.current, state.banks),)


def _trained(state: SiteState, finished: tuple[int, int]) -> Outcome:
    if state.phase is not Phase.TRAINING or finished != state.current:
        return state, ()  # of a round that was replaced meanwhile
    following = replace(
        state, done=finished, phase=Phase.WAITING, current=NEVER, missing={}, banks=(), target=b"", asked=False,
        answers={},
    )  # fmt: skip
    # Released first, then remembered as done: a kill between the two re-sends stored bytes, it never seals anew.
    return following, (Release(*finished, state.asked), Persist(), RoundOver(*finished, 1))


def _close(state: SiteState, *effects: Effect) -> Outcome:
    cancel = (CancelTraining(),) if state.phase is Phase.TRAINING else ()
    return replace(state, phase=Phase.CLOSED), (*cancel, *effects)
