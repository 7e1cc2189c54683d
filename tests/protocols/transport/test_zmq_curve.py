"""Who gets in, over real sockets on loopback, and what is left behind. The rest is in test_contract.py."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import BadSignature, UnexpectedMessage, WrongRoster
from protocols.handshake import Offered, Party
from protocols.link import initiator
from protocols.session import MAXIMUM_PACKET
from protocols.transport.zmq_curve import CurveClient, CurveServer

MAXIMUM = 1 << 20
SOON = 20.0
REFUSED = 0.7  # seconds in which a handshake on loopback would long have succeeded


@pytest.fixture
def server(parties: dict[str, Party]) -> Iterator[CurveServer]:
    made = CurveServer(parties["hub"], maximum=MAXIMUM)
    yield made
    made.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """For the sockets of those who do not use ours."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made.linger = 0  # for every socket, also one that goes away before the end
    yield made
    made.destroy()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for frames that a refused client still holds."""
    monkeypatch.setattr("protocols.transport.zmq_endpoint._LINGER_MS", 0)


class Door:
    """What becomes of a client that knocks. An empty inbox proves nothing: whoever lets all in has one too."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._endpoint = endpoint
        self._monitor = self._socket.get_monitor_socket()
        self.patience = SOON

    def curve(self, public: bytes, secret: bytes, server: bytes) -> int:
        self._socket.curve_publickey, self._socket.curve_secretkey = public, secret
        self._socket.curve_serverkey = server
        return self.knock()

    def member(self, party: Party) -> int:
        """By the channel key of `party`, as one who believes its roster."""
        own, hub = party.identity, party.roster.members["hub"]
        return self.curve(own.public.channel, own.channel_key, hub.channel)

    def password(self, name: bytes, password: bytes) -> int:
        self._socket.plain_username, self._socket.plain_password = name, password
        return self.knock()

    def knock(self) -> int:
        """The event that ended the handshake. It is the server's: that a client gives nothing away is its own test."""
        self._socket.connect(self._endpoint)
        with contextlib.suppress(zmq.Again):  # refused already: a send would wait for ever
            self._socket.send(b"let me in", zmq.DONTWAIT)
        return self.event(_HANDSHAKES)

    def event(self, wanted: int) -> int:
        """The next of `wanted`; 0 if none comes."""
        until = time.monotonic() + self.patience
        while self._monitor.poll(max(0, int(1000 * (until - time.monotonic())))):
            event = int(recv_monitor_message(self._monitor)["event"])
            if event & wanted:
                return event
        return 0


_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


_NO_CURVE = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)  # whichever end sees it first


@pytest.fixture
def door(server: CurveServer, context: zmq.Context[zmq.Socket[bytes]]) -> Door:
    return Door(context, server.endpoint)


def test_a_members_key_is_let_in(server: CurveServer, door: Door, parties: dict[str, Party]) -> None:
    assert door.member(parties["north"]) == zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert server.poll(0.1) == []  # and has said nothing that means anything


def test_an_unknown_key_is_refused_and_never_seen(server: CurveServer, door: Door, parties: dict[str, Party]) -> None:
    stranger = parties["north"]._replace(identity=Identity.generate())
    assert door.member(stranger) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert server.poll(0.1) == []


def test_the_coordinators_own_key_is_no_clients(server: CurveServer, door: Door, parties: dict[str, Party]) -> None:
    assert door.member(parties["hub"]) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert server.poll(0.1) == []


def test_a_members_sealing_key_is_not_a_channel_key(
    server: CurveServer, door: Door, identities: dict[str, Identity], parties: dict[str, Party]
) -> None:
    signing, sealing, _ = identities["north"].raw
    crossed = parties["north"]._replace(identity=Identity(signing, bytes(32), sealing))
    assert door.member(crossed) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert server.poll(0.1) == []


def test_a_client_without_a_key_is_refused(server: CurveServer, door: Door) -> None:
    assert door.knock() in _NO_CURVE
    assert server.poll(0.1) == []


def test_a_password_is_no_key(server: CurveServer, door: Door) -> None:
    assert door.password(b"north", b"password") in _NO_CURVE
    assert server.poll(0.1) == []


