"""TCP connections of a listening socket, by their descriptors, so that one can be closed from outside libzmq.

libzmq asks its ZAP handler when a connection begins and never again, and has no call that ends one connection. It does
tell the descriptor: of each it accepts or loses by the monitor, and of each packet by SRCFD. Shutting the descriptor
down ends the connection at once, for both sides. libzmq may have closed it meanwhile and the system have given its
number away; the far address, remembered with it, then differs and nothing is done.
"""

from __future__ import annotations

import os
import socket
from typing import Final, NamedTuple

SILENT_S: Final = 10.0  # a connection that has said nothing for so long after it began is closed
SILENT: Final = 64  # connections that have said nothing, at most; beyond, the oldest are closed


class Connection(NamedTuple):
    descriptor: int
    address: object  # far end, None if it is gone already


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
    """Which connections there are, and which of them have said nothing yet."""

    def __init__(self) -> None:
        self._silent: dict[int, tuple[Connection, float]] = {}  # with the time it began; oldest first
        self._speaking: dict[int, Connection] = {}

    def accepted(self, descriptor: int, now: float) -> None:
        self.gone(descriptor)  # whatever had the number before
        self._silent[descriptor] = Connection(descriptor, _far_address(descriptor)), now

    def gone(self, descriptor: int) -> None:
        self._silent.pop(descriptor, None)
        self._speaking.pop(descriptor, None)

    def spoke(self, descriptor: int) -> Connection:
        """A packet came by it."""
        self._silent.pop(descriptor, None)
        known = self._speaking.get(descriptor)
        if known is None or known.address is None:
            self._speaking[descriptor] = Connection(descriptor, _far_address(descriptor))
        return self._speaking[descriptor]

    def overdue(self, now: float) -> list[Connection]:
        """Connections to be closed; each is named once."""
        waiting = list(self._silent.values())
        late = [connection for connection, began in waiting if now - began > SILENT_S]
        late += [connection for connection, _ in waiting[: max(0, len(waiting) - SILENT)] if connection not in late]
        for connection in late:
            del self._silent[connection.descriptor]
        return late


def hang_up(connection: Connection) -> None:
    """End it now, if it is still the one that it was."""
    try:
        with socket.socket(fileno=os.dup(connection.descriptor)) as end:
            if connection.address is not None and end.getpeername() == connection.address:
                end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself


def _far_address(descriptor: int) -> object:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as end:
            return end.getpeername()
    except OSError:
        return None
