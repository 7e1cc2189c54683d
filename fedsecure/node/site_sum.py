"""A site's part of secure sums: each message of the coordinator goes through its step, and the answer to the gate.

What is answered is on disk before it leaves, with the ledger that permits it (sums.py). A message that comes again is
answered by the stored bytes. Whoever is refused is named in the log, and this site takes no further part in that sum;
with the next one it goes on.

    incoming/first-<stage>.sha256   digest of the stage's first model, as this site made it (workbench.py)
    outgoing/<flow>.safetensors     the round's updates, un-noised, until the next round opens
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from fedsecure.config import Study, SumFloors
from fedsecure.egress import Gate, RoundContext
from fedsecure.node import sum_terms
from fedsecure.node.pace import Pace, Rooms
from fedsecure.node.site import TOO_OFTEN
from fedsecure.node.store import Store
from fedsecure.node.sum_terms import Ground, floors_of
from fedsecure.node.sums import Sums
from fedsecure.node.workbench import SUM, first_file
from fedsecure.packing import unpack_arrays
from fedsecure.plan import schedule, summed
from fedsecure.types import Flow, Update
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import Inconsistent, ProtocolError, UnexpectedMessage
from protocols.messages import Message, SumRequest
from protocols.secagg import client, setup
from protocols.secagg.manifest import Expected, manifest_digest
from protocols.secagg.messages import (
    AgreedResult,
    Keyset,
    Manifest,
    RelayShares,
    SecAggOpen,
    SumResult,
    Survivors,
    UnmaskRequest,
)
from protocols.secagg.states import Advertised, Answered, Informed, Masked, Shared, Signed

AGAIN: Final = Pace(burst=12, per_s=0.1)  # answers said once more: two of each step of a sum, then as site.AGAIN
_ANSWERS: Final[dict[type, str]] = {
    SecAggOpen: "advertise-keys", Keyset: "share-keys", RelayShares: "masked-input", Survivors: "consistency-check",
    UnmaskRequest: "unmask-shares", SumResult: "result-agreement",
}  # fmt: skip


class _Missed(NamedTuple):
    """A sum that this site was no part of to its end, as others were told of it."""

    opened: SecAggOpen
    said: SumResult
    agreed: AgreedResult


class SiteSum:
    """Of one site. `context(stage, round)` is the gate's of a round that this site has done."""

    def __init__(
        self, name: str, study: Study, identity: Identity, roster: Roster, store: Store, gate: Gate,
        floors: SumFloors, verified: Callable[[], frozenset[str]], context: Callable[[int, int], RoundContext],
        refuse: Callable[[str, str], None], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """verified(): members whose keys this site's operator has verified. refuse(peer, rule) is the log's. Raises
        SettingsError, ValueError if what is on disk does not hold, or fewer were verified than `floors` asks for."""
        self._name, self._study, self._identity, self._store, self._gate = name, study, identity, store, gate
        self._settings, self._verified, self._context, self._refuse = floors, verified, context, refuse
        self._clock = clock
        self._answers: Rooms = {}
        self._sums = Sums(store)
        self._missed: dict[tuple[int, int, bool], _Missed] = {}  # stage, round, whether of weights: as many as rounds
        self._opened: SecAggOpen | None = None  # the last one that came, and what was said of its sum
        self._said: SumResult | None = None
        self.follow(roster)
        self._state: Any = self._sums.restore(roster, name, self._floors)

    def follow(self, roster: Roster) -> None:
        self._roster = roster
        self._floors = floors_of(self._settings, self._verified() - {roster.coordinator})

    def result_of(self, stage: int) -> bytes:
        """The model that came of the stage's last sum, by its digest; empty if this site knows none."""
        try:
            self._catch_up()
        except ProtocolError as error:
            self._refuse(error.peer, error.rule)
        done = [entry for entry in self._sums.ledger.entries if entry.stage == stage and entry.result]
        weights = [entry for entry in done if Flow.WEIGHTS in entry.flows]
        return max(weights, key=lambda entry: entry.round).result if weights else b""

    def hear(self, message: SumRequest, mine: bool) -> None:
        """mine: the sum that a `SecAggOpen` begins may be of the round that this site has done. Raises GateRefused."""
        try:
            self._hear(message, mine)
        except ProtocolError as error:
            self._refuse(error.peer, error.rule)
            self._drop_out()

    def _drop_out(self) -> None:
        self._state = None
        if self._sums.ledger.entries and not self._sums.ledger.entries[-1].over:
            self._sums.give_up()

    def _hear(self, message: SumRequest, mine: bool) -> None:
        match message, self._state:
            case SecAggOpen(), _:
                self._opened, self._said = message, None
                if mine:
                    self._open(message)
            case Keyset(), Advertised() as state:
                self._state, answer = setup.share_keys(state, message, self._identity)
                for error in self._state.blamed:
                    self._refuse(error.peer, error.rule)
                self._answer("share-keys", answer)
            case RelayShares(), Shared() as state:
                self._mask(state, message)
            case Survivors(), Masked() as state:
                signing, ledger = client.sign(client.hear_survivors(state, message), self._sums.ledger)
                self._state, check = client.sign_survivors(signing, self._identity)
                self._answer("consistency-check", check, ledger)
            case UnmaskRequest(), Signed() as state:
                answering, ledger = client.answer(client.verify_agreement(state, message), self._sums.ledger)
                self._state, shares = client.unmask(answering)
                self._answer("unmask-shares", shares, ledger)
            case SumResult() | AgreedResult(), _:
                self._hear_result(message)
            case Keyset() | RelayShares() | Survivors() | UnmaskRequest(), _:
                self._say_again(message)

    # --- steps ---

    def _open(self, message: SecAggOpen) -> None:
        self._catch_up()
        manifest, digest = message.manifest, manifest_digest(message.manifest)
        if any(entry.manifest == digest for entry in self._sums.ledger.entries):
            self._say_again(message)  # it came before, and this site is in it or dropped out
            return
        expected = self._expected(manifest)
        opened, ledger = client.open_sum(
            message, self._sums.ledger, expected=expected, floors=self._floors, roster=self._roster, me=self._name
        )
        self._sums.begin(ledger, message)
        self._answers = {}
        self._state, answer = client.advertise_keys(opened, self._identity)
        self._answer("advertise-keys", answer)

    def _mask(self, state: Shared, message: RelayShares) -> None:
        manifest = state.opened.cohort.manifest
        updates = tuple(self._update(Flow(part.flow)) for part in manifest.flows)
        burned, ledger = client.burn(setup.accept_shares(state, message), self._sums.ledger)
        context = self._context(manifest.stage, manifest.round)
        self._state = self._gate.mask(updates, context, burned, ledger, self._sums)

    def _update(self, flow: Flow) -> Update:
        return Update(flow, unpack_arrays(self._store.read(f"outgoing/{flow}.safetensors")))

    def _expected(self, manifest: Manifest) -> Expected:
        """What this site holds the manifest of a round that it has done against. Raises Inconsistent."""
        stage, round_, study = manifest.stage, manifest.round, self._study
        allowed = {summed(study, stage, round_, targets) for targets in (False, True)}
        if Flow.TARGET in max(allowed, key=len) and study.pretrain.distance == "r2":
            allowed.add((Flow.TARGET,))
        flows = tuple(part.flow for part in manifest.flows)
        mine = next((each for each in allowed if each and each == flows), None)
        if mine is None or not all(self._store.has(f"outgoing/{flow}.safetensors") for flow in mine):
            raise Inconsistent(self._roster.coordinator, "a sum is of the flows that the round makes")
        return sum_terms.expected(study, self._ground(stage, round_), mine, self._first(stage))

    def _ground(self, stage: int, round_: int) -> Ground:
        context = self._context(stage, round_)
        prototypes = {"prototypes": self._store.read(SUM)} if self._store.has(SUM) else {}
        target = {"target": context.target_digest} if context.target_digest else {}
        return Ground(
            stage, round_, context.model_digest, context.schema, context.target_schema, {**prototypes, **target}
        )

    def _first(self, stage: int) -> bytes:
        """Raises Inconsistent where this site could not make the stage's first model: it cannot check the chain."""
        if not self._store.has(first_file(stage)):
            rule = "a site is told of the models that it makes a stage's first one of"
            raise Inconsistent(self._roster.coordinator, rule)
        return self._store.read(first_file(stage))

    def _hear_result(self, message: SumResult | AgreedResult) -> None:
        match message, self._state:
            case SumResult(), Answered() as state:
                self._said = message
                self._state, agreement = client.hear_result(state, message, self._identity)
                self._sums.keep("result-agreement", agreement, self._sums.ledger, said=message)
                self._send(agreement)
            case SumResult(), Informed() as state if message.keyset == state.answered.keyset:
                self._said = message
                self._say_again(message)
            case SumResult(), _:
                self._said = message
            case AgreedResult(), Informed() as state if message.keyset == state.answered.keyset:
                initial = self._first(state.answered.opened.cohort.manifest.stage)
                self._sums.confirm(client.confirm_result(state, message, self._sums.ledger, initial))
                self._state = None
            case AgreedResult(), _:
                self._hear_of(message)

    # --- sums that went on without this site ---

    def _hear_of(self, agreed: AgreedResult) -> None:
        """Noted only: the first model of the stage, with which the chain begins, may not have been made here yet."""
        if self._opened is None or self._said is None or self._said.keyset != agreed.keyset:
            return
        manifest, stages = self._opened.manifest, schedule(self._study)
        if not (manifest.stage < len(stages) and manifest.round < stages[manifest.stage].rounds):
            raise UnexpectedMessage(self._roster.coordinator, "a sum is of a round of the study that averages")
        if not self._has_result(manifest_digest(manifest)):
            weights = any(part.flow == Flow.WEIGHTS for part in manifest.flows)
            self._missed[manifest.stage, manifest.round, weights] = _Missed(self._opened, self._said, agreed)

    def _has_result(self, digest: bytes) -> bool:
        return any(entry.manifest == digest and entry.result for entry in self._sums.ledger.entries)

    def _catch_up(self) -> None:
        missed, self._missed = self._missed, {}
        for one in missed.values():
            manifest = one.opened.manifest
            if self._has_result(manifest_digest(manifest)):
                continue
            expected = sum_terms.vouched(self._study, manifest, self._first(manifest.stage))
            ledger = client.catch_up(
                one.opened, one.said, one.agreed, self._sums.ledger, expected=expected, floors=self._floors,
                roster=self._roster, me=self._name,
            )  # fmt: skip
            self._sums.confirm(ledger)

    # --- answers ---

    def _answer(self, step: str, message: Message, ledger: Any = None) -> None:
        self._sums.keep(step, message, self._sums.ledger if ledger is None else ledger)
        self._send(message)

    def _send(self, message: Message) -> None:
        self._gate.share(self._roster.coordinator, message, *self._place())

    def _say_again(self, message: SumRequest) -> None:
        """What was answered to the same message; nothing where this site is out of the sum, or ahead of the message."""
        kept: Any = self._sums.kept(_ANSWERS[type(message)])
        entry = self._sums.ledger.entries[-1] if self._sums.ledger.entries else None
        if kept is None or entry is None or entry.over:
            return
        of = {entry.manifest} if isinstance(message, SecAggOpen | Keyset) else {entry.keyset, kept.keyset}
        named = manifest_digest(message.manifest) if isinstance(message, SecAggOpen) else _named(message)
        coordinator = self._roster.coordinator
        if named not in of:
            raise UnexpectedMessage(coordinator, "a message is of the sum that the site is in")
        answered, self._answers = AGAIN.spend(self._answers, coordinator, self._clock())
        if answered:
            self._gate.again(kept, *self._place())
        else:
            self._refuse(coordinator, TOO_OFTEN)

    def _place(self) -> tuple[int, int]:
        return self._sums.ledger.entries[-1].place


def _named(message: Any) -> bytes:
    """The manifest's digest in a keyset, the keyset's in what follows."""
    named: bytes = message.manifest if isinstance(message, Keyset) else message.keyset
    return named