def test_without_its_doorkeeper_a_server_lets_nobody_in(
    server: CurveServer, door: Door, parties: dict[str, Party]
) -> None:
    server._door.stop()
    door.patience = 1.0
    assert door.member(parties["north"]) in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 0)  # 0: still asking
    assert server.poll(0.1) == []


def test_who_was_let_in_by_no_doorkeeper_is_hung_up_on(
    parties: dict[str, Party], context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A libzmq that does not know the option: what comes then has no User-Id."""
    setting = zmq.Socket.setsockopt

    def forgetful(socket: zmq.Socket[bytes], option: int, value: int | bytes) -> None:
        if option != zmq.ZAP_ENFORCE_DOMAIN:
            setting(socket, option, value)

    monkeypatch.setattr(zmq.Socket, "setsockopt", forgetful)
    server = CurveServer(parties["hub"], maximum=MAXIMUM)
    server._door.stop()
    _until_unbound(server._door.context, "inproc://zeromq.zap.01")
    door = Door(context, server.endpoint)
    assert door.member(parties["north"]) == zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert door.event(zmq.EVENT_DISCONNECTED) == zmq.EVENT_DISCONNECTED
    assert server.poll(0.1) == []
    server.close()


def _until_unbound(context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
    """libzmq lets go of a closed socket's address in a thread of its own: until then a handshake asks who is gone."""
    probe = context.socket(zmq.REP)
    deadline = time.monotonic() + SOON
    while True:
        try:
            probe.bind(address)
        except zmq.ZMQError:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            break
    probe.unbind(address)  # at once, unlike `close`
    probe.close()


@pytest.mark.usefixtures("hasty")
def test_a_client_gives_nothing_to_another_server(
    roster: Roster, parties: dict[str, Party], context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    impostor = Identity.generate()
    false_roster = Roster("hub", {**roster.members, "hub": impostor.public})
    false_server = CurveServer(parties["hub"]._replace(identity=impostor, roster=false_roster), maximum=MAXIMUM)
    assert Door(context, false_server.endpoint).member(parties["north"]) == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=false_server.endpoint)
    north.send(b"for the real hub")
    assert false_server.poll(REFUSED) == []
    assert not int(north._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT  # it has nobody to give it to
    false_server.send("north", b"from the false hub")
    assert north.poll(REFUSED) == []
    north.close()
    false_server.close()


def test_a_server_lets_in_its_own_rosters_sites_only(
    roster: Roster, parties: dict[str, Party], context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    smaller = Roster("hub", {name: roster.members[name] for name in ("hub", "north")})
    server = CurveServer(parties["hub"]._replace(roster=smaller), maximum=MAXIMUM)
    assert Door(context, server.endpoint).member(parties["south"]) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert Door(context, server.endpoint).member(parties["north"]) == zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert server.poll(0.1) == []
    server.close()


def test_only_the_coordinator_can_be_the_server(parties: dict[str, Party]) -> None:
    with pytest.raises(ValueError, match="not the coordinator's"):
        CurveServer(parties["north"], maximum=MAXIMUM)


class Raw:
    """A socket of somebody who has a member's keys and does with a connection what our clients do not."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], party: Party, endpoint: str, routing_id: bytes = b""
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        if routing_id:
            self.socket.routing_id = routing_id
        self.socket.curve_secretkey = party.identity.channel_key
        self.socket.curve_publickey = party.identity.public.channel
        self.socket.curve_serverkey = party.roster.members["hub"].channel
        self.socket.connect(endpoint)
        self.link = initiator(party, MAXIMUM)
        self.arrived: list[bytes] = []

    def pump(self, seconds: float) -> list[bytes]:
        """Say what there is to say, and hear what comes meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            while (packet := self.link.next_packet(time.monotonic())) is not None:
                self.socket.send(packet)
            if self.socket.poll(20):
                frame = self.link.receive(self.socket.recv())
                self.arrived += [] if frame is None else [frame]
        return self.arrived

    def open(self, frame: bytes) -> None:
        self.link.send(frame)
        until = time.monotonic() + SOON
        while not self.link.idle and time.monotonic() < until:
            self.pump(0.05)


def test_a_routing_id_proves_nothing(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    """South calls its connection `north`, before and after north itself is there."""
    liar = Raw(context, parties["south"], server.endpoint, b"north")
    liar.open(b"I am north")
    assert server.poll(SOON) == [("south", b"I am north")]
    server.send("north", b"for north only")
    assert liar.pump(REFUSED) == []
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"no, I am")
    assert server.poll(SOON) == [("north", b"no, I am")]
    server.send("north", b"for north only")
    assert north.poll(SOON) == [b"for north only"]
    assert liar.pump(0.1) == []
    north.close()


def test_a_packet_of_several_parts_is_not_a_packet(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    odd = Raw(context, parties["south"], server.endpoint)
    odd.socket.send_multipart([b"north", b"two parts"])
    odd.open(b"one part")
    assert server.poll(SOON) == [("south", b"one part")]


def test_a_channel_key_without_the_signing_key_says_nothing(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    """CURVE lets it in; the session, and with it every frame, wants the signature."""
    signing, sealing, channel = Identity.generate().raw[0], *parties["south"].identity.raw[1:]
    thief = Raw(context, parties["south"]._replace(identity=Identity(signing, sealing, channel)), server.endpoint)
    thief.link.send(b"let me in")
    thief.pump(REFUSED)
    assert server.poll(0) == []
    assert [(error.peer, type(error)) for error in server.refusals()] == [("south", BadSignature)]


def test_a_packet_over_the_limit_ends_the_connection_before_it_is_looked_at(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    rude = Raw(context, parties["south"], server.endpoint)
    rude.open(b"hello")
    assert server.poll(SOON) == [("south", b"hello")]
    monitor = rude.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    rude.socket.send(bytes(MAXIMUM_PACKET + 1))
    assert monitor.poll(SOON * 1000)
    assert server.poll(0) == []
    assert server.refusals() == []


def test_revocation_ends_a_live_connection_at_once(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    revoked, other = (Raw(context, parties[name], server.endpoint) for name in ("south", "north"))
    for name, raw in (("south", revoked), ("north", other)):
        raw.open(b"here")
        assert server.poll(SOON) == [(name, b"here")]
    monitor = revoked.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    revoked.link.send(b"a frame that is under way")
    began = time.monotonic()
    server.revoke("south")
    assert monitor.poll(1000)
    assert time.monotonic() - began < 1
    revoked.pump(REFUSED)  # connects anew, and is not let in
    assert server.poll(0) == []
    server.send("south", b"x")
    other.open(b"still here")
    assert server.poll(SOON) == [("north", b"still here")]


@pytest.mark.parametrize("packet", [[b"\xff"], [b"two", b"parts"], [b"\x03" + bytes(40)]])
def test_revocation_ends_every_connection_of_a_key(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party], packet: list[bytes]
) -> None:
    route = Raw(context, parties["south"], server.endpoint)
    route.open(b"here")
    assert server.poll(SOON) == [("south", b"here")]
    others = [Raw(context, parties["south"], server.endpoint) for _ in range(10)]
    for raw in others:
        raw.socket.send_multipart(packet)
    monitors = [raw.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for raw in (route, *others)]
    deadline = time.monotonic() + SOON
    while len(server._connections.of("south")) < 11 and time.monotonic() < deadline:
        time.sleep(0.02)
    server.revoke("south")
    assert [monitor.poll(1000) for monitor in monitors] == [1] * 11


@pytest.mark.parametrize("packet", [[b"\xff"], [b"two", b"parts"], [b"\x03" + bytes(40)]])
def test_who_talks_and_makes_no_offer_is_hung_up_on(
    server: CurveServer,
    context: zmq.Context[zmq.Socket[bytes]],
    parties: dict[str, Party],
    monkeypatch: pytest.MonkeyPatch,
    packet: list[bytes],
) -> None:
    monkeypatch.setattr("protocols.transport.connections.GRACE_S", 0.3)
    joined, talker = (Raw(context, parties[name], server.endpoint) for name in ("north", "south"))
    joined.open(b"here")
    assert server.poll(SOON) == [("north", b"here")]
    monitors = [raw.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) for raw in (joined, talker)]
    talker.socket.send_multipart(packet)
    assert monitors[1].poll(SOON * 1000)
    assert not monitors[0].poll(500)


def left_behind(server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], party: Party) -> None:
    """An offer of a connection that is over before it is read. Called while the server's thread waits."""
    raw = Raw(context, party, server.endpoint)
    raw.socket.send(Offered(party).packet)
    time.sleep(0.3)
    raw.socket.close(linger=0)
    time.sleep(0.3)


def test_what_a_dead_connection_left_behind_ends_nobody_elses(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    """The system gives the number of its descriptor to the next who connects."""
    with server._lock:
        left_behind(server, context, parties["south"])
        north = Raw(context, parties["north"], server.endpoint)
        monitor = north.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        north.socket.send(b"\xff")
        time.sleep(0.3)
    north.open(b"here")
    assert server.poll(SOON) == [("north", b"here")]
    server.revoke("south")
    assert not monitor.poll(500)
    server.send("north", b"still there")
    assert north.pump(0.5) == [b"still there"]


def test_what_a_dead_connection_left_behind_displaces_no_living_one(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    north = Raw(context, parties["north"], server.endpoint)
    north.open(b"here")
    assert server.poll(SOON) == [("north", b"here")]
    monitor = north.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    with server._lock:
        left_behind(server, context, parties["north"])
    assert not monitor.poll(500)
    server.send("north", b"still there")
    assert north.pump(0.5) == [b"still there"]


@pytest.mark.usefixtures("hasty")
def test_a_roster_without_a_site_ends_its_connection_and_one_with_it_lets_it_in(
    server: CurveServer, roster: Roster, parties: dict[str, Party]
) -> None:
    south = CurveClient(parties["south"], maximum=MAXIMUM, endpoint=server.endpoint)
    south.send(b"here")
    assert server.poll(SOON) == [("south", b"here")]
    server.accept(Roster("hub", {name: roster.members[name] for name in ("hub", "north")}))
    south.send(b"and now?")
    assert server.poll(REFUSED) == []
    server.accept(roster)
    deadline = time.monotonic() + 3 * SOON
    while not (arrived := server.poll(0.2)) and time.monotonic() < deadline:
        south.send(b"again")
    assert {name for name, _ in arrived} == {"south"}  # also what waited for it meanwhile
    south.close()


@pytest.mark.usefixtures("hasty")
def test_a_site_with_new_keys_is_let_in_by_them_alone(
    server: CurveServer, door: Door, roster: Roster, parties: dict[str, Party]
) -> None:
    rotated = Identity.generate()
    changed = Roster("hub", {**roster.members, "south": rotated.public})
    server.accept(changed)
    assert door.member(parties["south"]) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    new = CurveClient(
        parties["south"]._replace(identity=rotated, roster=changed), maximum=MAXIMUM, endpoint=server.endpoint
    )
    new.send(b"by the new keys")
    assert server.poll(SOON) == [("south", b"by the new keys")]
    new.close()


@pytest.mark.usefixtures("hasty")
def test_who_acts_on_another_roster_is_refused_by_name(
    server: CurveServer, roster: Roster, parties: dict[str, Party]
) -> None:
    larger = Roster("hub", {**roster.members, "west": Identity.generate().public})
    south = CurveClient(parties["south"]._replace(roster=larger), maximum=MAXIMUM, endpoint=server.endpoint)
    south.send(b"here")
    assert server.poll(REFUSED) == []
    assert {(error.peer, type(error)) for error in server.refusals()} == {("south", WrongRoster)}
    assert {(error.peer, type(error)) for error in south.refusals()} == {("hub", WrongRoster)}
    south.close()


@pytest.mark.usefixtures("hasty")
def test_a_site_follows_its_coordinator_to_new_keys(parties: dict[str, Party], roster: Roster) -> None:
    rotated = Identity.generate()
    changed = Roster("hub", {**roster.members, "hub": rotated.public})
    server = CurveServer(parties["hub"], maximum=MAXIMUM)
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"to the old keys")
    assert server.poll(SOON) == [("north", b"to the old keys")]
    server.close()
    server = CurveServer(
        parties["hub"]._replace(identity=rotated, roster=changed, boot=2), maximum=MAXIMUM, endpoint=server.endpoint
    )
    north.send(b"to the new keys")
    assert server.poll(REFUSED) == []
    north.accept(changed)
    assert server.poll(SOON) == [("north", b"to the new keys")]
    north.close()
    server.close()


def test_a_key_has_one_connection(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    first = Raw(context, parties["south"], server.endpoint)
    first.open(b"first")
    monitor = first.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    assert server.poll(SOON) == [("south", b"first")]
    many = [Raw(context, parties["south"], server.endpoint) for _ in range(5)]
    for raw in many:
        raw.open(b"next")
        assert server.poll(SOON) == [("south", b"next")]
    assert monitor.poll(1000)


def test_who_connects_and_says_nothing_is_hung_up_on(
    server: CurveServer, parties: dict[str, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transport.connections.GRACE_S", 0.2)
    with socket.create_connection(("127.0.0.1", int(server.endpoint.rpartition(":")[2]))) as quiet:
        quiet.settimeout(SOON)
        while quiet.recv(1024):
            pass  # libzmq's greeting, and then the end


def test_a_crowd_that_says_nothing_is_thinned(
    server: CurveServer, parties: dict[str, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transport.connections.WAITING", 4)
    address = ("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
    crowd = [socket.create_connection(address) for _ in range(12)]
    closed = 0
    for end in crowd:
        end.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            while end.recv(1024):
                pass
            closed += 1
    assert closed == 8
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"in the crowd")
    assert server.poll(SOON) == [("north", b"in the crowd")]
    for end in crowd:
        end.close()
    north.close()


def test_who_begins_handshakes_without_end_is_hung_up_on(
    server: CurveServer,
    context: zmq.Context[zmq.Socket[bytes]],
    parties: dict[str, Party],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("protocols.transport.connections.OFFERS", 5)
    flood = Raw(context, parties["south"], server.endpoint)
    monitor = flood.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    for _ in range(6):
        flood.socket.send(Offered(parties["south"]).packet)
    assert monitor.poll(SOON * 1000)
    assert server.poll(0.2) == []
    assert {(error.peer, type(error)) for error in server.refusals()} == {("south", UnexpectedMessage)}
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"not held up")
    assert server.poll(SOON) == [("north", b"not held up")]
    north.close()


def test_a_site_connects_anew_every_day(
    server: CurveServer, parties: dict[str, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.transport.zmq_curve._DAY_S", 0.5)
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    routes = set()
    deadline = time.monotonic() + 3 * SOON
    while len(routes) < 3 and time.monotonic() < deadline:
        north.send(b"x")
        server.poll(0.1)
        routes |= {route.id for route in server._routes.values()}
    assert len(routes) >= 3
    north.close()


def test_a_client_finds_a_server_that_was_restarted(parties: dict[str, Party]) -> None:
    server = CurveServer(parties["hub"], maximum=MAXIMUM)
    endpoint = server.endpoint
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=endpoint)
    north.send(b"first")
    assert server.poll(SOON) == [("north", b"first")]
    server.close()
    server = CurveServer(parties["hub"], maximum=MAXIMUM, endpoint=endpoint)
    arrived: list[tuple[str, bytes]] = []
    deadline = time.monotonic() + 2 * SOON
    while not arrived and time.monotonic() < deadline:  # frames may be lost in between: the protocol sends again
        north.send(b"second")
        arrived = server.poll(0.2)
    assert ("north", b"second") in arrived
    server.send("north", b"back")
    assert north.poll(SOON) == [b"back"]
    north.close()
    server.close()


def test_a_connection_that_ends_before_a_packet_is_sent_is_no_failure(
    parties: dict[str, Party], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket takes packets when it is asked, and none any more when the next one is sealed."""
    server = CurveServer(parties["hub"], maximum=MAXIMUM)
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"first")
    assert server.poll(SOON) == [("north", b"first")]
    seal = north._link.next_packet

    def slowly(now: float) -> bytes | memoryview | None:
        packet = seal(now)
        if packet is not None:
            server.close()
            time.sleep(0.3)
        return packet

    monkeypatch.setattr(north._link, "next_packet", slowly)
    north.send(bytes(MAXIMUM))
    time.sleep(1)
    monkeypatch.setattr(north._link, "next_packet", seal)
    again = CurveServer(parties["hub"], maximum=MAXIMUM, endpoint=server.endpoint)
    arrived: list[tuple[str, bytes]] = []
    deadline = time.monotonic() + 2 * SOON
    while ("north", b"second") not in arrived and time.monotonic() < deadline:
        assert north.poll(0) == []  # would raise
        north.send(b"second")
        arrived += again.poll(0.2)
    assert ("north", b"second") in arrived
    north.close()
    again.close()


def test_a_client_may_come_before_its_server(parties: dict[str, Party]) -> None:
    first = CurveServer(parties["hub"], maximum=MAXIMUM)
    endpoint = first.endpoint
    first.close()
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=endpoint)
    north.send(b"early")
    time.sleep(0.2)
    server = CurveServer(parties["hub"], maximum=MAXIMUM, endpoint=endpoint)
    assert server.poll(SOON) == [("north", b"early")]
    north.close()
    server.close()


def test_the_newest_connection_of_a_name_is_the_one_that_is_answered(
    server: CurveServer, context: zmq.Context[zmq.Socket[bytes]], parties: dict[str, Party]
) -> None:
    """A site that was restarted is reached although its old connection has not been noticed as dead."""
    old = Raw(context, parties["north"], server.endpoint)
    old.open(b"old")
    assert server.poll(SOON) == [("north", b"old")]
    new = CurveClient(parties["north"]._replace(boot=2), maximum=MAXIMUM, endpoint=server.endpoint)
    new.send(b"new")
    assert server.poll(SOON) == [("north", b"new")]
    server.send("north", b"answer")
    assert new.poll(SOON) == [b"answer"]
    assert old.pump(0.1) == []
    new.close()


def test_a_site_of_an_earlier_start_can_be_told_so(server: CurveServer, parties: dict[str, Party]) -> None:
    """A folder that was put back to an older copy: the coordinator has seen a later start, and says it."""
    new = CurveClient(parties["north"]._replace(boot=2), maximum=MAXIMUM, endpoint=server.endpoint)
    new.send(b"new")
    assert server.poll(SOON) == [("north", b"new")]
    new.close()
    old = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    old.send(b"old")
    assert server.poll(SOON) == [("north", b"old")]
    server.send("north", b"restored")
    assert old.poll(SOON) == [b"restored"]
    assert server.refusals() == []
    old.close()


def test_a_route_that_leads_nowhere_is_forgotten(server: CurveServer, parties: dict[str, Party]) -> None:
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"here")
    assert server.poll(SOON) == [("north", b"here")]
    north.close()
    deadline = time.monotonic() + SOON
    while "north" in server._routes and time.monotonic() < deadline:
        server.send("north", b"x")
        time.sleep(0.02)
    assert "north" not in server._routes


def test_a_port_in_use_is_an_error_and_leaves_nothing(server: CurveServer, parties: dict[str, Party]) -> None:
    before = _held()
    with pytest.raises(zmq.ZMQError, match="in use"):
        CurveServer(parties["hub"], maximum=MAXIMUM, endpoint=server.endpoint)
    with pytest.raises(zmq.ZMQError):
        CurveClient(parties["north"], maximum=MAXIMUM, endpoint="nonsense")
    assert _settled(before) == before


def test_closing_leaves_no_thread_and_no_socket(roster: Roster, parties: dict[str, Party]) -> None:
    before = _held()
    for _ in range(3):
        server = CurveServer(parties["hub"], maximum=MAXIMUM)
        clients = [CurveClient(parties[name], maximum=MAXIMUM, endpoint=server.endpoint) for name in roster.sites]
        for client in clients:
            client.send(b"here")
        assert server.poll(SOON)
        assert _held() != before
        for end in (*clients, server):
            end.close()
    assert _settled(before) == before


def test_what_was_just_sent_leaves_before_the_end(server: CurveServer, parties: dict[str, Party]) -> None:
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(bytes(MAXIMUM))
    north.close()
    assert server.poll(SOON) == [("north", bytes(MAXIMUM))]


def test_closing_does_not_wait_for_who_never_answers(parties: dict[str, Party]) -> None:
    north = CurveClient(parties["north"], maximum=MAXIMUM, endpoint="tcp://127.0.0.1:9")
    north.send(b"nobody listens")
    began = time.monotonic()
    north.close()
    assert time.monotonic() - began < SOON


def _held() -> tuple[int, int]:
    """Threads and open files of this process."""
    gc.collect()
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def _settled(goal: tuple[int, int]) -> tuple[int, int]:
    """What is held once the operating system has caught up; libzmq's own threads show as files."""
    deadline = time.monotonic() + SOON
    while _held() != goal and time.monotonic() < deadline:
        time.sleep(0.05)
    return _held()


def test_this_machine_counts_threads_and_files() -> None:
    assert Path("/proc/self/fd").is_dir()
