"""TCP connections of a listening socket, by their descriptors, so that one can be closed from outside libzmq.

libzmq asks its ZAP handler when a connection begins and never again, and has no call that ends one connection. It does
tell the descriptor: of each it accepts or loses by the monitor, and of each packet by SRCFD. Shutting the descriptor
down ends the connection at once, for both sides.

A number says little: what a connection has sent is still delivered when it is over and the system has given its number
away. A packet therefore belongs to the connection of its routing id, and an id to the one that has its number when the
id is first seen *and can still be reached*; the far address, learnt when the connection began, is compared before it is
shut down.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

GRACE_S: Final = 10.0  # a connection by which no offer that holds came so long after it began is closed
WAITING: Final = 64  # such connections, at most; beyond, some of the address that has most of them are closed


@dataclass(eq=False, slots=True)
class Connection:
    """One that was accepted. `host` and `address` are of the far end; address is None if it was gone already."""

    descriptor: int
    address: object
    host: str
    began: float
    id: bytes = b""  # of ROUTER, to address it
    name: str = ""  # whose key it has, once something came by it
    joined: bool = False  # an offer that holds came by it
    ended: bool = False  # by this end: nothing that still comes by it is looked at
    over_at: float | None = None  # libzmq has lost it; what it had sent before may still be delivered

    def hang_up(self) -> None:
        """End it now, if the descriptor is still its own."""
        self.ended = True
        try:
            with socket.socket(fileno=os.dup(self.descriptor)) as end:
                if self.address is not None and end.getpeername() == self.address:
                    end.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it has ended by itself


OFFERS: Final = 200  # handshakes that one key may begin in a window, each of which costs half a millisecond
WINDOW_S: Final = 10.0


class Pace:
    """How often each key begins a handshake."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}  # name -> start of its window, offers since

    def allows(self, name: str, now: float) -> bool:
        """Count one more offer of `name`; False when it is one too many."""
        start, count = self._begun.get(name, (now, 0))
        if now - start >= WINDOW_S:
            start, count = now, 0
        self._begun[name] = start, count + 1
        return count < OFFERS


class Connections:
    """Which connections there are, and by which of them somebody has joined."""

    def __init__(self) -> None:
        self._open: dict[int, Connection] = {}  # by descriptor
        self._by_id: dict[bytes, Connection] = {}  # also such as are over, while something of them may come
        self._looked = 0.0

    def accepted(self, descriptor: int, now: float) -> None:
        self.gone(descriptor, now)  # whatever had the number before
        address, host = _far_end(descriptor)
        self._open[descriptor] = Connection(descriptor, address, host, now)

    def gone(self, descriptor: int, now: float) -> None:
        connection = self._open.pop(descriptor, None)
        if connection is not None:
            connection.over_at = now

    def knows(self, id_: bytes) -> bool:
        """Whether packets under `id_` are those of one connection that is not over."""
        return id_ in self._by_id and self._by_id[id_].over_at is None

    def heard(self, id_: bytes, descriptor: int, reaches: Callable[[bytes], bool]) -> Connection | None:
        """Whose packet it is that came under a routing id. `reaches`: whether something can be sent to that id now.

        For an id that is not known, whatever was accepted before the packet was read has to be told here first. None
        for what is left over from a connection of which nothing is known any more.
        """
        known = self._by_id.get(id_)
        if known is not None and known.over_at is None:
            return known
        now_there = self._open.get(descriptor)
        if now_there is None or not reaches(id_):
            return known
        self._by_id.pop(now_there.id, None)
        self._by_id[id_] = now_there
        now_there.id = id_
        return now_there

    def of(self, name: str) -> list[Connection]:
        """Those by which something came under the key of `name`."""
        every = {*self._open.values(), *self._by_id.values()}  # those that are over may have left something behind
        return [connection for connection in every if connection.name == name]

    def overdue(self, now: float, *, reading: bool) -> list[Connection]:
        """Connections to be closed. reading: whether what they say is looked at; if not, their clock stands still."""
        elapsed, self._looked = now - self._looked, now
        waiting = [connection for connection in self._open.values() if not connection.joined and not connection.ended]
        if not reading:
            for connection in waiting:
                connection.began += elapsed
        self._by_id = {
            id_: connection
            for id_, connection in self._by_id.items()
            if connection.over_at is None or now - connection.over_at < GRACE_S or not reading
        }
        late = [connection for connection in waiting if now - connection.began > GRACE_S]
        rest = [connection for connection in waiting if connection not in late]
        while len(rest) > WAITING:  # at random: whoever connects most often must not choose who goes
            (crowd, _), *_ = Counter(connection.host for connection in rest).most_common(1)
            late.append(secrets.choice([connection for connection in rest if connection.host == crowd]))
            rest.remove(late[-1])
        return late


def _far_end(descriptor: int) -> tuple[object, str]:
    """Address, and the host in it."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as end:
            address = end.getpeername()
    except OSError:
        return None, ""
    return address, str(address[0]) if isinstance(address, tuple) else ""
