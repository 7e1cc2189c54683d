"""Who may speak in this study: a peer that greets with the same study and software, from a folder that never went back.

A site greets when it starts and then now and then; the coordinator answers, and asks whoever speaks without having
greeted. Frames of a peer that has not greeted well since this node started are dropped. What is remembered of a peer is
on disk before it is believed.

    older copy of a site's folder         the coordinator remembers more than the site: it refuses, and the site stops
    older copy of the coordinator's       the sites remember more: each refuses, and the coordinator stops
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from fedsecure.config import Study
from fedsecure.greeting import GREETINGS, Greeting, Verdict, differing, settings_of, software, works_with
from fedsecure.node.pace import Pace, Rooms
from fedsecure.node.store import Store
from keys.identity import Identity
from keys.roster import Roster
from keys.trust import SKEW
from protocols.errors import ProtocolError

GREET_EVERY_S: Final = 2.0  # until the other has answered
AGAIN_EVERY_S: Final = 30.0  # after that: what is remembered of a node stays near what it did
SPACING_S: Final = 0.5  # between two greetings that this node begins
_GREETINGS: Final = Pace(burst=16, per_s=4.0)  # that are looked at: each is answered, signed and put on record

OLDER_COPY: Final = (
    "this node's folder was restored from an older copy, or runs twice: its peers have seen it further on. "
    "Nothing was sent. Put the newest folder back, or join anew with new keys (docs/pilot.md, Backups)"
)
_RULES: Final[Mapping[Verdict, str]] = {
    Verdict.SOFTWARE: "nodes of one study run one major.minor version of the software",
    Verdict.RESTORED: "a node's folder never goes back: this one was restored from an older copy, or runs twice",
}


class Known(msgspec.Struct, frozen=True, array_like=True):
    """The furthest that a peer was seen, and the greeting in which it said so."""

    fingerprint: str
    boot: int
    start: bytes
    head: int
    frame: bytes

    def ahead_of(self, boot: int, start: bytes, began: int) -> bool:
        """Whether a node that started so did it from an older copy of the folder that was seen."""
        if boot == self.boot:
            return start != self.start
        return boot < self.boot or began < self.head


class Introductions:
    """`say(greeting)` sends, `refuse(peer, rule)` notes, `stop(why)` ends this node, `renewed(peer)` is told of a
    peer with new keys, whose numbers begin again, `took(peer, frame)` of every greeting that is one, before anything is
    done with it."""

    def __init__(
        self, name: str, study: Study, identity: Identity, roster: Roster, store: Store, boot: int, start: bytes, *,
        say: Callable[[Greeting], None], refuse: Callable[[str, str], None], stop: Callable[[str], None],
        renewed: Callable[[str], None], took: Callable[[str, bytes], None] = lambda _, __: None,
    ) -> None:  # fmt: skip
        self._name, self._study, self._identity, self._roster, self._store = name, study, identity, roster, store
        self._boot, self._start, self._began = boot, start, store.head()
        self._say, self._refuse, self._stop, self._renewed, self._took = say, refuse, stop, renewed, took
        self._parts = tuple(settings_of(study).values())
        self._coordinates = name == roster.coordinator
        self._verdicts: dict[str, Verdict] = {}
        self._next_greeting = self._greeted = 0.0
        self._asked: dict[str, float] = {}
        self._now = 0.0  # of the last tick
        self._rooms: Rooms = {}
        held = store.get("peers")
        self._known = msgspec.msgpack.decode(held, type=dict[str, Known]) if held else {}
        self.skews: dict[str, float] = {}  # seconds that a peer's clock is ahead, transport included

    def follow(self, roster: Roster) -> None:
        """Act on another roster: who left it, or has other keys in it, has to greet anew."""
        before, self._roster = self._roster.members, roster
        same = {peer for peer, member in roster.members.items() if before.get(peer) == member}
        self._verdicts = {peer: verdict for peer, verdict in self._verdicts.items() if peer in same}
        self._next_greeting = 0.0

    def welcome(self, peer: str) -> bool:
        """Whether frames of this peer count."""
        return self._verdicts.get(peer) is Verdict.WELCOME

    def tick(self, now: float) -> None:
        """A site greets the coordinator."""
        self._now = now
        if self._coordinates or now < self._next_greeting:
            return
        self._greeted = now
        self._next_greeting = now + (AGAIN_EVERY_S if self.welcome(self._roster.coordinator) else GREET_EVERY_S)
        self._greet(self._roster.coordinator)

    def soon(self) -> None:
        """Something left this node that its peers should remember."""
        self._next_greeting = min(self._next_greeting, self._greeted + SPACING_S)

    def stranger(self, peer: str, now: float) -> None:
        """A frame came of a peer that is not welcome and was dropped: ask it to greet, but not at every frame."""
        if peer in self._roster.members and now - self._asked.get(peer, -GREET_EVERY_S) >= GREET_EVERY_S:
            self._asked[peer] = now
            self._greet(peer)

    def receive(self, peer: str, frame: bytes) -> None:
        """A greeting came."""
        if peer not in self._roster.members or peer == self._name:
            self._refuse(peer, "whoever greets is another member of the roster")
            return
        looked_at, self._rooms = _GREETINGS.spend(self._rooms, peer, self._now)
        if not looked_at:
            self._refuse(peer, "a node greets no more often than it could need")
            return
        try:
            greeting = GREETINGS.open(frame, peer=peer, me=self._name, public=self._roster.members[peer])
        except ProtocolError as error:
            self._refuse(error.peer, error.rule)
            return
        self._took(peer, frame)
        self.skews[peer] = greeting.at_ms / 1000 - time.time()
        verdict = self._judge(peer, greeting, frame)
        self._verdicts[peer] = verdict
        if verdict is not Verdict.WELCOME:
            self._refuse(peer, self._rule(verdict, greeting))
        elif abs(self.skews[peer]) > SKEW.total_seconds():
            self._refuse(peer, f"clocks of one study differ by at most {SKEW.total_seconds() / 60:.0f} minutes")
        # Answered before this node may stop of it: the other has to know as well.
        if self._coordinates or greeting.verdict is Verdict.UNKNOWN or verdict is Verdict.RESTORED:
            self._greet(peer)
        self._heed(peer, greeting)

    def _judge(self, peer: str, greeting: Greeting, frame: bytes) -> Verdict:
        if not works_with(software(), greeting.software):
            return Verdict.SOFTWARE
        if greeting.study != self._study.digest():
            return Verdict.STUDY
        known, fingerprint = self._known.get(peer), self._roster.members[peer].fingerprint
        if known is not None and known.fingerprint != fingerprint:
            known = None
            self._renewed(peer)
        if known is not None and known.ahead_of(greeting.boot, greeting.start, greeting.began):
            return Verdict.RESTORED
        further = known is None or (greeting.boot, greeting.head) >= (known.boot, known.head)
        if further and not greeting.proof:  # what is kept to be shown holds nothing that was shown
            self._known[peer] = Known(fingerprint, greeting.boot, greeting.start, greeting.head, frame)
            self._store.put(peers=msgspec.msgpack.encode(self._known))
        return Verdict.WELCOME

    def _rule(self, verdict: Verdict, greeting: Greeting) -> str:
        if verdict is Verdict.STUDY:
            if names := differing(self._study, greeting.parts):
                return f"nodes of one study hold one study file: it differs in {', '.join(names)}"
            return "nodes of one study hold one study file: its digest is of another, and no setting it names is"
        return _RULES[verdict]

    def _heed(self, peer: str, greeting: Greeting) -> None:
        """What the peer thinks of this node. A site believes its coordinator where it can see the same by itself."""
        match greeting.verdict:
            case Verdict.RESTORED:
                if self._proves(peer, greeting.proof):
                    self._stop(OLDER_COPY)
                else:
                    self._refuse(peer, "whoever says that a folder is an older copy shows what its node has signed")
            case Verdict.STUDY if not self._coordinates:
                names = differing(self._study, greeting.parts)
                if names:
                    self._stop(
                        f"this node's study file and {peer}'s differ in {', '.join(names)}: ask its operator for the "
                        "file that was agreed on"
                    )
            case Verdict.SOFTWARE if not self._coordinates and not works_with(software(), greeting.software):
                self._stop(
                    f"this node runs fedsecure {software()} and {peer} {greeting.software}: one study is run with one "
                    "major.minor version from beginning to end"
                )
            case _:
                pass

    def _proves(self, peer: str, proof: bytes) -> bool:
        try:
            own = GREETINGS.open(proof, peer=self._name, me=peer, public=self._identity.public)
        except ProtocolError:
            return False
        seen = Known(self._identity.fingerprint, own.boot, own.start, own.head, proof)
        return own.study == self._study.digest() and seen.ahead_of(self._boot, self._start, self._began)

    def _greet(self, peer: str) -> None:
        verdict = self._verdicts.get(peer, Verdict.UNKNOWN)
        greeting = Greeting(
            self._name, peer, self._study.digest(), self._parts, software(), self._boot, self._start,
            self._began, self._store.head(), int(time.time() * 1000), verdict,
            self._known[peer].frame if verdict is Verdict.RESTORED else b"",
        )  # fmt: skip
        self._say(greeting)
