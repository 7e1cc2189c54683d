"""What only the memory transport does; what it shares with the sockets is in test_contract.py."""

from __future__ import annotations

import threading

import pytest

from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import UnknownPeer
from protocols.handshake import Party
from protocols.transport.memory import MemoryHub


def test_a_stranger_gets_no_end(parties: dict[str, Party]) -> None:
    with pytest.raises(UnknownPeer, match="site of the roster"):
        MemoryHub(10).client(parties["north"]._replace(name="west"))


def test_a_new_server_takes_over_and_the_old_ones_late_close_does_not_hurt(parties: dict[str, Party]) -> None:
    hub = MemoryHub(10)
    north, old = hub.client(parties["north"]), hub.server(parties["hub"])
    new = hub.server(parties["hub"]._replace(boot=2))
    old.close()
    north.send(b"x")
    assert new.poll(0) == [("north", b"x")]
    assert old.poll(0) == []


def test_a_server_of_an_earlier_start_can_be_told_so(parties: dict[str, Party]) -> None:
    """A coordinator's folder that was restored from a copy: the sites have seen a later start, and say it."""
    hub = MemoryHub(10)
    north = hub.client(parties["north"])
    hub.server(parties["hub"]._replace(boot=3))
    restored = hub.server(parties["hub"]._replace(boot=2))
    north.send(b"x")
    assert restored.poll(0) == [("north", b"x")]
    assert north.refusals() == []


def test_threads_lose_nothing_below_the_high_water_mark() -> None:
    names = [f"site-{n}" for n in range(8)]
    identities = {name: Identity.generate() for name in ("hub", *names)}
    roster = Roster("hub", {name: identity.public for name, identity in identities.items()})
    parties = {name: Party(name, identity, roster, bytes(32), 1) for name, identity in identities.items()}
    hub = MemoryHub(10)
    server = hub.server(parties["hub"])
    clients = [hub.client(parties[name]) for name in names]
    threads = [threading.Thread(target=lambda c=c: [c.send(bytes((n,))) for n in range(30)]) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = server.poll(0)
    assert len(frames) == 240
    for n in range(8):
        assert [frame for name, frame in frames if name == f"site-{n}"] == [bytes((k,)) for k in range(30)]
