"""THE way out of a node. Every byte that leaves passes one of these methods, and there is no other:

    release   anything computed from volumes: weight and target updates, distances, features, metrics
    control   a closed set of messages without a float, an array or free text
    publish   the coordinator's models and target networks, signed, and the banks it relays unread
    greet     a control message outside of a study's frames: who speaks, in which study
    mask      a site's updates of a round, in integers under the masks of one secure sum
    share     keys, sealed shares and signatures of a secure sum; heads of logs, and who vouches for them
    again     what a site answered in a secure sum, the same bytes
    compare   a note of the doctor, before a study: on record as what it is, control, share or release

The gate builds what leaves from nothing: it takes un-noised arrays of a closed schema and never an object to be
cleaned. Only this module seals (an import contract says so), receivers drop what is not sealed, and the sealing key is
given to nobody else.

Order of a release: check schema and content (audit.tap), account, box, log and queue in one transaction, sign, send.
Whatever leaves and whatever is refused is a leaf of the node's transparency log (audit.log), written before it is sent.
A crash wastes the message; what is sent again is the stored message, under a new number and never encrypted anew.
Entries for prototypes are clipped row by row and summed here, which bounds each row; that a row is one patient, and all
of it, is the trainer's promise: the gate cannot know. Weights are clipped where they enter a secure sum; what is summed
securely never leaves in the clear. Noise joins between "check" and "account"; until it is here every release is
accounted as non-private: epsilon is infinite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from fedsecure.agreement import AGREEMENTS, Agreement, Begin, Digests, Inquiry, KeyShare, Verdicts
from fedsecure.audit.log import Entry, Policy, Scribe, Told, shapes_of
from fedsecure.config import Study
from fedsecure.errors import GateRefused
from fedsecure.greeting import GREETINGS, Greeting
from fedsecure.learning import prototypes
from fedsecure.packing import in_order, pack_bank, pack_vector, within_range
from fedsecure.plan import SUMMED, frame_limit, made, makes_target, require_no_noise
from fedsecure.privacy.quantize import Quantizer
from fedsecure.privacy.summing import Part, quantizer
from fedsecure.progress import Measured, Observe, Refused, Sent
from fedsecure.types import Accounted, Bank, Flow, Released, Schema, State, Update
from keys.identity import Identity, PublicIdentity
from protocols.codec import decode, encode
from protocols.messages import (
    DistanceReport,
    FeatureBank,
    Kind,
    Message,
    MetricReport,
    PrototypeSum,
    Release,
    RoundOpen,
    TargetModel,
    TargetUpdate,
    WeightUpdate,
    kind_of,
)
from protocols.seal import Sealer
from protocols.secagg.client import mask_input
from protocols.secagg.ledger import Ledger
from protocols.secagg.messages import FlowPart, MaskedInput
from protocols.secagg.states import Burned, Masked
from protocols.tlog.leaf import Reason, flow_of, model_of, place_of

NON_PRIVATE: Final = "non-private"  # dp_accounting's NonPrivateDpEvent: epsilon is infinite
FREE: Final = "none"  # control and publish: computed from no volume of this node
REPEAT: Final = "repeat"  # a message that was accounted before, sent again
MASKED: Final = "masked "  # a vector of a secure sum on record, before the flows that are in it
_TAGS: Final[Mapping[Flow, str]] = {  # of the messages that flows leave in
    Flow.WEIGHTS: flow_of(WeightUpdate), Flow.FEATURES: flow_of(FeatureBank), Flow.PROTOTYPES: flow_of(FeatureBank),
    Flow.PROTOTYPE_SUM: flow_of(PrototypeSum), Flow.METRICS: flow_of(MetricReport), Flow.TARGET: flow_of(TargetUpdate),
    Flow.DISTANCE: flow_of(DistanceReport),
}  # fmt: skip
_PUBLISHED: Final[Mapping[type, str]] = {RoundOpen: "weights", TargetModel: "target"}  # named like what comes up


class SentRow(NamedTuple):
    """One frame that was handed to the transport. `event` is the privacy accountant's name of what it cost."""

    kind: str
    flow: str
    event: str
    stage: int
    round: int
    peer: str
    size: int
    digest: bytes


