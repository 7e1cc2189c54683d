"""The thin shell round a machine: it opens frames, runs effects, and decides nothing.

`pump` does one turn: what came in becomes events, events go through the machine, effects are run. A node's process
pumps in a loop; a federation in one process pumps its nodes in turn.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from fedsecure.audit.log import Told as ToldOf
from fedsecure.audit.log import received
from fedsecure.config import Study
from fedsecure.egress import Gate
from fedsecure.errors import GateRefused
from fedsecure.greeting import GREETINGS
from fedsecure.node.checkpoints import Checkpoints
from fedsecure.node.closing import close_log
from fedsecure.node.events import Effect, Event, FrameIn, Refuse, Restarted, RoundOver, Stop, Tick, TrainFailed, Veto
from fedsecure.node.introductions import Introductions
from fedsecure.node.pace import Pace, Rooms
from fedsecure.node.store import Store
from fedsecure.node.trainer import Answer, Broke, Told, Trainer
from fedsecure.node.vitals import Standing, SumStanding
from fedsecure.plan import frame_limit, schedule
from fedsecure.progress import Observe, Refused, RoundEnded, RoundStarted, Stopped
from keys.identity import Identity
from keys.roster import Roster
from protocols.envelope import Opened, ReplayGuard, open_frame
from protocols.errors import FaultyPeer, ProtocolError
from protocols.messages import Kind, Logging, Message, kind_of
from protocols.tlog.leaf import flow_of, model_of, place_of
from protocols.transport.base import ClientTransport, ServerTransport

# Messages of a peer that are taken: each becomes a leaf of the log, and a round of a thousand sites opens with as many.
_TAKEN: Final = Pace(burst=4096, per_s=50.0)
MAXIMUM_KINDS: Final = 64  # of refusals of one peer that are noted apart
CLOSES: Final = ("finished", "vetoed")  # for good: a node that stopped otherwise may go on
MANY: Final = "a peer breaks few rules: more kinds of refusal than are noted apart"


class Shell(ABC):
    """What both nodes share. A subclass owns the machine's state and knows its effects."""

    def __init__(
        self,
        name: str,
        study: Study,
        identity: Identity,
        roster: Roster,
        store: Store,
        gate: Gate,
        trainer: Trainer,
        observe: Observe,
        clock: Callable[[], float] = time.monotonic,
        *,
        boot: int,
        start: bytes,
        heard: Callable[[str, int], None] = lambda _, __: None,
    ) -> None:
        """`boot` counts the node's starts, `start` are random bytes of this one. `heard(peer, bytes)` is told of every
        frame that came."""
        self.name = name
        self.outcome: Stop | None = None
        self._study = study
        self._identity = identity
        self._roster = roster
        self._store = store
        self._gate = gate
        self._trainer = trainer
        self._observe = observe
        self._clock = clock
        self._events: deque[Event] = deque([Restarted()])
        self._round_began = clock()
        self._frame_limit = frame_limit(study)
        self._refusals: Counter[tuple[str, str]] = Counter()
        last_seen = store.get("replay")
        self._replay = ReplayGuard(msgspec.json.decode(last_seen, type=dict[str, int]) if last_seen else {})
        self._heard = heard
        self._introductions = Introductions(
            name, study, identity, roster, store, boot, start,
            say=lambda greeting: gate.greet(greeting, *self._position()),
            refuse=self._refused, stop=lambda why: self._end(Stop("failed", why)), renewed=self._renewed,
            took=self._took_greeting,
        )  # fmt: skip
        self._rooms: Rooms = {}
        self._taken: list[tuple[ToldOf, bytes]] = []  # messages of this turn, and their frames
        self._logging: list[tuple[str, Logging]] = []  # and those of them that are the log's
        self._checkpoints = Checkpoints(
            name, study, identity, roster, store, position=self._position, fault=self._at_fault,
            say=lambda member, message: gate.share(member, message, *self._position()),
        )  # fmt: skip

    # --- one turn ---

    def pump(self, timeout: float) -> bool:
        """One turn of the loop, waiting at most `timeout` seconds for a frame. False when the node has stopped."""
        for peer, frame in self._receive(timeout):
            self._heard(peer, len(frame))
            self._take(peer, frame)
        self._acknowledge()
        for refusal in self._channel().refusals():
            self._refused(refusal.peer, refusal.rule)
        self._introductions.tick(self._clock())
        for answer in self._trainer.poll():
            self._answer(answer)
        self._events.append(Tick(self._clock()))
        while self._events and self.outcome is None:
            for effect in self._step(self._events.popleft()):
                if not self._perform(effect):
                    break  # what follows in this step rests on the effect that was refused
        return self.outcome is None

    def veto(self) -> None:
        """The operator said stop: takes effect with the next turn, whatever the trainer is doing."""
        self._events.appendleft(Veto())

    def note_again(self) -> None:
        """Note the next refusal of each kind, also where one of its kind was noted before."""
        self._refusals.clear()

    def sent_bytes(self) -> dict[str, int]:
        """Peer -> bytes on the record of what was sent."""
        return self._store.sent_bytes()

    def follow(self, roster: Roster) -> None:
        """Act on another roster from now on. Raises ValueError if it has other keys for this node."""
        self._channel().accept(roster)
        self._roster = roster
        self._introductions.follow(roster)
        self._checkpoints.follow(roster)

    def close(self) -> None:
        self._trainer.close()
        self._store.close()

    @abstractmethod
    def _receive(self, timeout: float) -> list[tuple[str, bytes]]:
        """(authenticated peer, frame), in order."""

    @abstractmethod
    def _channel(self) -> ServerTransport | ClientTransport:
        """This node's end of the wire."""

    @abstractmethod
    def _step(self, event: Event) -> tuple[Effect, ...]:
        """Put one event through the machine and keep its new state."""

    @abstractmethod
    def _run(self, effect: Effect) -> None:
        """Run an effect of this kind of node."""

    def _results(self) -> dict[str, bytes]:
        """Files of this node's folder that came of the study, for its closing."""
        return {}

    @abstractmethod
    def _position(self) -> tuple[int, int]:
        """(stage, round) for what is told to the operator."""

    @abstractmethod
    def _phase(self) -> str:
        """The machine's phase."""

    @abstractmethod
    def _sites(self) -> dict[str, str]:
        """Site -> what this node knows of it."""

    def _sum_standing(self) -> SumStanding | None:
        """Where the secure sum is that this node is in; None of none."""
        return None

    def standing(self) -> Standing:
        """Where this node is, for its operator."""
        (stage, round_), stages = self._position(), schedule(self._study)
        return Standing(
            node=self.name, role="coordinator" if self.name == self._roster.coordinator else "site",
            study=self._study.name, digest=self._study.digest().hex(), phase=self._phase(), stage=stage,
            stage_name=stages[stage].name, round=round_, rounds=stages[stage].rounds, sites=self._sites(),
            sum=self._sum_standing(),
        )  # fmt: skip

    # --- shared parts ---

    def _take(self, peer: str, frame: bytes) -> None:
        if GREETINGS.is_one(frame):
            self._introductions.receive(peer, frame)
        elif self._introductions.welcome(peer):
            self._open(peer, frame)
        else:
            self._introductions.stranger(peer, self._clock())

    def _renewed(self, peer: str) -> None:
        """The peer has new keys, which never numbered a frame."""
        self._replay = ReplayGuard({name: seq for name, seq in self._replay.export().items() if name != peer})
        self._checkpoints.renewed(peer)

    def _took_greeting(self, peer: str, frame: bytes) -> None:
        told = ToldOf(Kind.CONTROL, peer, "greeting", *self._position())
        self._store.note(received(self._store.leaves(), told, len(frame), hashlib.sha256(frame).digest()))

    def _acknowledge(self) -> None:
        """Put on record what came in this turn, in one transaction and before anything is done with it."""
        first = self._store.leaves()
        if self._taken:
            self._store.note(*(
                received(first + number, told, len(frame), hashlib.sha256(frame).digest())
                for number, (told, frame) in enumerate(self._taken)
            ))  # fmt: skip
            self._taken.clear()
        for sender, message in self._logging:
            self._checkpoints.take(sender, message)
        self._logging.clear()

    @abstractmethod
    def _at_fault(self, error: FaultyPeer) -> None:
        """Somebody's log does not hold."""

    def _open(self, peer: str, frame: bytes) -> None:
        taken, self._rooms = _TAKEN.spend(self._rooms, peer, self._clock())
        if not taken:
            self._refused(peer, "a node says no more than a study could need")
            return
        try:
            opened = open_frame(
                frame,
                peer=peer,
                me=self.name,
                study=self._study.digest(),
                roster=self._roster,
                replay=self._replay,
                maximum=self._frame_limit,
            )
            message = self._admit(opened)
        except ProtocolError as error:
            self._refused(error.peer, error.rule)
            return
        at = place_of(message) or self._position()
        told = ToldOf(kind_of(message), opened.sender, flow_of(message), *at, model_of(message))
        self._taken.append((told, frame))
        if isinstance(message, Logging):
            self._logging.append((opened.sender, message))
        else:
            self._events.append(FrameIn(opened.sender, message))

    @abstractmethod
    def _admit(self, opened: Opened) -> Message:
        """The message, after what a node checks of it beyond its frame. Raises ProtocolError to refuse it."""

    def _answer(self, answer: Answer) -> None:
        match answer:
            case Told(event):
                self._observe(event)
            case Broke(reason):
                self._events.append(TrainFailed(reason))
            case _:
                self._finished_work(answer)

    @abstractmethod
    def _finished_work(self, answer: Answer) -> None:
        """Turn the trainer's answer into an event."""

    def _perform(self, effect: Effect) -> bool:
        match effect:
            case Refuse(peer, rule):
                self._refused(peer, rule)
            case RoundOver(stage, round_, sites):
                seconds = self._clock() - self._round_began
                self._observe(RoundEnded(stage=stage, round=round_, seconds=seconds, sites=sites))
            case Stop():
                self._end(effect)
            case _:
                try:
                    self._run(effect)
                except GateRefused as refusal:
                    self._events.appendleft(TrainFailed(f"the gate refused a release: {refusal}"))
                    return False
        return True

    def _end(self, stop: Stop) -> None:
        if self.outcome is None:
            stage, round_ = self._position()
            self.outcome = stop
            if stop.reason in CLOSES:
                close_log(self._store, self.name, self._study, self._identity, self._gate.policy, self._results())
            self._observe(Stopped(stage=stage, round=round_, reason=stop.reason))

    def _refused(self, peer: str, rule: str) -> None:
        """Note a refusal: the first of each kind, then every hundredth, so that a flood fills no disk. Of a peer that
        breaks ever other rules, all that are beyond MAXIMUM_KINDS count as one kind."""
        if (peer, rule) not in self._refusals and sum(of == peer for of, _ in self._refusals) >= MAXIMUM_KINDS:
            rule = MANY
        self._refusals[peer, rule] += 1
        if self._refusals[peer, rule] % 100 != 1:
            return
        stage, round_ = self._position()
        self._observe(Refused(stage=stage, round=round_, rule=rule, peer=peer))

    def _round_starts(self, stage: int, round_: int) -> None:
        self._round_began = self._clock()
        plan = schedule(self._study)[stage]
        self._observe(RoundStarted(stage=stage, round=round_, name=plan.name, rounds=plan.rounds))

    def _save(self, **values: bytes) -> None:
        """State and replay high-water in one transaction."""
        self._store.put(replay=msgspec.json.encode(self._replay.export()), **values)


def run(shell: Shell, should_stop: Callable[[], bool], turn_s: float = 0.05) -> Stop:
    """Pump until the node stops. `should_stop` is asked before every turn (signals set it); then the node is just
    closed: an interrupted run begins again where its store stands."""
    try:
        while not should_stop() and shell.pump(turn_s):
            pass
    finally:
        shell.close()
    return shell.outcome or Stop("interrupted")
