from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from protocols.transport import connections
from protocols.transport.connections import Connection, Connections, Pace


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection: the one that libzmq would hold, and the far one."""
    with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as far:
        near, _ = door.accept()
        with near:
            far.settimeout(5)
            yield near, far


def accepted(known: Connections, descriptor: int, id_: bytes, now: float = 0.0) -> Connection:
    """A connection by which something came."""
    known.accepted(descriptor, now)
    connection = known.heard(id_, descriptor, lambda _: True)
    assert connection is not None
    return connection


def test_hanging_up_ends_it_for_both(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    accepted(Connections(), near.fileno(), b"1").hang_up()
    assert far.recv(1) == b""
    assert near.recv(1) == b""


def test_a_number_that_belongs_to_somebody_else_by_now_is_left_alone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    connection = accepted(Connections(), near.fileno(), b"1")
    connection.address = ("127.0.0.1", 1)
    connection.hang_up()
    near.send(b"x")
    assert far.recv(1) == b"x"
    accepted(Connections(), 10_000, b"1").hang_up()  # no descriptor at all


def test_what_is_left_over_belongs_to_nobody_who_has_the_number_now() -> None:
    known = Connections()
    known.accepted(1000, 0.0)
    known.gone(1000, 1.0)
    assert known.heard(b"old", 1000, lambda _: True) is None  # nobody has it
    new = accepted(known, 1000, b"new", 2.0)
    assert known.heard(b"old", 1000, lambda id_: id_ == b"new") is None
    assert known.heard(b"new", 1000, lambda _: False) is new  # it is known: nobody is asked


def test_what_is_left_over_from_a_known_connection_is_still_its_own() -> None:
    known = Connections()
    old = accepted(known, 1000, b"old")
    known.gone(1000, 1.0)
    new = accepted(known, 1000, b"new", 2.0)
    assert known.heard(b"old", 1000, lambda id_: id_ == b"new") is old
    assert not known.knows(b"old")
    assert known.heard(b"new", 1000, lambda _: True) is new
    known.overdue(2.0 + connections.GRACE_S, reading=True)
    assert known.heard(b"old", 1000, lambda id_: id_ == b"new") is None


def test_a_routing_id_may_be_chosen_again() -> None:
    known = Connections()
    old = accepted(known, 1000, b"chosen")
    known.gone(1000, 1.0)
    new = accepted(known, 1001, b"chosen", 2.0)
    assert new is not old
    assert known.knows(b"chosen")


def test_a_connection_that_was_taken_for_another_is_found_again() -> None:
    """libzmq may say that an id can be reached in the moment in which it ends."""
    known = Connections()
    known.accepted(1000, 0.0)
    taken = known.heard(b"old", 1000, lambda _: True)
    assert known.heard(b"new", 1000, lambda id_: id_ == b"new") is taken
    assert known.heard(b"old", 1000, lambda id_: id_ == b"new") is None


def test_by_name_are_found_those_by_which_something_came() -> None:
    known = Connections()
    for descriptor in (1000, 1001, 1002):
        accepted(known, descriptor, bytes((descriptor % 256,))).name = "north" if descriptor < 1002 else "south"
    known.accepted(1003, 0.0)
    known.gone(1001, 0.0)  # and may have left something behind
    assert {connection.descriptor for connection in known.of("north")} == {1000, 1001}


def test_who_makes_no_offer_that_holds_is_closed_however_much_it_says() -> None:
    known = Connections()
    known.accepted(1000, 0.0)
    accepted(known, 1001, b"says something")
    accepted(known, 1002, b"joins").joined = True
    assert known.overdue(connections.GRACE_S, reading=True) == []
    late = known.overdue(connections.GRACE_S + 1, reading=True)
    assert [connection.descriptor for connection in late] == [1000, 1001]
    for connection in late:
        connection.hang_up()
    assert known.overdue(connections.GRACE_S + 2, reading=True) == []


def test_the_clock_stands_still_while_nothing_is_read() -> None:
    known = Connections()
    known.overdue(0.0, reading=True)
    known.accepted(1000, 0.0)
    assert known.overdue(100.0, reading=False) == []
    assert known.overdue(100.0 + connections.GRACE_S, reading=True) == []
    assert len(known.overdue(101.0 + connections.GRACE_S, reading=True)) == 1


def test_of_too_many_those_go_whose_address_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Connections()
    hosts = {1000: "honest", 1001: "honest"}
    monkeypatch.setattr(connections, "_far_end", lambda fd: ((fd,), hosts.get(fd, "flood")))
    for descriptor in range(1000, 1000 + connections.WAITING + 20):
        known.accepted(descriptor, 0.0)
    late = known.overdue(1.0, reading=True)
    assert len(late) == 20
    assert {connection.host for connection in late} == {"flood"}
    assert sorted(c.descriptor for c in late) != [*range(1002, 1022)]  # nor the oldest of them, by chance 1 in 10^19


def test_a_number_that_comes_again_is_another_connection() -> None:
    known = Connections()
    accepted(known, 1000, b"1").joined = True
    known.accepted(1000, 5.0)
    late = known.overdue(6.0 + connections.GRACE_S, reading=True)
    assert [connection.began for connection in late] == [5.0]


def test_each_key_has_a_pace_of_its_own() -> None:
    pace = Pace()
    assert all(pace.allows("north", 0.0) for _ in range(connections.OFFERS))
    assert not pace.allows("north", 1.0)
    assert pace.allows("south", 1.0)
    assert pace.allows("north", connections.WINDOW_S)