class Journal(Protocol):
    """The durable record the gate writes before it sends: rows, and leaves of the transparency log beside them."""

    def log_and_queue(self, row: SentRow, entry: Entry, message: bytes) -> None: ...
    def log(self, row: SentRow, entry: Entry) -> None: ...
    def note(self, entry: Entry) -> None: ...
    def leaves(self) -> int: ...
    def queued(self, stage: int, round_: int) -> list[tuple[str, bytes]]: ...
    def released_bytes(self) -> int: ...


class SumRecord(Protocol):
    """A site's durable record of secure sums."""

    def keep(self, step: str, message: Message, ledger: Ledger, state: Masked | None = None) -> None: ...


class RoundContext(NamedTuple):
    """What a release belongs to. `schema` and `model_digest` are of the model that the round began with, the other two
    of its target network where that is no part of the model."""

    stage: int
    round: int
    schema: Schema
    model_digest: bytes
    target_schema: Schema = ()
    target_digest: bytes = b""


class Gate:
    """The one exit of a node. Holds the only sealer and the only way to the transport."""

    def __init__(
        self,
        identity: Identity,
        name: str,
        study: Study,
        boot: int,
        readers: Mapping[str, PublicIdentity],
        coordinator: str,
        journal: Journal,
        send: Callable[[str, bytes], None],
        observe: Observe,
        maximum_upload: int | None = None,
        inspect: Callable[[Update], None] | None = None,
    ) -> None:
        """`readers`: keys of the roster's other sites. Those of the study may open feature banks, and no others: a
        roster may name members of whom the study says nothing. `send(peer, frame)` hands over to the transport.
        `inspect` looks at every update before clipping and noise, and raises GateRefused for what must not leave; None:
        a node that has no volumes, or does not look.

        Raises SettingsError for a study that asks for noise.
        """
        require_no_noise(study)
        self._sealer = Sealer(identity, name, study.digest(), boot)
        self._identity = identity
        self._name = name
        self._study = study
        self._coordinator = coordinator
        self._journal = journal
        self._send = send
        self._observe = observe
        self._maximum_upload = maximum_upload
        self._inspect = inspect
        self.policy = Policy.of(study, maximum_upload, inspect is not None)
        self._scribe = Scribe(self.policy)
        self.follow(readers)

    def follow(self, readers: Mapping[str, PublicIdentity]) -> None:
        """Seal feature banks for those of these sites from now on that are in the study."""
        cohort = {member.name for member in self._study.sites}
        self._readers = {site: public for site, public in readers.items() if site in cohort}

    # --- the ways out ---

    def release(self, update: Update, context: RoundContext) -> None:
        """Let one update of a site out, once. A repeated call sends the stored message.

        Raises GateRefused, before anything is sealed, for arrays outside the round's schema, for values that are not
        finite and beyond the site's cap.
        """
        if any(flow == update.flow for flow, _ in self._journal.queued(context.stage, context.round)):
            return  # already out; `repeat` is how it is sent again
        try:
            self._check_clear(update)
            self._check(update, context)
            message = self._message(self._account(update), context)
            released = self._sealed(message, update.flow, context)
            self._check_cap(len(released.frame))
        except GateRefused as refusal:
            self._refused(refusal, _TAGS[update.flow], context, update.arrays)
            raise
        row = self._row(released.kind, update.flow, NON_PRIVATE, context.stage, context.round, released.frame)
        self._journal.log_and_queue(row, self._entry(row, message, shapes_of(update.arrays)), encode(message))
        self._hand_over(row, released.frame)

    def repeat(self, stage: int, round_: int) -> None:
        """Send the stored messages of a round again: the same bytes in a frame with a new number."""
        for flow, raw in self._journal.queued(stage, round_):
            message = decode(Kind.RELEASE, raw, "outbox")
            frame = self._sealer.seal(self._coordinator, message)
            row = self._row(Kind.RELEASE, flow, REPEAT, stage, round_, frame)
            self._journal.log(row, self._entry(row, message))
            self._hand_over(row, frame)

    def control(self, recipient: str, message: Message, stage: int, round_: int) -> None:
        """Send one of the closed control messages. Raises GateRefused for a message of any other kind."""
        self._plain(Kind.CONTROL, recipient, message, stage, round_)

    def greet(self, greeting: Greeting, stage: int, round_: int) -> None:
        """Send a greeting, which like a control message holds no float, array or free text."""
        self._note(greeting, GREETINGS.write(greeting, self._identity), Kind.CONTROL, stage, round_)

    def compare(self, note: Agreement) -> None:
        """Send a note of `fedsecure doctor`, before a study. Digests of a site's coarse categories are a release: they
        are computed from its volumes, without noise, whatever the key that keeps the coordinator from reading them."""
        match note:
            case Digests():
                kind = Kind.RELEASE
            case KeyShare():
                kind = Kind.SHARE
            case Inquiry() | Begin() | Verdicts():
                kind = Kind.CONTROL
        self._note(note, AGREEMENTS.write(note, self._identity), kind, 0, 0)

    def publish(self, recipient: str, message: Message, stage: int, round_: int) -> None:
        """Send the coordinator's model, or a bank it relays. Raises GateRefused for a message of any other kind."""
        self._plain(Kind.PUBLISH, recipient, message, stage, round_)

    def mask(
        self, updates: tuple[Update, ...], context: RoundContext, burned: Burned, ledger: Ledger, record: SumRecord
    ) -> Masked:
        """Let a round's updates out as one masked vector, in the order of the manifest's flows. Ledger and message are
        on disk before it is sent. Raises GateRefused as `release`, before anything leaves."""
        manifest = burned.keyed.opened.cohort.manifest
        try:
            fill, factor = self._quantizer(updates, context, manifest.flows)
            masked, message = mask_input(burned, fill.fill)
            frame = self._sealer.seal(self._coordinator, message)
            self._check_cap(len(frame))
        except GateRefused as refusal:
            arrays = {f"{update.flow}/{name}": array for update in updates for name, array in update.arrays.items()}
            self._refused(refusal, flow_of(MaskedInput), context, arrays)
            raise
        row = self._row(Kind.RELEASE, _joined(manifest.flows), NON_PRIVATE, context.stage, context.round, frame)
        shapes = [shape for update in updates for shape in shapes_of(update.arrays)]
        entry = self._entry(row, message, shapes, manifest.model)
        # First: who is killed in between is charged for what did not leave, never the reverse.
        self._journal.log(row, entry)
        record.keep("masked-input", message, ledger, masked)
        self._hand_over(row, frame)
        self._observe(Measured(stage=context.stage, round=context.round, metric="clipped_by", value=factor))
        return masked

    def share(self, recipient: str, message: Message, stage: int, round_: int) -> None:
        """Send keys, sealed shares or signatures of a secure sum, which a site has kept before, or heads of logs.
        Raises GateRefused for a message of any other kind."""
        self._plain(Kind.SHARE, recipient, message, stage, round_)

    def again(self, message: Message, stage: int, round_: int) -> None:
        """Send the stored answer of a step of a secure sum again. Raises GateRefused for what is no such answer."""
        if not isinstance(message, MaskedInput):
            self.share(self._coordinator, message, stage, round_)
            return
        frame = self._sealer.seal(self._coordinator, message)
        row = self._row(Kind.RELEASE, "masked again", REPEAT, stage, round_, frame)
        self._journal.log(row, self._entry(row, message))
        self._hand_over(row, frame)

    # --- steps of a release ---

    def _quantizer(
        self, updates: tuple[Update, ...], context: RoundContext, flows: tuple[FlowPart, ...]
    ) -> tuple[Quantizer, float]:
        parts = [self._part(update, context) for update in updates]
        if [(part.flow, part.length) for part in flows] != [(str(flow), len(vector)) for flow, vector in parts]:
            raise GateRefused("a sum of other flows than the updates that are here")
        return quantizer(self._study, self._name, context.stage, context.round, parts)

    def _part(self, update: Update, context: RoundContext) -> Part:
        """A flow of a sum as a flat vector. Raises GateRefused."""
        if update.flow not in SUMMED:
            raise GateRefused(f"{update.flow}: nothing that is summed")
        self._check(update, context)
        arrays = update.arrays
        raw = self._summed(arrays) if update.flow is Flow.PROTOTYPE_SUM else pack_vector(arrays)
        return update.flow, np.frombuffer(raw, "<f4")

    def _check_clear(self, update: Update) -> None:
        if self._study.security.secagg and update.flow in SUMMED:
            raise GateRefused(f"{update.flow}: the study sums them securely, and no site's own may leave")

    def _check(self, update: Update, context: RoundContext) -> None:
        """Closed schema per flow: names, dtypes, shapes and finite values, all of them or nothing."""
        arrays = update.arrays
        match update.flow:
            case Flow.WEIGHTS:
                _check_shapes(update, context.schema, "the round's")
                floats = list(arrays)
            case Flow.TARGET:
                if not makes_target(self._study, context.stage, context.round):
                    raise GateRefused("target: no target network leaves a site in this round of the study")
                _check_shapes(update, context.target_schema, "the target network's")
                floats = list(arrays)
            case Flow.DISTANCE:
                self._check_distance(arrays, context)
                floats = ["distance"]
            case Flow.FEATURES:
                self._check_bank(arrays)
                floats = ["features"]
            case Flow.PROTOTYPES | Flow.PROTOTYPE_SUM:
                self._check_entries(update, context)
                floats = ["entries"]
            case Flow.METRICS:
                limit = max(1, len(self._study.data.structures))
                if not self._study.release_metrics:
                    raise GateRefused("metrics: the study does not let metrics out (release_metrics)")
                if len(arrays) != 1 or any(array.ndim != 1 or array.size > limit for array in arrays.values()):
                    raise GateRefused("metrics: more values than structures")
                floats = list(arrays)
        for name in floats:
            if arrays[name].dtype != np.float32 or not within_range(arrays[name]):
                raise GateRefused(f"{update.flow}: values that are not finite float32, or beyond any weight: diverged?")
        if self._inspect is not None:
            self._inspect(update)

    def _check_distance(self, arrays: State, context: RoundContext) -> None:
        if self._study.pretrain.distance != "r2" or not makes_target(self._study, context.stage, context.round):
            raise GateRefused("distance: the study has no site score itself in this round (distance)")
        if set(arrays) != {"distance"} or arrays["distance"].shape != (1,) or not arrays["distance"][0] >= 0:
            raise GateRefused("distance: not one number that is not negative")

    def _check_bank(self, arrays: State) -> None:
        if set(arrays) != {"features", "partitions"}:
            raise GateRefused("features: a bank is features and partitions, nothing else")
        features, partitions = arrays["features"], arrays["partitions"]
        settings = self._study.pretrain
        if features.ndim != 2 or features.shape[1] != self._study.model.features or len(features) > settings.bank:
            raise GateRefused("features: shape is not the study's")
        if partitions.dtype != np.uint8 or partitions.shape != features.shape[:1]:
            raise GateRefused("features: partitions do not fit the features")
        if (partitions >= settings.partitions).any():
            raise GateRefused("features: a partition outside the study's")

    def _check_entries(self, update: Update, context: RoundContext) -> None:
        if update.flow not in made(self._study, context.stage, context.round):
            raise GateRefused(f"{update.flow}: the study has no site share them in this round (exchange)")
        (spec,) = prototypes.schema(self._study)
        if set(update.arrays) != {"entries"} or update.arrays["entries"].shape[1:] != spec.shape:
            raise GateRefused(f"{update.flow}: not one array of the study's cells and width for each patient")
        if len(update.arrays["entries"]) > prototypes.weight_of(self._study, self._name):
            raise GateRefused(
                f"{update.flow}: more patients than the study declares for this site; its weight there must be mended"
            )

    def _account(self, update: Update) -> Accounted:
        return Accounted(update, NON_PRIVATE)

    def _message(self, accounted: Accounted, context: RoundContext) -> Release:
        arrays, stage, round_ = accounted.update.arrays, context.stage, context.round
        match accounted.update.flow:
            case Flow.WEIGHTS:
                return WeightUpdate(stage, round_, context.model_digest, pack_vector(arrays))
            case Flow.FEATURES:
                bank = in_order(Bank(arrays["features"].astype(np.float32), arrays["partitions"].astype(np.uint8)))
                return FeatureBank(stage, round_, self._sealer.box(self._readers, pack_bank(bank), stage, round_))
            case Flow.PROTOTYPES:
                box = self._sealer.box(self._readers, self._summed(arrays), stage, round_)
                return FeatureBank(stage, round_, box)
            case Flow.PROTOTYPE_SUM:
                return PrototypeSum(stage, round_, context.model_digest, self._summed(arrays))
            case Flow.METRICS:
                return MetricReport(stage, round_, pack_vector(arrays))
            case Flow.TARGET:
                return TargetUpdate(stage, round_, context.target_digest, pack_vector(arrays))
            case Flow.DISTANCE:
                return DistanceReport(stage, round_, pack_vector(arrays))

    def _summed(self, arrays: State) -> bytes:
        entries = arrays["entries"].astype(np.float32)
        summed = prototypes.clipped_sum(entries, self._study.pretrain.prototype_clip)
        return pack_vector({prototypes.NAME: summed})

    def _sealed(self, message: Release, flow: Flow, context: RoundContext) -> Released:
        frame = self._sealer.seal(self._coordinator, message)
        return Released(frame, kind_of(message), flow, context.stage, context.round)

    def _check_cap(self, size: int) -> None:
        if size > frame_limit(self._study):
            raise GateRefused("a frame over the study's size limit", "cap")
        if self._maximum_upload is not None and self._journal.released_bytes() + size > self._maximum_upload:
            raise GateRefused("the site's cap on uploads (maximum_upload) would be passed", "cap")

    # --- sending ---

    def _plain(self, kind: Kind, recipient: str, message: Message, stage: int, round_: int) -> None:
        if kind_of(message) is not kind:
            refusal = GateRefused(f"{type(message).__name__} is not a {kind} message")
            self._log_refusal(Told(kind, recipient, "", stage, round_), refusal, {})
            raise refusal
        frame = self._sealer.seal(recipient, message)
        flow = _PUBLISHED.get(type(message), type(message).__name__)
        row = self._row(kind, flow, FREE, stage, round_, frame, recipient)
        self._journal.log(row, self._entry(row, message))
        self._hand_over(row, frame)

    def _note(self, note: Greeting | Agreement, frame: bytes, kind: Kind, stage: int, round_: int) -> None:
        event = NON_PRIVATE if kind is Kind.RELEASE else FREE
        row = self._row(kind, type(note).__name__, event, stage, round_, frame, note.recipient)
        tag = "greeting" if isinstance(note, Greeting) else str(note.__struct_config__.tag)
        told = Told(kind, note.recipient, tag, stage, round_)
        self._journal.log(row, self._scribe.sent(self._journal.leaves(), told, row.size, row.digest, frame, ()))
        self._hand_over(row, frame)

    def _entry(
        self, row: SentRow, message: Message, shapes: Sequence[tuple[int, ...]] = (), model: bytes | None = None
    ) -> Entry:
        """The leaf of a message that leaves. model: where the message alone does not say."""
        spoken_of = model_of(message) if model is None else model
        at = place_of(message) or (row.stage, row.round)
        told = Told(kind_of(message), row.peer, flow_of(message), *at, spoken_of)
        return self._scribe.sent(self._journal.leaves(), told, row.size, row.digest, encode(message), shapes)

    def _refused(self, refusal: GateRefused, flow: str, context: RoundContext, arrays: State) -> None:
        self._observe(Refused(stage=context.stage, round=context.round, rule=str(refusal), peer="gate"))
        self._log_refusal(Told(Kind.RELEASE, self._coordinator, flow, context.stage, context.round), refusal, arrays)

    def _log_refusal(self, told: Told, refusal: GateRefused, arrays: State) -> None:
        self._journal.note(self._scribe.refused(self._journal.leaves(), told, Reason(refusal.reason), arrays))

    def _row(
        self, kind: str, flow: str, event: str, stage: int, round_: int, frame: bytes, peer: str | None = None
    ) -> SentRow:
        to = self._coordinator if peer is None else peer
        return SentRow(str(kind), str(flow), event, stage, round_, to, len(frame), hashlib.sha256(frame).digest())

    def _hand_over(self, row: SentRow, frame: bytes) -> None:
        self._send(row.peer, frame)
        self._observe(
            Sent(stage=row.stage, round=row.round, kind=row.kind, flow=row.flow, size=row.size, peer=row.peer)
        )


def _joined(flows: Sequence[FlowPart]) -> str:
    """How a sum's flows stand on record: "masked weights" and its kin, which nobody reads as they are."""
    return MASKED + "+".join(part.flow for part in flows)


def _check_shapes(update: Update, schema: Schema, whose: str) -> None:
    shapes = {spec.name: spec.shape for spec in schema}
    if {name: tuple(array.shape) for name, array in update.arrays.items()} != shapes:
        raise GateRefused(f"{update.flow}: names or shapes are not {whose}")
