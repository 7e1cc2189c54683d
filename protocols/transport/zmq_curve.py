"""ZeroMQ over CURVE: ROUTER at the coordinator, DEALER at a site. Sites dial out; one host and port is all they need.

CURVE encrypts a connection and proves both ends' channel keys. A ZAP handler (RFC 27) that knows the roster's site keys
and nothing else decides who may connect; a name is then read from the authenticated User-Id of every packet. A routing
id proves nothing, its client chooses it: it serves only to address the connection that a packet came by.

Inside runs a session of our own (`protocols.link`): one for each connection. Every endpoint has a thread that owns its
socket, so that frames travel, sessions begin and connections close while the node is busy with something else.
"""

from __future__ import annotations

import contextlib
import errno
import math
import time
from typing import Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from keys.roster import Roster
from protocols.errors import FaultyPeer, ProtocolError, UnexpectedMessage, WrongRoster
from protocols.handshake import NO_SESSION, OFFER, Party, moved
from protocols.link import RESET, RESET_SIZE, Responder, initiator, reset_of
from protocols.transport.connections import Connection, Connections, Pace
from protocols.transport.doorkeeper import Doorkeeper
from protocols.transport.mailbox import Mailbox
from protocols.transport.switchboard import Switchboard
from protocols.transport.zmq_endpoint import Endpoint

_DOMAIN: Final = "fedsecure"
_INBOX: Final = 64  # frames waiting to be polled, and no more bytes than one of the largest; beyond, TCP holds back
_REDIAL_S: Final = 5.0  # libzmq does not try again where it was refused; the roster may have let us in meanwhile
_REFUSED: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_AWAY: Final = (errno.EHOSTUNREACH, errno.EAGAIN)  # the connection is over, or takes nothing
_DAY_S: Final = 86_400.0  # after so long a site connects anew, for fresh keys of CURVE


