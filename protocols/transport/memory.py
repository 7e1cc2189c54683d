"""A wire inside one process: queues in place of sockets, with the same promises and the same losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

from protocols.errors import UnknownPeer

_T = TypeVar("_T")
_HIGH_WATER = 256  # frames waiting for one end


class _Mailbox(Generic[_T]):
    """A bounded queue that drops what does not fit, as a socket at its high-water mark does."""

    def __init__(self) -> None:
        self._queue: Queue[_T] = Queue(_HIGH_WATER)

    def put(self, item: _T) -> None:
        try:
            self._queue.put_nowait(item)
        except Full:
            return

    def take(self, timeout: float) -> list[_T]:
        """Everything that waits; up to `timeout` seconds for the first."""
        items: list[_T] = []
        try:
            items.append(self._queue.get(timeout=max(timeout, 0)))
            while True:
                items.append(self._queue.get_nowait())
        except Empty:
            return items


class MemoryHub:
    """One server and its clients. Every end may be used from a thread of its own."""

    def __init__(self, sites: Iterable[str], maximum: int) -> None:
        """sites: the names a client can have; maximum: bytes of a frame, larger ones are dropped."""
        self._sites = frozenset(sites)
        self._maximum = maximum
        self._server: _Mailbox[tuple[str, bytes]] | None = None
        self._clients: dict[str, _Mailbox[bytes]] = {}

    def server(self) -> MemoryServer:
        """The coordinator's end; takes the place of an earlier one."""
        inbound: _Mailbox[tuple[str, bytes]] = _Mailbox()
        self._server = inbound

        def leave() -> None:
            if self._server is inbound:
                self._server = None

        return MemoryServer(inbound, self._to_site, leave)

    def client(self, name: str) -> MemoryClient:
        """A site's end; takes the place of an earlier one of this name. Raises UnknownPeer if the name is no site's."""
        if name not in self._sites:
            raise UnknownPeer(name, "a client is a site of the roster")
        inbound: _Mailbox[bytes] = _Mailbox()
        self._clients[name] = inbound

        def leave() -> None:
            if self._clients.get(name) is inbound:
                del self._clients[name]

        return MemoryClient(inbound, lambda frame: self._to_coordinator(name, frame), leave)

    def _to_site(self, name: str, frame: bytes) -> None:
        mailbox = self._clients.get(name)
        if mailbox is not None and len(frame) <= self._maximum:
            mailbox.put(frame)

    def _to_coordinator(self, name: str, frame: bytes) -> None:
        mailbox = self._server
        if mailbox is not None and len(frame) <= self._maximum:
            mailbox.put((name, frame))


class MemoryServer:
    """See `ServerTransport`."""

    endpoint = "memory"

    def __init__(
        self,
        inbound: _Mailbox[tuple[str, bytes]],
        deliver: Callable[[str, bytes], None],
        leave: Callable[[], None],
    ) -> None:
        self._inbound = inbound
        self._deliver = deliver
        self._leave = leave

    def send(self, peer: str, frame: bytes) -> None:
        self._deliver(peer, frame)

    def poll(self, timeout: float) -> list[tuple[str, bytes]]:
        return self._inbound.take(timeout)

    def close(self) -> None:
        self._leave()


class MemoryClient:
    """See `ClientTransport`."""

    def __init__(self, inbound: _Mailbox[bytes], deliver: Callable[[bytes], None], leave: Callable[[], None]) -> None:
        self._inbound = inbound
        self._deliver = deliver
        self._leave = leave

    def send(self, frame: bytes) -> None:
        self._deliver(frame)

    def poll(self, timeout: float) -> list[bytes]:
        return self._inbound.take(timeout)

    def close(self) -> None:
        self._leave()
