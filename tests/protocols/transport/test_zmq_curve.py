"""Who gets in, over real sockets on loopback, and what is left behind. The rest is in test_contract.py."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from keys.identity import Identity
from keys.roster import Roster
from protocols.transport.zmq_curve import CurveClient, CurveServer

MAXIMUM = 1 << 20
SOON = 5.0
REFUSED = 0.7  # seconds in which a handshake on loopback would long have succeeded


@pytest.fixture
def server(identities: dict[str, Identity], roster: Roster) -> Iterator[CurveServer]:
    made = CurveServer(identities["hub"], roster, maximum=MAXIMUM)
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
    monkeypatch.setattr("protocols.transport.zmq_curve._LINGER_MS", 0)


@pytest.mark.usefixtures("hasty")
def test_an_unknown_key_is_refused_and_never_seen(server: CurveServer, roster: Roster) -> None:
    stranger = CurveClient(Identity.generate(), roster, maximum=MAXIMUM, endpoint=server.endpoint)
    stranger.send(b"let me in")
    assert server.poll(REFUSED) == []
    assert stranger.poll(0) == []
    stranger.close()


@pytest.mark.usefixtures("hasty")
def test_the_coordinators_own_key_is_no_clients(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    mirror = CurveClient(identities["hub"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    mirror.send(b"reflected")
    assert server.poll(REFUSED) == []
    mirror.close()


@pytest.mark.usefixtures("hasty")
def test_a_members_sealing_key_is_not_a_channel_key(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    signing, sealing, _ = identities["north"].raw
    crossed = CurveClient(Identity(signing, bytes(32), sealing), roster, maximum=MAXIMUM, endpoint=server.endpoint)
    crossed.send(b"let me in")
    assert server.poll(REFUSED) == []
    crossed.close()


def test_a_client_without_a_key_is_refused(server: CurveServer, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    plain = context.socket(zmq.DEALER)
    plain.connect(server.endpoint)
    plain.send(b"in the clear")
    assert server.poll(REFUSED) == []


def test_a_password_is_no_key(server: CurveServer, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    plain = context.socket(zmq.DEALER)
    plain.plain_username, plain.plain_password = b"north", b"password"
    plain.connect(server.endpoint)
    plain.send(b"by password")
    assert server.poll(REFUSED) == []


@pytest.mark.usefixtures("hasty")
def test_without_its_doorkeeper_a_server_lets_nobody_in(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    server._door.stop()
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"anybody there?")
    assert server.poll(REFUSED) == []
    north.close()


@pytest.mark.usefixtures("hasty")
def test_a_client_gives_nothing_to_another_server(roster: Roster, identities: dict[str, Identity]) -> None:
    impostor = Identity.generate()
    false_roster = Roster("hub", {**roster.members, "hub": impostor.public})
    false_server = CurveServer(impostor, false_roster, maximum=MAXIMUM)
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=false_server.endpoint)
    north.send(b"for the real hub")
    assert false_server.poll(REFUSED) == []
    false_server.send("north", b"from the false hub")
    assert north.poll(REFUSED) == []
    north.close()
    false_server.close()


@pytest.mark.usefixtures("hasty")
def test_a_server_lets_in_its_own_rosters_sites_only(roster: Roster, identities: dict[str, Identity]) -> None:
    smaller = Roster("hub", {name: roster.members[name] for name in ("hub", "north")})
    server = CurveServer(identities["hub"], smaller, maximum=MAXIMUM)
    south = CurveClient(identities["south"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    south.send(b"not here")
    assert server.poll(REFUSED) == []
    south.close()
    server.close()


def test_only_the_coordinator_can_be_the_server(roster: Roster, identities: dict[str, Identity]) -> None:
    with pytest.raises(ValueError, match="not the coordinator's"):
        CurveServer(identities["north"], roster, maximum=MAXIMUM)


def test_a_routing_id_proves_nothing(
    server: CurveServer, roster: Roster, identities: dict[str, Identity], context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    """South calls its connection `north`, before and after north itself is there."""
    liar = context.socket(zmq.DEALER)
    liar.routing_id = b"north"
    liar.curve_secretkey, liar.curve_publickey = identities["south"].channel_key, roster.members["south"].channel
    liar.curve_serverkey = roster.members["hub"].channel
    liar.connect(server.endpoint)
    liar.send(b"I am north")
    assert server.poll(SOON) == [("south", b"I am north")]
    server.send("north", b"for north only")
    assert liar.poll(int(REFUSED * 1000)) == 0
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"no, I am")
    assert server.poll(SOON) == [("north", b"no, I am")]
    server.send("north", b"for north only")
    assert north.poll(SOON) == [b"for north only"]
    assert liar.poll(0) == 0
    north.close()


def test_a_frame_of_several_parts_is_not_a_frame(
    server: CurveServer, roster: Roster, identities: dict[str, Identity], context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    odd = context.socket(zmq.DEALER)
    odd.curve_secretkey, odd.curve_publickey = identities["south"].channel_key, roster.members["south"].channel
    odd.curve_serverkey = roster.members["hub"].channel
    odd.connect(server.endpoint)
    odd.send_multipart([b"north", b"two parts"])
    odd.send(b"one part")
    assert server.poll(SOON) == [("south", b"one part")]


def test_a_client_finds_a_server_that_was_restarted(roster: Roster, identities: dict[str, Identity]) -> None:
    server = CurveServer(identities["hub"], roster, maximum=MAXIMUM)
    endpoint = server.endpoint
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=endpoint)
    north.send(b"first")
    assert server.poll(SOON) == [("north", b"first")]
    server.close()
    server = CurveServer(identities["hub"], roster, maximum=MAXIMUM, endpoint=endpoint)
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


def test_a_client_may_come_before_its_server(roster: Roster, identities: dict[str, Identity]) -> None:
    first = CurveServer(identities["hub"], roster, maximum=MAXIMUM)
    endpoint = first.endpoint
    first.close()
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=endpoint)
    north.send(b"early")
    time.sleep(0.2)
    server = CurveServer(identities["hub"], roster, maximum=MAXIMUM, endpoint=endpoint)
    assert server.poll(SOON) == [("north", b"early")]
    north.close()
    server.close()


def test_the_newest_connection_of_a_name_is_the_one_that_is_answered(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    """A site that was restarted is reached although its old connection has not been noticed as dead."""
    old, new = (CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=server.endpoint) for _ in "12")
    for client, frame in ((old, b"old"), (new, b"new")):
        client.send(frame)
        assert server.poll(SOON) == [("north", frame)]
    server.send("north", b"answer")
    assert new.poll(SOON) == [b"answer"]
    assert old.poll(0) == []
    old.close()
    new.close()


def test_a_route_that_leads_nowhere_is_forgotten(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(b"here")
    assert server.poll(SOON) == [("north", b"here")]
    north.close()
    deadline = time.monotonic() + SOON
    while "north" in server._routes and time.monotonic() < deadline:
        server.send("north", b"x")
        time.sleep(0.02)
    assert "north" not in server._routes


def test_a_port_in_use_is_an_error_and_leaves_nothing(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    before = _held()
    with pytest.raises(zmq.ZMQError, match="in use"):
        CurveServer(identities["hub"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    with pytest.raises(zmq.ZMQError):
        CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint="nonsense")
    assert _settled(before) == before


def test_closing_leaves_no_thread_and_no_socket(roster: Roster, identities: dict[str, Identity]) -> None:
    before = _held()
    for _ in range(3):
        server = CurveServer(identities["hub"], roster, maximum=MAXIMUM)
        clients = [
            CurveClient(identities[name], roster, maximum=MAXIMUM, endpoint=server.endpoint) for name in roster.sites
        ]
        for client in clients:
            client.send(b"here")
        assert server.poll(SOON)
        assert _held() != before
        for end in (*clients, server):
            end.close()
    assert _settled(before) == before


def test_what_was_just_sent_leaves_before_the_end(
    server: CurveServer, roster: Roster, identities: dict[str, Identity]
) -> None:
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint=server.endpoint)
    north.send(bytes(MAXIMUM))
    north.close()
    assert server.poll(SOON) == [("north", bytes(MAXIMUM))]


def test_closing_does_not_wait_for_who_never_answers(roster: Roster, identities: dict[str, Identity]) -> None:
    north = CurveClient(identities["north"], roster, maximum=MAXIMUM, endpoint="tcp://127.0.0.1:9")
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