class CurveServer(Endpoint):
    """See `ServerTransport`. Accepts the sites of the roster and nobody else."""

    def __init__(self, party: Party, *, maximum: int, endpoint: str = "tcp://127.0.0.1:*") -> None:
        """Bind. maximum: bytes of a frame; a session that announces a larger one ends.

        Raises ValueError if `party` is not the coordinator of its roster; zmq.ZMQError if the endpoint cannot be bound.
        """
        self._board = Switchboard(party, maximum)
        self._inbox: Mailbox[tuple[str, bytes]] = Mailbox(_INBOX, maximum)
        self._connections = Connections()
        self._pace = Pace()
        self._routes: dict[str, Connection] = {}  # by name: the one by which its last offer that holds came
        self._dirty: set[str] = set()  # names for which something may wait
        self._doorkeeper = Doorkeeper(_DOMAIN)
        self._doorkeeper.admit(party.roster, self._board)
        super().__init__(party, zmq.ROUTER)
        self._door = ThreadAuthenticator(self._context)
        try:
            self._door.start()
            self._door.configure_curve_callback(_DOMAIN, self._doorkeeper)
            self._socket.curve_server = True
            self._socket.zap_domain = _DOMAIN.encode()
            # Without this a server whose handler is gone would let everybody in.
            self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            # Makes a send to somebody who is away an error that is seen here, not a silent drop somewhere.
            self._socket.router_mandatory = True
            self._socket.bind(endpoint)
        except BaseException:
            self.close()
            raise
        self._endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return self._endpoint

    def send(self, peer: str, frame: bytes) -> None:
        with self._lock:
            link = self._board.link(peer)
            if link is None or peer not in self._routes:
                return
            link.send(frame)
            self._dirty.add(peer)
        self._nudge()

    def poll(self, timeout: float) -> list[tuple[str, bytes]]:
        self._healthy()
        frames, full = self._inbox.take(timeout)
        if full:
            self._nudge()
        return frames

    def accept(self, roster: Roster) -> None:
        with self._lock:
            ended = self._board.accept(roster)
            self._doorkeeper.admit(roster, self._board)
            for name in ended:
                self._hang_up(name)

    def revoke(self, name: str) -> None:
        with self._lock:
            self._board.revoke(name)
            self._doorkeeper.dismiss(name)
            self._hang_up(name)

    def refusals(self) -> list[ProtocolError]:
        return [*self._doorkeeper.refusals(), *self._inbox.refusals()]

    def _hang_up(self, name: str, but: Connection | None = None) -> None:
        """On every connection of this name's key."""
        self._routes.pop(name, None)
        for connection in self._connections.of(name):
            if connection is not but:
                connection.hang_up()

    def _noticed(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._connections.accepted(value, now)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connections.gone(value, now)

    def _housekeeping(self, now: float) -> None:
        for connection in self._connections.overdue(now, reading=not self._inbox.full):
            connection.hang_up()

    def _receive(self, now: float) -> bool:
        if not self._inbox.full:
            for parts in self._packets():
                self._take(parts, now)
        return not self._inbox.full

    def _take(self, parts: list[zmq.Frame], now: float) -> None:
        id_ = parts[0].bytes
        if not self._connections.knows(id_):
            self._listen(now)
        connection = self._connections.heard(id_, int(parts[-1].get(zmq.SRCFD)), self._reaches)
        if connection is None or connection.ended:
            return
        # A key that is dismissed while it is connected still has this connection: nothing of it is looked at.
        name = self._doorkeeper.names.get(_user_of(parts[-1]))
        link = None if name is None else self._board.link(name)
        if name is None or link is None:
            connection.hang_up()
            return
        connection.name = name
        if len(parts) != 2:
            return  # a packet is one part behind the routing id that ROUTER puts in front
        try:
            frame = self._hear(name, link, parts, connection, now)
        except FaultyPeer as error:
            self._inbox.refuse(error)
        else:
            if frame is not None:
                self._inbox.put((name, frame), len(frame))
        self._send_to(name, now)

    def _hear(
        self, name: str, link: Responder, parts: list[zmq.Frame], connection: Connection, now: float
    ) -> bytes | None:
        """One key has one connection: the newest that has made an offer which holds."""
        packet = parts[1].buffer
        offers = packet[:1].tobytes() == OFFER
        if offers and not self._pace.allows(name, now):
            connection.hang_up()
            raise UnexpectedMessage(name, "a site begins no more handshakes than it could need")
        if self._routes.get(name) is connection:
            return link.receive(packet)
        if not offers:
            # Left over from an earlier connection, or sent before this one was noticed to be new.
            reset = reset_of(packet[:RESET_SIZE].tobytes())
            if reset is not None:
                self._hint(connection.id, reset)
            return None
        if not self._reaches(connection.id):
            return None  # left over: it must not displace a connection that lives
        try:
            link.welcome(packet.tobytes())
        except WrongRoster:
            self._hint(connection.id, link.roster_hint)
            raise
        self._hang_up(name, but=connection)
        connection.joined = True
        self._routes[name] = connection
        return None

    def _hint(self, id_: bytes, packet: bytes) -> None:
        """Say something on a connection on which no session has begun."""
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([id_, packet], flags=zmq.DONTWAIT)

    def _reaches(self, id_: bytes) -> bool:
        """Whether the connection of this routing id is there. What is sent to find out is a reset of no session."""
        self._socket.getsockopt(zmq.EVENTS)  # has libzmq look at what has ended meanwhile
        try:
            self._socket.send_multipart([id_, RESET + NO_SESSION], flags=zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in _AWAY:
                raise
            return False
        return True

    def _flush(self, now: float) -> bool:
        names, self._dirty = self._dirty, set()
        for name in names:
            self._send_to(name, now)
        return self._deadline is not None and any(
            not link.idle for name in self._routes if (link := self._board.link(name)) is not None
        )

    def _send_to(self, name: str, now: float) -> None:
        link, route = self._board.link(name), self._routes.get(name)
        if link is None or route is None:
            return
        while (packet := link.next_packet(now)) is not None:
            try:
                self._socket.send_multipart([route.id, packet], flags=zmq.DONTWAIT)
            except zmq.ZMQError as error:
                if error.errno not in _AWAY:
                    raise
                # It has gone, or takes nothing although it granted it. Its next packet brings a new route.
                self._hang_up(name)
                link.lost()
                return

    def _release(self) -> None:
        self._door.stop()


class CurveClient(Endpoint):
    """See `ClientTransport`. Speaks to the owner of the coordinator's keys, whoever answers at the endpoint.

    It connects in the background and again whenever the connection is lost.
    """

    def __init__(self, party: Party, *, maximum: int, endpoint: str) -> None:
        """maximum: bytes of a frame. Raises zmq.ZMQError if `endpoint` is not one."""
        coordinator = party.roster.coordinator
        self._link = initiator(party, maximum)
        self._inbox: Mailbox[bytes] = Mailbox(_INBOX, maximum)
        self._endpoint = endpoint
        self._renew_at = time.monotonic() + _DAY_S
        self._redial_at = math.inf
        super().__init__(party, zmq.DEALER)
        try:
            self._socket.curve_serverkey = party.roster.members[coordinator].channel
            # What is not on a connection stays in the link, which knows what may be sent on another one.
            self._socket.immediate = True
            self._socket.connect(endpoint)
        except BaseException:
            self.close()
            raise
        self._thread.start()

    def send(self, frame: bytes) -> None:
        with self._lock:
            self._link.send(frame)
        self._nudge()

    def poll(self, timeout: float) -> list[bytes]:
        self._healthy()
        frames, full = self._inbox.take(timeout)
        if full:
            self._nudge()
        return frames

    def accept(self, roster: Roster) -> None:
        with self._lock:
            before, party = self._link.party, moved(self._link.party, roster)
            self._link.follow(party)
            if roster.members[roster.coordinator] != before.roster.members[roster.coordinator]:
                self._redial_at = 0.0
        self._nudge()

    def rekey(self) -> None:
        with self._lock:
            self._link.rekey()
        self._nudge()

    def refusals(self) -> list[ProtocolError]:
        return self._inbox.refusals()

    def _noticed(self, event: int, _: int, now: float) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._link.lost()
        elif event & _REFUSED:
            self._redial_at = now + _REDIAL_S

    def _housekeeping(self, now: float) -> None:
        if now >= self._redial_at or (now >= self._renew_at and self._link.idle):
            self._redial_at, self._renew_at = math.inf, now + _DAY_S
            with contextlib.suppress(zmq.ZMQError):  # after a refusal libzmq has given the connection up itself
                self._socket.disconnect(self._endpoint)
            roster = self._link.party.roster
            self._socket.curve_serverkey = roster.members[roster.coordinator].channel
            self._socket.connect(self._endpoint)

    def _receive(self, now: float) -> bool:
        if not self._inbox.full:
            for parts in self._packets():
                if len(parts) != 1:
                    continue
                try:
                    frame = self._link.receive(parts[0].buffer)
                except FaultyPeer as error:
                    self._inbox.refuse(error)
                else:
                    if frame is not None:
                        self._inbox.put(frame, len(frame))
            self._flush(now)
        return not self._inbox.full

    def _flush(self, now: float) -> bool:
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            packet = self._link.next_packet(now)
            if packet is None:
                return self._deadline is not None and not self._link.idle
            try:
                self._socket.send(packet, flags=zmq.DONTWAIT)
            except zmq.Again:  # the connection has ended since the socket was asked; the next begins a session anew
                self._link.lost()
                break
        return self._deadline is None or not self._link.idle

    def _release(self) -> None:
        """Nothing."""


def _user_of(packet: zmq.Frame) -> str:
    """The key that the ZAP handler has vouched for; empty if none has."""
    try:
        return str(packet.get("User-Id"))
    except zmq.ZMQError:
        return ""
