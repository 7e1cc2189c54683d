"""A bad network: one that drops, delays, duplicates, reorders, corrupts, truncates and cuts off, by a seed.

Each fault acts where it is real. A frame is lost, comes late or twice when connections end, above the sessions: the
protocol has to bear it. Bytes change on the wire, below them: a session has to refuse them. The connection ends then,
as one of CURVE does, and a new session has to go on.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from keys.roster import Roster
from protocols.errors import ProtocolError
from protocols.link import Link
from protocols.transport.base import ClientTransport, ServerTransport
from protocols.transport.memory import MemoryHub


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities: of a frame to be dropped, delayed (it comes up to `polls` polls later, and so behind others) and
    duplicated; of a packet to be corrupted and truncated."""

    drop: float = 0.0
    delay: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    truncate: float = 0.0
    polls: int = 20


@dataclass(slots=True)
class Network:
    """One network for all its ends. `cut`: whose line is dead, in both directions; changed while it runs."""

    faults: Faults = Faults()
    seed: int = 0
    cut: set[str] = field(default_factory=set)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311  a fault, not a secret

    def passed(self, peer: str, frame: bytes) -> list[tuple[int, bytes]]:
        """What becomes of a frame: (polls to wait, bytes) of each copy that arrives."""
        if peer in self.cut or self._happens(self.faults.drop):
            return []
        copies = 2 if self._happens(self.faults.duplicate) else 1
        return [(self._random.randint(1, self.faults.polls) if self._happens(self.faults.delay) else 0, frame)
                for _ in range(copies)]  # fmt: skip

    def bent(self, packet: bytes) -> bytes:
        """What becomes of a packet's bytes."""
        if self._happens(self.faults.corrupt):
            at = self._random.randrange(len(packet))
            packet = packet[:at] + bytes([packet[at] ^ 1 << self._random.randrange(8)]) + packet[at + 1 :]
        if self._happens(self.faults.truncate):
            packet = packet[: self._random.randrange(len(packet))]
        return packet

    def _happens(self, probability: float) -> bool:
        return self._random.random() < probability


class FaultyHub(MemoryHub):
    """The wire in memory, with the network's faults of packets."""

    def __init__(self, maximum: int, clock: Callable[[], float], network: Network) -> None:
        super().__init__(maximum, clock)
        self._network = network

    def _carry(
        self, source: Link, sink: Link, deliver: Callable[[bytes], None], refuse: Callable[[ProtocolError], None]
    ) -> bool:
        line = _Line(source, self._network)
        moved = super()._carry(line, sink, deliver, refuse)  # type: ignore[arg-type]
        if line.ended:
            source.lost()
            sink.lost()
        return moved


class _Line:
    """A link whose packets come out as the network leaves them, up to the first that it has changed."""

    def __init__(self, link: Link, network: Network) -> None:
        self._link, self._network = link, network
        self.ended = False

    def next_packet(self, now: float) -> bytes | None:
        packet = None if self.ended else self._link.next_packet(now)
        if packet is None:
            return None
        sent = bytes(packet)
        arrived = self._network.bent(sent)
        self.ended = arrived != sent
        return arrived


class _Held:
    """Frames on their way: each is due after so many polls."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._waiting: list[tuple[int, str, bytes]] = []

    def arrive(self, frames: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        for peer, frame in frames:
            self._waiting += [(polls, peer, raw) for polls, raw in self._network.passed(peer, frame)]
        due = [(peer, raw) for polls, peer, raw in self._waiting if polls <= 0]
        self._waiting = [(polls - 1, peer, raw) for polls, peer, raw in self._waiting if polls > 0]
        return due


class FaultyServer:
    """See `ServerTransport`. Faults are those of what arrives; what is sent meets them at the other end."""

    def __init__(self, inner: ServerTransport, network: Network) -> None:
        self._inner, self._held = inner, _Held(network)

    @property
    def endpoint(self) -> str:
        return self._inner.endpoint

    def send(self, peer: str, frame: bytes) -> None:
        self._inner.send(peer, frame)

    def poll(self, timeout: float) -> list[tuple[str, bytes]]:
        return self._held.arrive(self._inner.poll(timeout))

    def accept(self, roster: Roster) -> None:
        self._inner.accept(roster)

    def revoke(self, name: str) -> None:
        self._inner.revoke(name)

    def refusals(self) -> list[ProtocolError]:
        return self._inner.refusals()

    def close(self) -> None:
        self._inner.close()


class _Client:
    """A client transport round another: see `ClientTransport`."""

    def __init__(self, inner: ClientTransport) -> None:
        self._inner = inner

    def send(self, frame: bytes) -> None:
        self._inner.send(frame)

    def poll(self, timeout: float) -> list[bytes]:
        return self._inner.poll(timeout)

    def accept(self, roster: Roster) -> None:
        self._inner.accept(roster)

    def rekey(self) -> None:
        self._inner.rekey()

    def refusals(self) -> list[ProtocolError]:
        return self._inner.refusals()

    def close(self) -> None:
        self._inner.close()


class FaultyClient(_Client):
    """Faults as of `FaultyServer`. name: whose line it is."""

    def __init__(self, inner: ClientTransport, network: Network, name: str) -> None:
        super().__init__(inner)
        self._held, self._name = _Held(network), name

    def poll(self, timeout: float) -> list[bytes]:
        frames = [(self._name, frame) for frame in self._inner.poll(timeout)]
        return [frame for _, frame in self._held.arrive(frames)]


class TappedServer(FaultyServer):
    """The adversary's end of all lines, as `TappedClient` is of one."""

    def __init__(self, inner: ServerTransport) -> None:
        super().__init__(inner, Network())
        self.lines: dict[str, TappedLine] = {}

    def send(self, peer: str, frame: bytes) -> None:
        self.line(peer).sent.append(frame)
        super().send(peer, frame)

    def line(self, peer: str) -> TappedLine:
        return self.lines.setdefault(peer, TappedLine(self._inner, peer))


class TappedLine:
    """From the coordinator to one site."""

    def __init__(self, server: ServerTransport, peer: str) -> None:
        self.sent: list[bytes] = []
        self._server, self._peer = server, peer

    def inject(self, frame: bytes) -> None:
        self._server.send(self._peer, frame)


class TappedClient(_Client):
    """A client whose owner also says what it likes, and keeps what it said: the adversary's end of a line."""

    def __init__(self, inner: ClientTransport) -> None:
        super().__init__(inner)
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self._inner.send(frame)

    def inject(self, frame: bytes) -> None:
        self._inner.send(frame)
