"""A bad network: transports that drop, delay, duplicate, reorder, corrupt, truncate and cut off, by a seed.

A wrapper keeps a transport's interface and its promises, which allow all of this but one: a real channel is
authenticated, so that corruption there closes a connection. Here it reaches the envelope, which has to refuse it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from protocols.transport.base import ClientTransport, ServerTransport


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities per frame. delay: that it comes up to `polls` polls later, and so behind others."""

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
        if self._happens(self.faults.corrupt):
            at = self._random.randrange(len(frame))
            frame = frame[:at] + bytes([frame[at] ^ 1 << self._random.randrange(8)]) + frame[at + 1 :]
        if self._happens(self.faults.truncate):
            frame = frame[: self._random.randrange(len(frame))]
        copies = 2 if self._happens(self.faults.duplicate) else 1
        return [(self._random.randint(1, self.faults.polls) if self._happens(self.faults.delay) else 0, frame)
                for _ in range(copies)]  # fmt: skip

    def _happens(self, probability: float) -> bool:
        return self._random.random() < probability


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

    def close(self) -> None:
        self._inner.close()


class FaultyClient:
    """See `ClientTransport`. name: whose line it is."""

    def __init__(self, inner: ClientTransport, network: Network, name: str) -> None:
        self._inner, self._held, self._name = inner, _Held(network), name

    def send(self, frame: bytes) -> None:
        self._inner.send(frame)

    def poll(self, timeout: float) -> list[bytes]:
        frames = [(self._name, frame) for frame in self._inner.poll(timeout)]
        return [frame for _, frame in self._held.arrive(frames)]

    def close(self) -> None:
        self._inner.close()


class TappedClient:
    """A client whose owner also says what it likes, and keeps what it said: the adversary's end of a line."""

    def __init__(self, inner: ClientTransport) -> None:
        self._inner = inner
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)
        self._inner.send(frame)

    def inject(self, frame: bytes) -> None:
        self._inner.send(frame)

    def poll(self, timeout: float) -> list[bytes]:
        return self._inner.poll(timeout)

    def close(self) -> None:
        self._inner.close()
