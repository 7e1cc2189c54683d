"""What only the memory transport does; what it shares with the sockets is in test_contract.py."""

from __future__ import annotations

import threading

import pytest

from protocols.errors import UnknownPeer
from protocols.transport.memory import MemoryHub


def test_a_stranger_gets_no_end() -> None:
    with pytest.raises(UnknownPeer, match="site of the roster"):
        MemoryHub(["north"], 10).client("west")


def test_a_new_server_takes_over_and_the_old_ones_late_close_does_not_hurt() -> None:
    hub = MemoryHub(["north"], 10)
    north, old = hub.client("north"), hub.server()
    new = hub.server()
    old.close()
    north.send(b"x")
    assert new.poll(0) == [("north", b"x")]
    assert old.poll(0) == []


def test_threads_lose_nothing_below_the_high_water_mark() -> None:
    hub = MemoryHub([f"site-{n}" for n in range(8)], 10)
    server = hub.server()
    clients = [hub.client(f"site-{n}") for n in range(8)]
    threads = [threading.Thread(target=lambda c=c: [c.send(bytes((n,))) for n in range(30)]) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    frames = server.poll(0)
    assert len(frames) == 240
    for n in range(8):
        assert [frame for name, frame in frames if name == f"site-{n}"] == [bytes((k,)) for k in range(30)]
