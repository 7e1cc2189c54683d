"""What every transport promises (`protocols.transport.base`), asked of each of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import WrongRoster
from protocols.handshake import Party
from protocols.transport.base import ClientTransport, ServerTransport
from protocols.transport.memory import MemoryHub
from protocols.transport.zmq_curve import CurveClient, CurveServer

MAXIMUM = 1 << 20
SOON = 20.0  # seconds in which loopback has delivered
NEVER = 0.3  # seconds after which nothing more is expected


class World:
    """One server, and clients by name, of one transport."""

    server: ServerTransport

    def __init__(self, client: Callable[[str], ClientTransport], server: ServerTransport) -> None:
        self._make, self.server = client, server
        self.made: list[ClientTransport] = []

    def client(self, name: str) -> ClientTransport:
        self.made.append(self._make(name))
        return self.made[-1]

    def joined(self, name: str) -> ClientTransport:
        """A client from which the server has heard."""
        client = self.client(name)
        client.send(b"here")
        assert self.server.poll(SOON) == [(name, b"here")]
        return client


@pytest.fixture(params=["memory", "zmq_curve"])
def world(
    request: pytest.FixtureRequest,
    parties: dict[str, Party],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    monkeypatch.setattr("protocols.transport.zmq_endpoint._LINGER_MS", 0)  # nobody here waits for the last frames
    if request.param == "memory":
        hub = MemoryHub(MAXIMUM)
        made = World(lambda name: hub.client(parties[name]), hub.server(parties["hub"]))
    else:
        server = CurveServer(parties["hub"], maximum=MAXIMUM)
        made = World(lambda name: CurveClient(parties[name], maximum=MAXIMUM, endpoint=server.endpoint), server)
    yield made
    for end in (*made.made, made.server):
        end.close()


def test_frames_arrive_whole_in_order_and_under_their_senders_name(world: World) -> None:
    clients = {name: world.client(name) for name in ("north", "south")}
    sent = {name: [name.encode() * size for size in (1, 1000, 0, 50_000)] for name in clients}
    for name, client in clients.items():
        for frame in sent[name]:
            client.send(frame)
    arrived: dict[str, list[bytes]] = {name: [] for name in clients}
    deadline = time.monotonic() + SOON
    while arrived != sent and time.monotonic() < deadline:
        for name, frame in world.server.poll(0.1):
            arrived[name].append(frame)
    assert arrived == sent


def test_the_server_reaches_the_one_it_names(world: World) -> None:
    north, south = world.joined("north"), world.joined("south")
    world.server.send("north", b"to north")
    world.server.send("south", b"to south")
    assert north.poll(SOON) == [b"to north"]
    assert south.poll(SOON) == [b"to south"]


def test_a_frame_of_the_maximum_passes_and_a_larger_one_does_not(world: World) -> None:
    north = world.joined("north")
    north.send(bytes(MAXIMUM))
    assert world.server.poll(SOON) == [("north", bytes(MAXIMUM))]
    north.send(bytes(MAXIMUM + 1))
    assert world.server.poll(NEVER) == []


def test_after_an_oversize_frame_the_others_go_on_and_so_does_its_sender(world: World) -> None:
    north, south = world.joined("north"), world.joined("south")
    north.send(bytes(MAXIMUM + 1))
    assert world.server.poll(NEVER) == []
    south.send(b"south")
    assert world.server.poll(SOON) == [("south", b"south")]
    north.send(b"again")
    assert world.server.poll(SOON) == [("north", b"again")]
    world.server.send("north", b"answer")
    assert north.poll(SOON) == [b"answer"]


def test_sending_to_who_is_away_is_silent_and_fast(world: World) -> None:
    began = time.monotonic()
    world.server.send("south", b"never seen")
    world.server.send("nobody", b"never seen")
    assert time.monotonic() - began < 1


def test_who_has_left_is_away(world: World) -> None:
    world.joined("north").close()
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:  # until the other end has noticed, and then on
        world.server.send("north", b"x")
        assert world.server.poll(0.05) == []


def test_who_comes_back_is_reached_again(world: World) -> None:
    world.joined("north").close()
    again = world.joined("north")
    world.server.send("north", b"welcome")
    assert again.poll(SOON) == [b"welcome"]


def test_a_receiver_that_does_not_keep_up_blocks_nobody(world: World) -> None:
    north, south = world.joined("north"), world.joined("south")
    began = time.monotonic()
    for _ in range(3000):
        world.server.send("north", bytes(10_000))
        north.send(bytes(10_000))
    assert time.monotonic() - began < SOON
    world.server.send("south", b"still here")
    assert south.poll(SOON) == [b"still here"]


def test_both_ends_follow_a_roster_while_they_run(world: World, roster: Roster) -> None:
    north = world.joined("north")
    larger = Roster("hub", {**roster.members, "west": Identity.generate().public})
    world.server.accept(larger)
    north.accept(larger)
    north.rekey()  # a handshake, in which both name the roster
    north.send(b"under the new one")
    assert world.server.poll(SOON) == [("north", b"under the new one")]
    world.server.send("north", b"and back")
    assert north.poll(SOON) == [b"and back"]
    assert world.server.refusals() == []


def test_an_offer_of_the_roster_before_does_not_stand_in_the_way(world: World, roster: Roster) -> None:
    """The coordinator is the first to follow, and refuses; the site follows, and is let in."""
    larger = Roster("hub", {**roster.members, "west": Identity.generate().public})
    world.server.accept(larger)
    north = world.client("north")
    north.send(b"waits")
    assert world.server.poll(NEVER) == []
    assert [type(error) for error in world.server.refusals()] == [WrongRoster]
    north.accept(larger)
    assert world.server.poll(SOON) == [("north", b"waits")]


def test_a_site_follows_no_roster_with_other_keys_for_it_or_another_coordinator(world: World, roster: Roster) -> None:
    north = world.joined("north")
    for other in (
        Roster("hub", {**roster.members, "north": Identity.generate().public}),
        Roster("hub", {name: roster.members[name] for name in ("hub", "south")}),
        Roster("south", roster.members),
    ):
        with pytest.raises(ValueError, match="not the one of this roster"):
            north.accept(other)
    north.send(b"as before")
    assert world.server.poll(SOON) == [("north", b"as before")]


def test_polling_waits_no_longer_than_told(world: World) -> None:
    north = world.joined("north")
    for end in (world.server, north):
        for timeout in (0.0, 0.2):
            began = time.monotonic()
            assert end.poll(timeout) == []
            assert timeout - 0.01 <= time.monotonic() - began < timeout + 0.5


def test_polling_wakes_for_a_frame(world: World) -> None:
    north = world.joined("north")
    late = threading.Timer(0.2, north.send, [b"late"])
    late.start()
    began = time.monotonic()
    assert world.server.poll(SOON) == [("north", b"late")]
    assert time.monotonic() - began < SOON / 2
    late.join()


def test_closing_twice_is_closing_once(world: World) -> None:
    for end in (world.client("north"), world.server):
        end.close()
        end.close()


def test_what_is_said_after_the_end_goes_nowhere(world: World, roster: Roster, tmp_path: Path) -> None:
    north = world.joined("north")
    north.close()
    world.server.close()
    with ExitStack() as files:  # take the numbers of what was open before
        taken = [files.enter_context((tmp_path / str(number)).open("wb")) for number in range(40)]
        north.send(b"late")
        north.rekey()
        north.accept(roster)
        world.server.send("north", b"late")
        assert world.server.poll(0) == []
        assert [file.seek(0, 2) for file in taken] == [0] * 40
