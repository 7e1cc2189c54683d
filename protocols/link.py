"""What two nodes say to each other over one connection: handshakes, and frames in the session that holds.

The site is the initiator, the coordinator the responder. A pure state machine: packets and the time go in, packets and
frames come out; a transport carries the packets and says when the connection is another one.

    site                                    coordinator
      offer (at each connection and rekey)    ->
                                            <-  answer, once the frame on its way out is through
      credit, under the new keys              ->    from here on both send under them and under no other

A site makes an offer between two frames and begins no frame until it is answered; the coordinator begins none between
its answer and the first packet under the new keys. So no frame is ever in two sessions, and one session is enough.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from typing import Final

from protocols.errors import FaultyPeer, Malformed, UnexpectedMessage, WrongRoster
from protocols.handshake import (
    ANSWER,
    ID_SIZE,
    NO_SESSION,
    OFFER,
    SAME_ROSTER,
    Offered,
    Party,
    SessionKeys,
    answer,
    answered_by,
    read_offer,
)
from protocols.session import CHUNK_TYPE, CREDIT_TYPE, Buffers, Session

RESET: Final = b"\x05"  # first byte of a packet: "I do not know this session"; unauthenticated, so only a hint
ROSTER: Final = b"\x06"  # first byte of a packet: "I act on the roster of this digest"; a hint as well
RETRY_S: Final = 2.0  # an offer without an answer for so long is sent again, and then after twice as long
RETRY_MAXIMUM_S: Final = 30.0
_SITES_QUEUE: Final = 64  # frames of a site that wait for the connection
_SITES_ROUND: Final = 8  # frames of the largest size, of which a round has one for each kind of release
_OFFERS: Final = 16  # of this site, to which late answers are no fault
RESET_SIZE: Final = 1 + ID_SIZE


def reset_of(packet: bytes) -> bytes | None:
    """What to answer to a packet that comes by a connection on which no session has begun; None for nothing."""
    if packet[:1] in (bytes((CHUNK_TYPE,)), bytes((CREDIT_TYPE,))) and len(packet) > ID_SIZE:
        return RESET + packet[1 : 1 + ID_SIZE]
    return None


class Link(ABC):
    """One end. `send` queues; `next_packet` says what to put on the wire; `receive` takes what came from it."""

    def __init__(self, party: Party, peer: str, *, maximum: int, queue: int, room: int, buffers: Buffers) -> None:
        """maximum: bytes of a frame taken in; queue, room: frames, and their bytes, that may wait; more are dropped."""
        self.peer = peer
        self.room = room
        self._party = party
        self._maximum = maximum
        self._queue = queue
        self._buffers = buffers
        self._waiting: deque[bytes] = deque()
        self._replies: deque[bytes] = deque()
        self._session: Session | None = None
        self._least_boot = 0  # the highest that the peer has shown on this connection

    @property
    def established(self) -> bool:
        return self._session is not None

    @property
    def idle(self) -> bool:
        """Whether every frame handed over has been put on the wire."""
        return not self._waiting and (self._session is None or self._session.unfinished is None)

    def send(self, frame: bytes) -> None:
        if len(self._waiting) < self._queue and sum(map(len, self._waiting)) + len(frame) <= self.room:
            self._waiting.append(frame)

    def next_packet(self, now: float) -> bytes | memoryview | None:
        """The next packet for the peer, good until the next call on any link with these buffers; or None."""
        self._advance(now)
        if self._replies:
            return self._replies.popleft()
        session = self._session
        if session is not None and session.spent:
            self._give_up(session)
            return self.next_packet(now)
        if session is None:
            return None
        if session.unfinished is None and self._waiting and not self._holding():
            session.begin(self._waiting.popleft())
        return session.next_packet()

    def receive(self, packet: bytes | memoryview) -> bytes | None:
        """Take one packet; returns the frame that it completes. Raises a FaultyPeer; the link goes on after it."""
        first = packet[0] if len(packet) else 0
        if first in (CHUNK_TYPE, CREDIT_TYPE):
            return self._sealed(packet)
        self._shake(first, bytes(packet))
        return None

    def lost(self) -> None:
        """The connection is gone or another one. A frame that did not leave whole is sent again from its start."""
        if self._session is not None and self._session.unfinished is not None:
            self._waiting.appendleft(self._session.unfinished)
        self._session = None
        self._replies.clear()

    def _give_up(self, session: Session) -> None:
        """It may seal nothing more."""
        if session.unfinished is not None:
            self._waiting.appendleft(session.unfinished)
        self._session = None
        self._unknown(session.id)

    @property
    def party(self) -> Party:
        """As whom this end acts."""
        return self._party

    def follow(self, party: Party) -> None:
        """From the next handshake on, act as `party`: the roster has changed."""
        self._party = party

    def _sealed(self, packet: bytes | memoryview) -> bytes | None:
        session = self._session
        if session is None or bytes(packet[1 : 1 + ID_SIZE]) != session.id:
            self._unknown(bytes(packet[1 : 1 + ID_SIZE]))
            return None
        try:
            return session.receive(packet)
        except FaultyPeer:
            if session.broken:
                self._session = None
                self._unknown(session.id)
            raise

    def _begin(self, keys: SessionKeys, *, to_coordinator: bool) -> Session:
        return Session(
            keys, peer=self.peer, to_coordinator=to_coordinator, maximum=self._maximum, buffers=self._buffers
        )

    @abstractmethod
    def _holding(self) -> bool:
        """Whether no further frame may begin in the present session."""

    @abstractmethod
    def _advance(self, now: float) -> None:
        """Make handshake packets whose time has come."""

    @abstractmethod
    def _unknown(self, session: bytes) -> None:
        """A packet of a session that this end does not have: of one that is over, or that it has just given up."""

    @abstractmethod
    def _shake(self, first: int, packet: bytes) -> None:
        """A packet outside any session. Raises a FaultyPeer."""


class Initiator(Link):
    """A site's end."""

    _offered: Offered | None = None
    _retry_at = 0.0
    _patience = RETRY_S
    _rekey = False

    def __init__(self, party: Party, peer: str, *, maximum: int, queue: int, room: int, buffers: Buffers) -> None:
        super().__init__(party, peer, maximum=maximum, queue=queue, room=room, buffers=buffers)
        self._made: deque[bytes] = deque(maxlen=_OFFERS)  # digests of the last offers

    def rekey(self) -> None:
        """Fresh keys, as soon as the frame on its way out is through."""
        self._rekey = True

    def lost(self) -> None:
        super().lost()
        self._offered = None
        self._least_boot = 0

    def follow(self, party: Party) -> None:
        before = self._party.roster.members[self.peer]
        super().follow(party)
        self._offered = None  # it names the roster before
        if party.roster.members[self.peer] != before:
            self.lost()  # with whoever has the keys before

    def _holding(self) -> bool:
        return self._rekey or self._offered is not None

    def _advance(self, now: float) -> None:
        session = self._session
        if session is not None and not (session.quiet and self._holding()):
            return  # also until it has proved its keys: the coordinator knows a session from then on
        previous = NO_SESSION if session is None else session.id
        if self._offered is None or self._offered.previous != previous:
            self._offered = Offered(self._party, previous)
            self._made.append(self._offered.digest)
            self._patience = RETRY_S
        elif now >= self._retry_at:  # the same again: its answer may be on its way, and a new one would make it void
            self._patience = min(2 * self._patience, RETRY_MAXIMUM_S)
        else:
            return
        self._retry_at = now + self._patience
        self._replies.append(self._offered.packet)

    def _unknown(self, session: bytes) -> None:
        """Nothing to be said: this end makes an offer whenever it has no session."""

    def _shake(self, first: int, packet: bytes) -> None:
        if first == RESET[0]:
            if len(packet) != RESET_SIZE:
                raise Malformed(self.peer, "the bytes are not a reset")
            if self._session is not None and packet[1:] == self._session.id:
                # Whatever of the present frame the peer has refused it would refuse again: it is not kept.
                self._session = None
            return
        if first == ROSTER[0]:
            if packet[1:] != self._party.roster.digest:
                raise WrongRoster(self.peer, SAME_ROSTER)
            return
        if first != ANSWER[0]:
            raise UnexpectedMessage(self.peer, "a coordinator answers offers and makes none")
        answered = answered_by(packet, self.peer)
        if answered in self._made and (self._offered is None or answered != self._offered.digest):
            return  # to an offer of this site that is over: late, and no fault
        if self._offered is None:
            raise UnexpectedMessage(self.peer, "an answer follows an offer")
        keys, self._least_boot = self._offered.finish(packet, self._least_boot)
        self._offered, self._rekey = None, False
        self._session = self._begin(keys, to_coordinator=True)
        self._session.confirm()


