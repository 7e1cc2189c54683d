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
from typing import Final, NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator

from keys.encoding import z85
from keys.roster import Roster
from protocols.errors import FaultyPeer, ProtocolError, UnexpectedMessage
from protocols.handshake import OFFER, Party
from protocols.link import RESET_SIZE, Initiator, Responder, reset_of
from protocols.session import Buffers
from protocols.transport.connections import Connection, Connections, Pace, hang_up
from protocols.transport.mailbox import Mailbox
from protocols.transport.switchboard import Switchboard
from protocols.transport.zmq_endpoint import Endpoint

_DOMAIN: Final = "fedsecure"
_INBOX: Final = 64  # frames waiting to be polled, and no more bytes than one of the largest; beyond, TCP holds back
_CLIENT_QUEUE: Final = 64  # frames of a site waiting for the connection
_REDIAL_S: Final = 5.0  # libzmq does not try again where it was refused; the roster may have let us in meanwhile
_REFUSED: Final = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
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
        self._routes: dict[str, _Route] = {}  # by name: the connection its last packet came by
        self._dirty: set[str] = set()  # names for which something may wait
        self._doorkeeper = _Doorkeeper()
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
        full = self._inbox.full
        frames = self._inbox.take(timeout)
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
        return self._inbox.refusals()

    def _hang_up(self, name: str) -> None:
        route = self._routes.pop(name, None)
        if route is not None:
            hang_up(route.connection)

    def _noticed(self, event: int, value: int, now: float) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._connections.accepted(value, now)
        elif event == zmq.EVENT_DISCONNECTED:
            self._connections.gone(value)

    def _housekeeping(self, now: float) -> None:
        for connection in self._connections.overdue(now):
            hang_up(connection)

    def _receive(self, now: float) -> bool:
        if not self._inbox.full:
            for parts in self._packets():
                self._take(parts, now)
        return not self._inbox.full

    def _take(self, parts: list[zmq.Frame], now: float) -> None:
        connection = self._connections.spoke(int(parts[-1].get(zmq.SRCFD)))
        # A key that is dismissed while it is connected still has this connection: nothing of it is looked at.
        name = self._doorkeeper.names.get(str(parts[-1].get("User-Id")))
        link = None if name is None else self._board.link(name)
        if name is None or link is None:
            hang_up(connection)
            return
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
        route, packet = self._routes.get(name), parts[1].buffer
        offers = packet[:1].tobytes() == OFFER
        if offers and not self._pace.allows(name, now):
            hang_up(connection)
            raise UnexpectedMessage(name, "a site begins no more handshakes than it could need")
        if route is not None and route.id == parts[0].bytes:
            return link.receive(packet)
        if not offers:
            # Left over from an earlier connection, or sent before this one was noticed to be new.
            reset = reset_of(packet[:RESET_SIZE].tobytes())
            if reset is not None:
                with contextlib.suppress(zmq.ZMQError):
                    self._socket.send_multipart([parts[0].bytes, reset], flags=zmq.DONTWAIT)
            return None
        link.welcome(packet.tobytes())
        self._hang_up(name)
        self._routes[name] = _Route(parts[0].bytes, connection)
        return None

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
                if error.errno not in (errno.EHOSTUNREACH, errno.EAGAIN):
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
        self._link = Initiator(party, coordinator, maximum=maximum, queue=_CLIENT_QUEUE, buffers=Buffers())
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
        full = self._inbox.full
        frames = self._inbox.take(timeout)
        if full:
            self._nudge()
        return frames

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
            self._socket.send(packet, flags=zmq.DONTWAIT)
        return self._deadline is None or not self._link.idle

    def _release(self) -> None:
        """Nothing."""


class _Route(NamedTuple):
    id: bytes  # of ROUTER, to address the connection
    connection: Connection


class _Doorkeeper:
    """The ZAP handler's question, asked in its thread: may this channel key connect?"""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # Z85 text of a channel key -> site; replaced and never changed

    def admit(self, roster: Roster, board: Switchboard) -> None:
        self.names = {z85(roster.members[site].channel): site for site in roster.sites if site in board.names}

    def dismiss(self, name: str) -> None:
        self.names = {key: other for key, other in self.names.items() if other != name}

    def callback(self, domain: str, key: bytes) -> bool:
        """domain: the server's; key: Z85 text of the key whose possession the client has proved."""
        return domain == _DOMAIN and key.decode("ascii") in self.names
