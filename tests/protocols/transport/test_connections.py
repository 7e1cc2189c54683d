from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from protocols.transport import connections
from protocols.transport.connections import Connections, Pace, hang_up


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection: the one that libzmq would hold, and the far one."""
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as far:
        near, _ = door.accept()
        with near:
            far.settimeout(5)
            yield near, far


def test_hanging_up_ends_it_for_both(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    hang_up(Connections().spoke(near.fileno()))
    assert far.recv(1) == b""
    assert near.recv(1) == b""


def test_a_number_that_belongs_to_somebody_else_by_now_is_left_alone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    hang_up(Connections().spoke(near.fileno())._replace(address=("127.0.0.1", 1)))
    near.send(b"x")
    assert far.recv(1) == b"x"
    hang_up(Connections().spoke(10_000))  # no descriptor at all


def test_who_says_nothing_is_named_once() -> None:
    known = Connections()
    for descriptor in (1001, 1002):
        known.accepted(descriptor, 0.0)
    known.spoke(1002)
    assert known.overdue(connections.SILENT_S) == []
    assert [late.descriptor for late in known.overdue(connections.SILENT_S + 1)] == [1001]
    assert known.overdue(connections.SILENT_S + 2) == []


def test_the_oldest_of_too_many_go_first() -> None:
    known = Connections()
    for descriptor in range(1000, 1000 + connections.SILENT + 3):
        known.accepted(descriptor, 0.0)
    known.gone(1001)
    assert [late.descriptor for late in known.overdue(1.0)] == [1000, 1002]


def test_a_number_that_comes_again_is_another_connection() -> None:
    known = Connections()
    known.spoke(1000)
    known.accepted(1000, 5.0)
    assert [late.descriptor for late in known.overdue(6.0 + connections.SILENT_S)] == [1000]


def test_each_key_has_a_pace_of_its_own() -> None:
    pace = Pace()
    assert all(pace.allows("north", 0.0) for _ in range(connections.OFFERS))
    assert not pace.allows("north", 1.0)
    assert pace.allows("south", 1.0)
    assert pace.allows("north", connections.WINDOW_S)