def initiator(party: Party, maximum: int) -> Initiator:
    """A site's end with room for all that a round has it say."""
    coordinator, room = party.roster.coordinator, _SITES_ROUND * maximum
    return Initiator(party, coordinator, maximum=maximum, queue=_SITES_QUEUE, room=room, buffers=Buffers())


class Responder(Link):
    """The coordinator's end towards one site."""

    _answered = (b"", b"")  # digest of the last offer that was answered, and the answer
    _deferred: bytes | None = None  # an answer that waits until the frame on its way out is through
    _pending: Session | None = None  # of an offer that is answered, and not proved yet
    _succeeds = False  # the pending session takes over from the present one, whose frames are all through
    _reset = b""  # the last session that was called unknown

    @property
    def roster_hint(self) -> bytes:
        """The packet that answers an offer of another roster."""
        return ROSTER + self._party.roster.digest

    def receive(self, packet: bytes | memoryview) -> bytes | None:
        try:
            return super().receive(packet)
        except WrongRoster:
            self._replies.append(self.roster_hint)
            raise

    def send(self, frame: bytes) -> None:
        """A frame for a site that is away is dropped."""
        if self._session is not None:
            super().send(frame)

    def welcome(self, packet: bytes) -> None:
        """Begin anew on another connection, whose first packet this is: an offer.

        Also of a node that started before: it may have been put back to an older copy, and has to be told.
        Raises a FaultyPeer, and stays where it is, unless the offer holds.
        """
        if packet[:1] != OFFER:
            raise UnexpectedMessage(self.peer, "a connection begins with an offer")
        session, answered, least = self._session, self._answered, self._least_boot
        self._session, self._answered, self._least_boot = None, (b"", b""), 0
        try:
            self._shake(OFFER[0], packet)
        except FaultyPeer:
            self._answered, self._least_boot = answered, least
            raise
        finally:
            self._session = session
        reply, pending = self._replies.pop(), self._pending
        super().lost()  # keeps what waits, and what did not leave whole
        self._replies.append(reply)
        self._pending, self._reset = pending, b""

    def lost(self) -> None:
        super().lost()
        self._waiting.clear()
        self._deferred = self._pending = None
        self._succeeds, self._reset, self._answered = False, b"", (b"", b"")
        self._least_boot = 0

    def follow(self, party: Party) -> None:
        super().follow(party)
        self._answered = (b"", b"")  # to an offer that names the roster before

    def _holding(self) -> bool:
        return self._deferred is not None or self._succeeds

    def _advance(self, _: float) -> None:
        if self._deferred is not None and (self._session is None or self._session.unfinished is None):
            self._replies.append(self._deferred)
            self._deferred = None

    def _unknown(self, session: bytes) -> None:
        if session != self._reset:
            self._reset = session
            self._replies.append(RESET + session)

    def _shake(self, first: int, packet: bytes) -> None:
        if first != OFFER[0]:
            raise UnexpectedMessage(self.peer, "a site makes offers and answers none")
        digest = hashlib.sha256(packet).digest()
        if digest == self._answered[0]:
            # Sent again. Another answer would make the one on its way void; once its session is proved it was there.
            if self._pending is not None and self._deferred is None and not self._replies:
                self._replies.append(self._answered[1])
            return
        offer = read_offer(packet, peer=self.peer, party=self._party, least_boot=self._least_boot)
        reply, keys = answer(packet, offer, self._party)
        self._answered = digest, reply
        self._least_boot = offer.boot
        self._pending = self._begin(keys, to_coordinator=False)
        self._succeeds = self._session is not None and offer.previous == self._session.id
        self._deferred = reply
        if not self._succeeds:  # the site has lost its session: nothing of ours gets through to it any more
            self._replies.append(reply)
            self._deferred = None

    def _sealed(self, packet: bytes | memoryview) -> bytes | None:
        """The first packet that opens under a pending session's keys proves who made the offer: it takes over."""
        pending = self._pending
        if pending is None or bytes(packet[1 : 1 + ID_SIZE]) != pending.id:
            return super()._sealed(packet)
        try:
            frame = pending.receive(packet)
        except FaultyPeer:
            if pending.broken:  # the site has it already, and has given up the one before
                self._pending, self._deferred, self._succeeds = None, None, False
                self._unknown(pending.id)
            raise
        # On one connection a frame is unfinished here only if the site dropped the session in the midst of it, as it
        # does when it refuses it. It would refuse it again: it is not kept. The replies are of past handshakes.
        self._session, self._pending, self._deferred = pending, None, None
        self._succeeds, self._reset = False, b""
        self._replies.clear()
        return frame
