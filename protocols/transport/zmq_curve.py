"""ZeroMQ over CURVE: ROUTER at the coordinator, DEALER at a site. Sites dial out; one host and port is all they need.

CURVE encrypts a connection and proves both ends' channel keys. A ZAP handler (RFC 27) that knows the roster's site keys
and nothing else decides who may connect; a name is then read from the authenticated User-Id of every frame. A routing
id proves nothing, its client chooses it: it serves only to address the connection that a frame came by.
"""

from __future__ import annotations

import errno
from typing import Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from keys.encoding import z85
from keys.identity import Identity
from keys.roster import Roster

_DOMAIN: Final = "fedsecure"
_BATCH: Final = 64  # frames that one poll hands out at most, so that a flood cannot fill the memory
_SERVER_QUEUE: Final = 256  # frames waiting for one site: a round's model and a bank of every other site
_CLIENT_QUEUE: Final = 64
_INBOUND_QUEUE: Final = 16  # frames of one connection not yet polled; beyond, TCP holds the sender back
_CURVE_OVERHEAD: Final = 33  # bytes a CurveZMQ MESSAGE adds; libzmq's limit is on what is on the wire
_HEARTBEAT_MS: Final = 5_000
_SILENCE_MS: Final = 15_000  # a connection silent for so long is dropped
_HANDSHAKE_MS: Final = 5_000
_RECONNECT_MS: Final = 100
_RECONNECT_MAXIMUM_MS: Final = 5_000
_LINGER_MS: Final = 2_000  # how long `close` waits for frames just sent


class CurveServer:
    """See `ServerTransport`. Accepts the sites of the roster and nobody else."""

    def __init__(
        self, identity: Identity, roster: Roster, *, maximum: int, endpoint: str = "tcp://127.0.0.1:*"
    ) -> None:
        """Bind. maximum: bytes of a frame; a connection that sends a larger one is dropped.

        Raises ValueError if `identity` is not the coordinator's; zmq.ZMQError if the endpoint cannot be bound.
        """
        if roster.members[roster.coordinator] != identity.public:
            raise ValueError("the server's identity is not the coordinator's of this roster")
        self._names = {z85(roster.members[site].channel): site for site in roster.sites}
        self._routes: dict[str, bytes] = {}  # name -> routing id of the connection its last frame came by
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._door = ThreadAuthenticator(self._context)
        try:
            self._door.start()
            self._door.configure_curve_callback(_DOMAIN, _Doorkeeper(frozenset(self._names)))
            _configure(self._socket, identity, maximum, queue=_SERVER_QUEUE)
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

    @property
    def endpoint(self) -> str:
        return self._endpoint

    def send(self, peer: str, frame: bytes) -> None:
        route = self._routes.get(peer)
        if route is None:
            return
        try:
            self._socket.send_multipart([route, frame], flags=zmq.DONTWAIT)
        except zmq.Again:
            return  # it does not keep up
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            del self._routes[peer]  # it has gone; its next frame brings a new route

    def poll(self, timeout: float) -> list[tuple[str, bytes]]:
        frames: list[tuple[str, bytes]] = []
        for parts in _receive(self._socket, timeout):
            if len(parts) != 2:
                continue  # a frame is one part behind the routing id that ROUTER puts in front
            # The handler let in only keys of `_names`: a KeyError is a bug, and must not pass for a peer.
            name = self._names[str(parts[1].get("User-Id"))]
            self._routes[name] = parts[0].bytes
            frames.append((name, parts[1].bytes))
        return frames

    def close(self) -> None:
        if not self._context.closed:
            self._socket.close()
            self._door.stop()
            self._context.term()


class CurveClient:
    """See `ClientTransport`. Speaks to the owner of the coordinator's channel key, whoever answers at the endpoint.

    It connects in the background and again whenever the connection is lost.
    """

    def __init__(self, identity: Identity, roster: Roster, *, maximum: int, endpoint: str) -> None:
        """maximum: bytes of a frame. Raises zmq.ZMQError if `endpoint` is not one."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        try:
            _configure(self._socket, identity, maximum, queue=_CLIENT_QUEUE)
            self._socket.curve_serverkey = roster.members[roster.coordinator].channel
            self._socket.connect(endpoint)
        except BaseException:
            self.close()
            raise

    def send(self, frame: bytes) -> None:
        try:
            self._socket.send(frame, flags=zmq.DONTWAIT)
        except zmq.Again:
            return

    def poll(self, timeout: float) -> list[bytes]:
        return [parts[0].bytes for parts in _receive(self._socket, timeout) if len(parts) == 1]

    def close(self) -> None:
        if not self._context.closed:
            self._socket.close()
            self._context.term()


class _Doorkeeper:
    """The ZAP handler's question, asked in its thread: may this channel key connect?"""

    def __init__(self, keys: frozenset[str]) -> None:
        self._keys = keys

    def callback(self, domain: str, key: bytes) -> bool:
        """domain: the server's; key: Z85 text of the key whose possession the client has proved."""
        return domain == _DOMAIN and key.decode("ascii") in self._keys


def _configure(socket: zmq.Socket[bytes], identity: Identity, maximum: int, *, queue: int) -> None:
    """Keys and limits, all of which must be set before the socket binds or connects."""
    socket.curve_publickey = identity.public.channel
    socket.curve_secretkey = identity.channel_key
    socket.maxmsgsize = maximum + _CURVE_OVERHEAD
    socket.sndhwm = queue
    socket.rcvhwm = _INBOUND_QUEUE
    socket.handshake_ivl = _HANDSHAKE_MS
    socket.heartbeat_ivl = _HEARTBEAT_MS
    socket.heartbeat_timeout = _SILENCE_MS
    socket.heartbeat_ttl = _SILENCE_MS
    socket.reconnect_ivl = _RECONNECT_MS
    socket.reconnect_ivl_max = _RECONNECT_MAXIMUM_MS
    socket.linger = _LINGER_MS


def _receive(socket: zmq.Socket[bytes], timeout: float) -> list[list[zmq.Frame]]:
    """Up to _BATCH multipart messages; waits up to `timeout` seconds for the first."""
    messages: list[list[zmq.Frame]] = []
    if not socket.poll(max(0, round(timeout * 1000))):
        return messages
    try:
        while len(messages) < _BATCH:
            messages.append(socket.recv_multipart(zmq.DONTWAIT, copy=False))
    except zmq.Again:
        pass
    return messages
