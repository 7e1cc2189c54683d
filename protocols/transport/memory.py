"""A wire inside one process: calls in place of sockets, with the same sessions, promises and losses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from keys.roster import Roster
from protocols.errors import FaultyPeer, ProtocolError, UnknownPeer
from protocols.handshake import Party, moved
from protocols.link import Link, initiator
from protocols.transport.mailbox import Mailbox
from protocols.transport.switchboard import Switchboard

_INBOX: Final = 256  # frames waiting for one end; more are dropped


class MemoryHub:
    """One server and its clients. Every end may be used from a thread of its own; packets pass in the sender's."""

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        """maximum: bytes of a frame; a larger one is refused."""
        self.maximum = maximum
        self._clock = clock
        self._server: MemoryServer | None = None
        self._clients: dict[str, MemoryClient] = {}
        self.lock = threading.RLock()

    def server(self, party: Party) -> MemoryServer:
        """The coordinator's end; takes the place of an earlier one. Raises ValueError if it is not the coordinator."""
        with self.lock:
            self._server = MemoryServer(self, party)
            for name, client in self._clients.items():
                client.link.lost()
                self.settle(name)
            return self._server

    def client(self, party: Party) -> MemoryClient:
        """A site's end; takes the place of an earlier one of this name. Raises UnknownPeer if the name is no site's."""
        if party.name not in party.roster.sites:
            raise UnknownPeer(party.name, "a client is a site of the roster")
        with self.lock:
            self.hang_up(party.name)
            self._clients[party.name] = MemoryClient(self, party)
            self.settle(party.name)
            return self._clients[party.name]

    def leave(self, end: MemoryServer | MemoryClient) -> None:
        with self.lock:
            if end is self._server:
                self._server = None
            elif isinstance(end, MemoryClient) and self._clients.get(end.name) is end:
                self.hang_up(end.name)

    def hang_up(self, name: str) -> None:
        """End the connection of `name`, as seen by both ends."""
        self._clients.pop(name, None)
        link = self._server.board.link(name) if self._server is not None else None
        if link is not None:
            link.lost()

    def settle(self, name: str) -> None:
        """Carry packets between `name` and the server until neither has any: at once, as there is no way to go."""
        with self.lock:
            server, client = self._server, self._clients.get(name)
            far = server.board.link(name) if server is not None else None
            if server is None or client is None or far is None:
                return

            def to_server(frame: bytes) -> None:
                if not server.inbox.full:
                    server.inbox.put((name, frame), len(frame))

            def to_client(frame: bytes) -> None:
                if not client.inbox.full:
                    client.inbox.put(frame, len(frame))

            moving = True
            while moving:
                up = self._carry(client.link, far, to_server, server.inbox.refuse)
                down = self._carry(far, client.link, to_client, client.inbox.refuse)
                moving = up or down

    def _carry(
        self, source: Link, sink: Link, deliver: Callable[[bytes], None], refuse: Callable[[ProtocolError], None]
    ) -> bool:
        moved = False
        while (packet := source.next_packet(self._clock())) is not None:
            moved = True
            try:
                frame = sink.receive(packet)
            except FaultyPeer as error:
                refuse(error)
                continue
            if frame is not None:
                deliver(frame)
        return moved


class MemoryServer:
    """See `ServerTransport`."""

    endpoint = "memory"

    def __init__(self, hub: MemoryHub, party: Party) -> None:
        self.board = Switchboard(party, hub.maximum)
        self.inbox: Mailbox[tuple[str, bytes]] = Mailbox(_INBOX, _INBOX * hub.maximum)
        self._hub = hub

    def send(self, peer: str, frame: bytes) -> None:
        with self._hub.lock:
            link = self.board.link(peer)
            if link is not None:
                link.send(frame)
                self._hub.settle(peer)

    def poll(self, timeout: float) -> list[tuple[str, bytes]]:
        return self.inbox.take(timeout)[0]

    def accept(self, roster: Roster) -> None:
        with self._hub.lock:
            for name in self.board.accept(roster):
                self._hub.hang_up(name)

    def revoke(self, name: str) -> None:
        with self._hub.lock:
            self._hub.hang_up(name)
            self.board.revoke(name)

    def refusals(self) -> list[ProtocolError]:
        return self.inbox.refusals()

    def close(self) -> None:
        self._hub.leave(self)


class MemoryClient:
    """See `ClientTransport`."""

    def __init__(self, hub: MemoryHub, party: Party) -> None:
        self.name = party.name
        self.link = initiator(party, hub.maximum)
        self.inbox: Mailbox[bytes] = Mailbox(_INBOX, _INBOX * hub.maximum)
        self._hub = hub

    def send(self, frame: bytes) -> None:
        with self._hub.lock:
            self.link.send(frame)
            self._hub.settle(self.name)

    def poll(self, timeout: float) -> list[bytes]:
        return self.inbox.take(timeout)[0]

    def accept(self, roster: Roster) -> None:
        with self._hub.lock:
            self.link.follow(moved(self.link.party, roster))
            self._hub.settle(self.name)

    def rekey(self) -> None:
        with self._hub.lock:
            self.link.rekey()
            self._hub.settle(self.name)

    def refusals(self) -> list[ProtocolError]:
        return self.inbox.refusals()

    def close(self) -> None:
        self._hub.leave(self)
