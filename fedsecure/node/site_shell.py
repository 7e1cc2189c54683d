"""Runs the site machine's effects: keep what came, open sealed banks, order training, hand updates to the gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from fedsecure.config import SumFloors
from fedsecure.egress import RoundContext
from fedsecure.errors import GateRefused
from fedsecure.learning import prototypes
from fedsecure.learning.parts import start_of
from fedsecure.learning.sparse import sent_schema
from fedsecure.node.events import (
    CancelTraining,
    Effect,
    Event,
    FindTarget,
    HearSum,
    KeepIncoming,
    Persist,
    Release,
    ReleaseTarget,
    Resend,
    SayHello,
    SayLeave,
    SayWantTarget,
    Stop,
    TargetFound,
    Train,
    TrainDone,
)
from fedsecure.node.order import NEVER
from fedsecure.node.received import require_fitting, whole
from fedsecure.node.shell import Shell
from fedsecure.node.site import Phase, SiteState, step
from fedsecure.node.site_sum import SiteSum
from fedsecure.node.site_target import find_target, keep_model, keep_target
from fedsecure.node.trainer import Answer, Trained, TrainOrder
from fedsecure.node.workbench import ENCODER, MODEL, SUM, TARGET, unpack_shared
from fedsecure.packing import Malformed, pack_model, unpack_arrays, unpack_model
from fedsecure.plan import StageKind, has_target, keeps_decoder, made, offered, schedule
from fedsecure.progress import Refused
from fedsecure.types import Flow, Update, schema_of
from keys.roster import Roster
from protocols.box import BoxContext, open_box
from protocols.envelope import Opened
from protocols.errors import FaultyPeer, ProtocolError
from protocols.messages import (
    BankRelay,
    Hello,
    Leave,
    LeaveReason,
    Message,
    RoundDone,
    RoundOpen,
    SealedBox,
    TargetModel,
    WantTarget,
    model_digest,
)
from protocols.transport.base import ClientTransport

DEFAULT_FLOORS: Final = SumFloors()
HELD: Final = "held/target.safetensors"  # this site's own target network of the last round, in case it is asked for


class SiteShell(Shell):
    """A site. Its only peer is the coordinator; other sites reach it as boxes that only it can open."""

    def __init__(
        self, *parts: Any, transport: ClientTransport, boot: int, verified: Callable[[], frozenset[str]],
        floors: SumFloors = DEFAULT_FLOORS, **named: Any,
    ) -> None:  # fmt: skip
        super().__init__(*parts, boot=boot, **named)
        self._transport = transport
        self._boot = boot
        self._flows: tuple[str, ...] = ()
        self._boxes: dict[str, SealedBox] = {}
        done, sent = (self._store.get(name) for name in ("done", "opened"))
        self._state = SiteState(
            done=msgspec.json.decode(done, type=tuple[int, int]) if done else NEVER,
            sent=msgspec.json.decode(sent, type=tuple[int, int]) if sent else NEVER,
            phase=Phase.LEAVING if self._store.get("vetoed") else Phase.WAITING,
        )

        self._sum: SiteSum | None = None
        if self._study.security.secagg:
            self._sum = SiteSum(
                self.name, self._study, self._identity, self._roster, self._store, self._gate, floors, verified,
                self._context, self._refused, self._clock,
            )  # fmt: skip

    def follow(self, roster: Roster) -> None:
        super().follow(roster)
        if self._sum is not None:
            self._sum.follow(roster)
        self._gate.follow({site: roster.members[site] for site in roster.sites if site != self.name})

    def close(self) -> None:
        super().close()
        self._transport.close()

    def _receive(self, timeout: float) -> list[tuple[str, bytes]]:
        return [(self._roster.coordinator, frame) for frame in self._transport.poll(timeout)]

    def _channel(self) -> ClientTransport:
        return self._transport

    def _admit(self, opened: Opened) -> Message:
        """A model that is none of the study's comes no further, and one that came as values comes as itself. A relayed
        box is checked when it is opened, and only against its announcement before."""
        message = opened.message
        if isinstance(message, RoundOpen):
            held = self._store.read(MODEL) if message.values and self._store.has(MODEL) else b""
            message = whole(self._study, opened.sender, message, held)
        if isinstance(message, RoundOpen | TargetModel):
            require_fitting(self._study, opened.sender, message)
        return message

    def _step(self, event: Event) -> tuple[Effect, ...]:
        self._state, effects = step(self._study, self._roster.coordinator, self._state, event)
        return effects

    def _position(self) -> tuple[int, int]:
        stage, round_ = max(self._state.current, self._state.done)
        return max(stage, 0), max(round_, 0)

    def _phase(self) -> str:
        return self._state.phase

    def _sites(self) -> dict[str, str]:
        return {self.name: self._state.phase}

    def _finished_work(self, answer: Answer) -> None:
        if isinstance(answer, Trained):
            self._flows = answer.flows
            self._events.append(TrainDone(answer.stage, answer.round))

    def _run(self, effect: Effect) -> None:
        match effect:
            case SayHello() | SayLeave() | SayWantTarget():
                self._say(effect)
            case KeepIncoming(_, message):
                self._keep(message)
            case FindTarget(stage, round_, announced):
                found = find_target(self._store, self._study, round_, announced)
                self._events.append(TargetFound(stage, round_, found))
            case Train(stage, round_, banks):
                self._train(stage, round_, banks)
            case CancelTraining():
                self._trainer.cancel()
            case Release(stage, round_, targets):
                self._release(stage, round_, targets)
                self._introductions.soon()
            case ReleaseTarget(stage, round_):
                self._release_target(stage, round_)
                self._introductions.soon()
            case HearSum(message, mine):
                if self._sum is not None:
                    self._sum.hear(message, mine)
            case Resend(stage, round_):
                self._gate.repeat(stage, round_)
                self._done(stage, round_)
            case Persist():
                vetoed = {"vetoed": b"1"} if self._state.phase is Phase.LEAVING else {}
                self._save(done=msgspec.json.encode(self._state.done), **vetoed)
            case _:
                raise RuntimeError(f"not an effect of a site: {type(effect).__name__}")

    def _say(self, effect: SayHello | SayLeave | SayWantTarget) -> None:
        match effect:
            case SayHello(stage, round_, done):
                self._control(Hello(self._boot, stage, round_, done))
            case SayLeave(reason):
                self._save(opened=b"")  # from now on rounds are not kept open for this site
                self._control(Leave(LeaveReason(reason)))
            case SayWantTarget(stage, round_):
                self._control(WantTarget(stage, round_))

    def _keep(self, message: object) -> None:
        match message:
            case RoundOpen():
                self._boxes.clear()
                for used in (HELD, SUM, "outgoing/*"):
                    self._store.forget(used)
                keep_model(self._store, message)
                if message.prototypes:
                    self._store.write(SUM, message.prototypes)
                self._save(opened=msgspec.json.encode(self._state.sent))
            case BankRelay(site=site, box=box):
                self._boxes[site] = box
            case TargetModel(target=target):
                keep_target(self._store, target)

    def _control(self, message: Hello | Leave | RoundDone | WantTarget) -> None:
        self._gate.control(self._roster.coordinator, message, *self._position())

    def _train(self, stage: int, round_: int, announced: tuple[str, ...]) -> None:
        """Open the sealed banks; one that does not open is its sender's fault and is left out, with a note. So is a sum
        of prototypes that does not fit the study, which is the coordinator's."""
        self._round_starts(stage, round_)
        opened = []
        if self._store.has(SUM):
            try:
                unpack_shared(self._study, prototypes.FEDERATION, self._store.read(SUM))
                opened.append(prototypes.FEDERATION)
            except Malformed as error:
                self._refused(self._roster.coordinator, str(error))
        for site in announced:
            try:
                raw = self._open_bank(site, stage, round_ - 1)
            except (ProtocolError, Malformed) as error:
                rule = error.rule if isinstance(error, ProtocolError) else str(error)
                self._observe(Refused(stage=stage, round=round_, rule=rule, peer=site))
                continue
            self._store.write(f"incoming/{site}.bank", raw)
            opened.append(site)
        self._trainer.order(TrainOrder(stage, round_, tuple(opened)))

    def _keep_encoder(self, stage: int, round_: int) -> None:
        """With secure sums a site makes the first models of later stages itself: of the encoder that t sites say came
        of pre-training, not of what the coordinator says. When the stage's last round is done: by then the trainer has
        made the stage's first model, with which the chain begins, also at a site that missed the rounds before."""
        plan = schedule(self._study)[stage]
        if self._sum is None or plan.kind is not StageKind.PRETRAIN or not 0 < round_ == plan.rounds:
            return
        model = self._store.read(MODEL)
        if self._sum.result_of(stage) == model_digest(model):
            self._store.write(ENCODER, pack_model(start_of(unpack_model(model), keeps_decoder(self._study))))
        else:
            self._refused(self._roster.coordinator, "a stage ends with the model that came of its last sum")

    def _open_bank(self, site: str, stage: int, round_: int) -> bytes:
        context = BoxContext(self._study.digest(), stage, round_, site)
        raw = open_box(self._boxes[site], context, identity=self._identity, me=self.name, roster=self._roster)
        unpack_shared(self._study, site, raw)
        return raw

    def _release(self, stage: int, round_: int, targets: bool) -> None:
        self._keep_encoder(stage, round_)
        context = self._context(stage, round_)
        missing = made(self._study, stage, round_, targets) - set(self._flows)
        if missing:
            raise GateRefused(f"the trainer did not produce what the round owes: {', '.join(sorted(missing))}")
        leaving = offered(self._study, stage, round_, targets) & set(self._flows)
        secure = self._study.security.secagg
        if not secure and Flow.TARGET in set(self._flows) - leaving and self._study.pretrain.distance == "r2":
            self._store.write(HELD, self._store.read(f"outgoing/{Flow.TARGET}.safetensors"))
        for flow in sorted(leaving):
            arrays = unpack_arrays(self._store.read(f"outgoing/{flow}.safetensors"))
            self._gate.release(Update(flow, arrays), context)
        self._done(stage, round_)
        self._transport.rekey()  # what comes next belongs to another round
        if not secure:  # un-noised updates; a secure sum takes them from there, and the next round forgets them
            self._store.forget("outgoing/*")
        self._store.forget("incoming/*.bank")  # other hospitals' features in the clear

    def _done(self, stage: int, round_: int) -> None:
        self._checkpoints.round_done(stage, round_)
        self._control(RoundDone(stage, round_))

    def _at_fault(self, error: FaultyPeer) -> None:
        """What this site was shown of the logs does not hold: nothing more leaves it."""
        self._refused(error.peer, error.rule)
        self._end(Stop("failed", f"the transparency log does not hold. {error}: ask all operators for their heads"))

    def _release_target(self, stage: int, round_: int) -> None:
        if any(flow == Flow.TARGET for flow, _ in self._store.queued(stage, round_)):
            self._gate.repeat(stage, round_)
        elif self._store.has(HELD):
            self._gate.release(Update(Flow.TARGET, unpack_arrays(self._store.read(HELD))), self._context(stage, round_))
            self._store.forget(HELD)
        else:
            self._refused(self._roster.coordinator, "asks for a target network that is not kept in this study")

    def _context(self, stage: int, round_: int) -> RoundContext:
        model = self._store.read(MODEL)
        schema = sent_schema(self._study, stage, round_, schema_of(unpack_model(model)))
        context = RoundContext(stage, round_, schema, model_digest(model))
        if not has_target(self._study, stage, round_):
            return context
        target = self._store.read(TARGET)
        return context._replace(target_schema=schema_of(unpack_model(target)), target_digest=model_digest(target))
