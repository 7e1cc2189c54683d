"""Runs the coordinator machine's effects: keep updates, average them, publish models, relay what it cannot read."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from fedsecure.learning import sparse
from fedsecure.learning.distance import extrapolated
from fedsecure.learning.parts import start_of
from fedsecure.learning.target import copied
from fedsecure.node import sum_terms
from fedsecure.node.averaging import Averaging, model_file, sum_file, target_file, update_file, whole_file
from fedsecure.node.coordinator import step
from fedsecure.node.coordinator_state import CoordinatorState, Phase, begin
from fedsecure.node.events import (
    Aggregate,
    Aggregated,
    AskAgain,
    AskForTarget,
    Bounded,
    CloseStudy,
    CloseSumStep,
    Effect,
    Event,
    FrameIn,
    KeepIncoming,
    OpenRound,
    OpenSum,
    Persist,
    Prepare,
    Prepared,
    Score,
    SendTarget,
    SumDone,
    SumShort,
    SumStands,
    SumStep,
    TakeForSum,
    TrainFailed,
)
from fedsecure.node.shell import Shell
from fedsecure.node.sum_host import Integers, SumHost
from fedsecure.node.sum_terms import Ground
from fedsecure.node.sum_watch import SumWatch, standing_of
from fedsecure.node.trainer import Answer, PreparedModel, PrepareOrder
from fedsecure.node.vitals import SumStanding
from fedsecure.node.workbench import ENCODER
from fedsecure.packing import pack_model, pack_vector, unpack_model
from fedsecure.plan import StageKind, has_target, keeps_decoder, makes_target, schedule
from fedsecure.privacy.summing import opened
from fedsecure.progress import Measured
from fedsecure.types import Flow, schema_of
from keys.roster import Roster
from protocols.box import BoxContext, box_digest, verify_box
from protocols.codec import decode, encode
from protocols.envelope import Opened
from protocols.errors import FaultyPeer, TooFew
from protocols.messages import (
    AskTargets,
    BankRef,
    BankRelay,
    CloseReason,
    DistanceReport,
    FeatureBank,
    Kind,
    Leave,
    LeaveReason,
    Message,
    MetricReport,
    PrototypeSum,
    RoundOpen,
    SealedBox,
    StudyClosed,
    TargetModel,
    TargetRef,
    TargetUpdate,
    WeightUpdate,
    kind_of,
    model_digest,
)
from protocols.secagg.messages import Manifest
from protocols.transport.base import ServerTransport


class CoordinatorShell(Shell):
    """The coordinator. It sees weight updates, relays sealed banks, and trains nothing."""

    def __init__(self, *parts: Any, transport: ServerTransport, **named: Any) -> None:
        super().__init__(*parts, **named)
        self._transport = transport
        saved = self._store.get("coordinator")
        self._state = msgspec.json.decode(saved, type=CoordinatorState) if saved else begin(self._study)
        self._sum = SumHost(self._identity, self._store, self._say_in_sum, self._finish_sum)
        self._sum_watch = SumWatch(self._observe, self._clock)
        self._leave_out_strangers()  # who was revoked while this node was down

    def follow(self, roster: Roster) -> None:
        super().follow(roster)
        self._leave_out_strangers()

    def _at_fault(self, error: FaultyPeer) -> None:
        """A site whose log does not hold has left, as by a veto."""
        self._refused(error.peer, error.rule)
        if error.peer in self._state.cohort:
            self._events.append(FrameIn(error.peer, Leave(LeaveReason.VETOED)))

    def _leave_out_strangers(self) -> None:
        """Who is not in the roster has left, as by a veto: not waited for any more, relayed or averaged."""
        gone = (site for site in self._state.cohort if site not in self._roster.members)
        self._events.extend(FrameIn(site, Leave(LeaveReason.VETOED)) for site in gone)

    def close(self) -> None:
        super().close()
        self._transport.close()

    def _receive(self, timeout: float) -> list[tuple[str, bytes]]:
        return self._transport.poll(timeout)

    def _channel(self) -> ServerTransport:
        return self._transport

    def _admit(self, opened: Opened) -> Message:
        """A box is checked before it is relayed: what does not hold is then its maker's fault and nobody else's."""
        match opened.message:
            case FeatureBank(stage=stage, round=round_, box=box):
                context = BoxContext(self._study.digest(), stage, round_, opened.sender)
                verify_box(box, context, peer=opened.sender, roster=self._roster)
        return opened.message

    def _step(self, event: Event) -> tuple[Effect, ...]:
        before = (self._state.phase, self._state.stage, self._state.round)
        self._sum_watch.note(self._state, event)
        self._state, effects = step(self._study, self._state, event)
        opened = self._state.phase is Phase.OPEN and before != (Phase.OPEN, *self._position())
        if opened:
            self._round_starts(*self._position())
        return effects

    def _position(self) -> tuple[int, int]:
        return self._state.stage, self._state.round

    def _results(self) -> dict[str, bytes]:
        last = (model_file(stage, plan.rounds) for stage, plan in enumerate(schedule(self._study)))
        return {name: self._store.read(name) for name in (ENCODER, *last) if self._store.has(name)}

    def _phase(self) -> str:
        return self._state.phase

    def _sites(self) -> dict[str, str]:
        state = self._state
        sites = {site: f"left, {reason}" for site, reason in state.left.items()}
        for site in state.cohort:
            here = "in" if site in state.joined else "not here yet"
            sites[site] = f"{here}, done with this round" if site in state.finished else here
        return sites

    def _sum_standing(self) -> SumStanding | None:
        return standing_of(self._state)

    def _finished_work(self, answer: Answer) -> None:
        if isinstance(answer, PreparedModel):
            model = self._store.read("models/prepared.safetensors")
            self._store.write(model_file(answer.stage, 0), model)
            target = b""
            if has_target(self._study, answer.stage, 0):
                target = pack_model(copied(unpack_model(model)))
                self._store.write(target_file(answer.stage, 0), target)
            self._events.append(Prepared(answer.stage, model_digest(model), _digest_or_none(target)))

    def _run(self, effect: Effect) -> None:
        match effect:
            case KeepIncoming(sender, message):
                self._keep(sender, message)
            case Prepare(stage):
                self._trainer.order(PrepareOrder(stage))
            case OpenSum() | TakeForSum() | CloseSumStep() | AskAgain():
                self._run_sum(effect)
            case Score() | Aggregate():
                self._end_round(effect)
            case OpenRound():
                self._open_round(effect)
            case SendTarget(site, stage, round_):
                self._send_target(site, stage, round_)
            case AskForTarget(site, stage, round_):
                self._gate.control(site, AskTargets(stage, round_), stage, round_)
            case CloseStudy(sites, finished):
                self._show_heads(sites, finished)
                for site in sites:
                    self._gate.control(
                        site, StudyClosed(CloseReason.FINISHED if finished else CloseReason.ABORTED), *self._position()
                    )
            case Persist():
                self._save(coordinator=msgspec.json.encode(self._state))
                if self._state.phase is Phase.OPEN:
                    self._forget_before(*self._position())
            case _:
                raise RuntimeError(f"not an effect of a coordinator: {type(effect).__name__}")

    def _show_heads(self, sites: tuple[str, ...], finished: bool) -> None:
        """The last heads, to sites that hear that the study is over."""
        if finished:
            self._checkpoints.round_opens(len(schedule(self._study)), 0)
        for site in sites:
            if site in self._roster.members:
                self._checkpoints.show(site)

    # --- secure sums ---

    def _run_sum(self, effect: OpenSum | TakeForSum | CloseSumStep | AskAgain) -> None:
        told: SumStands | SumDone | None = None
        try:
            match effect:
                case OpenSum(stage, round_, attempt):
                    told = self._sum.resume(stage, round_, attempt, self._roster) or self._open_sum(effect)
                case TakeForSum(sender, message):
                    told = self._sum.take(sender, message)
                case CloseSumStep(attempt, step):
                    told = self._sum.close(attempt, step)
                case AskAgain(site):
                    self._sum.again(site)
        except TooFew as error:
            standing = self._sum.stands()
            self._events.append(SumShort(standing.attempt, standing.step, error.rule))
        except FaultyPeer as error:
            self._refused(error.peer, error.rule)
            if isinstance(effect, TakeForSum):
                told = self._sum.stands()
            elif isinstance(effect, OpenSum):  # what is on disk does not hold any more, as after a change of keys
                self._events.append(SumShort(effect.attempt, SumStep.KEYS, error.rule))
            else:
                self._events.append(TrainFailed(f"a secure sum cannot be opened: {error}"))
        if told is not None:
            self._events.append(told)

    def _open_sum(self, effect: OpenSum) -> SumStands:
        stage, round_ = effect.stage, effect.round
        model = self._store.read(model_file(stage, round_))
        inputs, target = {}, b""
        if self._store.has(sum_file(stage, round_)):
            inputs["prototypes"] = self._store.read(sum_file(stage, round_))
        if has_target(self._study, stage, round_):
            target = self._store.read(target_file(stage, round_))
            inputs["target"] = model_digest(target)
        schema, targets = (schema_of(unpack_model(raw)) if raw else () for raw in (model, target))
        sent = sparse.sent_schema(self._study, stage, round_, schema)
        ground = Ground(stage, round_, model_digest(model), sent, targets, inputs)
        opening = os.urandom(32)
        manifest = sum_terms.manifest(
            sum_terms.expected(self._study, ground, effect.flows, b""), effect.attempt, opening
        )
        return self._sum.begin(manifest, opening, effect.sites, self._roster)

    def _say_in_sum(self, site: str, message: Message) -> None:
        send = self._gate.share if kind_of(message) is Kind.SHARE else self._gate.publish
        send(site, message, *self._position())

    def _finish_sum(self, manifest: Manifest, integers: Integers, survivors: tuple[str, ...]) -> bytes:
        """Keep what was opened; what follows from it is the round's end, or of targets alone their mean."""
        stage, round_ = manifest.stage, manifest.round
        lengths = [(Flow(part.flow), part.length) for part in manifest.flows]
        for flow, total in opened(self._study, stage, round_, lengths, integers).items():
            self._store.write(whole_file(stage, round_, flow), total.astype("<f8").tobytes())
        averaging = Averaging(self._store, self._study, stage, round_, survivors, self._refused)
        if Flow.WEIGHTS in dict(lengths):
            return model_digest(pack_model(averaging.end()))
        target = averaging.true_target()
        return _digest_or_none(pack_model(target) if target else b"")

    def _show_past(self, site: str, stage: int) -> None:
        """What came of the stage's sums: without it a site knows no model of the stage but the first."""
        for past in self._sum.past(stage):
            for message in past:
                self._say_in_sum(site, message)

    def _keep(self, sender: str, message: object) -> None:
        match message:
            case WeightUpdate(stage=stage, round=round_, vector=vector):
                self._store.write(update_file(stage, round_, sender, Flow.WEIGHTS), vector)
            case PrototypeSum(stage=stage, round=round_, vector=vector):
                self._store.write(update_file(stage, round_, sender, Flow.PROTOTYPE_SUM), vector)
            case TargetUpdate(stage=stage, round=round_, vector=vector):
                self._store.write(update_file(stage, round_, sender, Flow.TARGET), vector)
            case DistanceReport(stage=stage, round=round_, distance=distance):
                self._store.write(update_file(stage, round_, sender, Flow.DISTANCE), distance)
            case FeatureBank(stage=stage, round=round_):
                self._store.write(_bank(stage, round_, sender), encode(message))
            case MetricReport(stage=stage, round=round_, values=values):
                self._store.write(f"metrics/{stage}-{round_}/{sender}.f32", values)

    def _end_round(self, effect: Score | Aggregate) -> None:
        if isinstance(effect, Aggregate):
            self._aggregate(effect)
            return
        stage, round_ = effect.stage, effect.round
        bound = Averaging(self._store, self._study, stage, round_, effect.sites, self._refused).bound()
        self._measured(stage, round_, target_expected=bound)
        self._events.append(Bounded(stage, round_, bound))

    def _aggregate(self, effect: Aggregate) -> None:
        stage, round_ = effect.stage, effect.round
        averaging = Averaging(self._store, self._study, stage, round_, effect.sites, self._refused)
        ended = averaging.finish(effect.targets)
        if ended is None:
            self._events.append(TrainFailed("no site sent a usable update in this round"))
            return
        self._store.write(model_file(stage, round_ + 1), ended.model)
        plan = schedule(self._study)[stage]
        if plan.kind is StageKind.PRETRAIN and round_ + 1 == plan.rounds:
            start = start_of(unpack_model(ended.model), keeps_decoder(self._study))
            self._store.write(ENCODER, pack_model(start))
        if ended.target:
            self._store.write(target_file(stage, round_ + 1), ended.target)
        if summed := averaging.prototypes():
            self._store.write(sum_file(stage, round_ + 1), summed)
        if makes_target(self._study, stage, round_):
            self._tell_distance(effect, ended.distance, ended.corrected)
        self._events.append(
            Aggregated(
                stage, round_, model_digest(ended.model), _digest_or_none(ended.target), ended.distance, ended.corrected
            )
        )

    def _tell_distance(self, effect: Aggregate, distance: float | None, corrected: bool) -> None:
        """What was expected of the prediction of the target, what was measured, and what it cost."""
        values = {"target_asked": float(effect.targets), "target_corrected": float(corrected)}
        if distance is not None:
            values["target_distance"] = distance
        expected = extrapolated(self._state.measured, effect.round)
        if self._study.pretrain.distance == "r1" and expected is not None:
            values["target_expected"] = expected
        self._measured(effect.stage, effect.round, **values)

    def _measured(self, stage: int, round_: int, **values: float) -> None:
        for metric, value in values.items():
            self._observe(Measured(stage=stage, round=round_, metric=metric, value=value))

    def _forget_before(self, stage: int, round_: int) -> None:
        """What the rounds before an open one needed; called when the state that opened it is on disk."""
        self._store.forget(f"models/{stage}-*.safetensors", keep=(model_file(stage, round_),))
        self._store.forget("targets/*", keep=(target_file(stage, round_ - 1), target_file(stage, round_)))
        self._store.forget("prototypes/*", keep=(sum_file(stage, round_),))
        self._store.forget("updates/*/*", keep=(f"updates/{stage}-{round_}/*",))
        self._store.forget("banks/*/*", keep=(f"banks/{stage}-{round_ - 1}/*", f"banks/{stage}-{round_}/*"))

    def _open_round(self, effect: OpenRound) -> None:
        site, stage, round_ = effect.site, effect.stage, effect.round
        model = self._store.read(model_file(stage, round_))
        boxes = {other: self._bank(stage, round_ - 1, other) for other in sorted(effect.banks)}
        refs = tuple(BankRef(other, box_digest(box)) for other, box in boxes.items())
        target: tuple[TargetRef, ...] = ()
        if has_target(self._study, stage, round_):
            digest = model_digest(self._store.read(target_file(stage, round_)))
            target = (TargetRef(digest, effect.follows, effect.asked),)
        summed = self._store.read(sum_file(stage, round_)) if self._store.has(sum_file(stage, round_)) else b""
        values = self._values(stage, round_, model) if effect.holds else b""
        whole = b"" if values else model
        opening = RoundOpen(stage, round_, model_digest(model), refs, target, summed, values, whole)
        self._checkpoints.round_opens(stage, round_)
        self._checkpoints.show(site)
        if effect.behind:
            self._show_past(site, stage)
        self._gate.publish(site, opening, stage, round_)
        for other, box in boxes.items():
            self._gate.publish(site, BankRelay(stage, round_ - 1, other, box), stage, round_)
        if effect.follows:
            self._send_target(site, stage, round_)

    def _values(self, stage: int, round_: int, model: bytes) -> bytes:
        """Where the round before moved the model: all that a site needs that has the one before."""
        tensors = unpack_model(model)
        where = sparse.places(self._study, stage, round_ - 1, schema_of(tensors))
        return pack_vector(sparse.part_of(tensors, where))

    def _send_target(self, site: str, stage: int, round_: int) -> None:
        target = self._store.read(target_file(stage, round_))
        self._gate.publish(site, TargetModel(stage, round_, model_digest(target), target), stage, round_)

    def _bank(self, stage: int, round_: int, site: str) -> SealedBox:
        message = decode(Kind.RELEASE, self._store.read(_bank(stage, round_, site)), site)
        if isinstance(message, FeatureBank):
            return message.box
        raise RuntimeError("a stored bank is not one")


def _digest_or_none(target: bytes) -> bytes:
    return model_digest(target) if target else b""


def _bank(stage: int, round_: int, site: str) -> str:
    return f"banks/{stage}-{round_}/{site}.box"
