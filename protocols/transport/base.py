"""What a node needs of a wire: whole frames, and on the coordinator's side the name of who sent each.

A transport may lose frames and says nothing when it does: whoever is away is simply not reached, and the protocol sends
again. It never blocks beyond the timeout it is given, never raises because of a peer, and never delivers a frame of
somebody who is not in the roster or one larger than its maximum. Frames travel in sessions (`protocols.link`).
"""

from __future__ import annotations

from typing import Protocol

from keys.roster import Roster
from protocols.errors import ProtocolError


class ServerTransport(Protocol):
    """The coordinator's end."""

    @property
    def endpoint(self) -> str:
        """Where clients connect, e.g. tcp://127.0.0.1:40123."""
        ...

    def send(self, peer: str, frame: bytes) -> None:
        """Hand over a frame for a site. It is dropped if the site is away or too far behind."""
        ...

    def poll(self, timeout: float) -> list[tuple[str, bytes]]:
        """Frames that have arrived, as (authenticated name, frame); waits up to `timeout` seconds for the first."""
        ...

    def accept(self, roster: Roster) -> None:
        """Act on another roster. Connections of sites that left it, or whose keys it changes, are closed at once.

        Raises ValueError if the coordinator's keys are not this node's.
        """
        ...

    def revoke(self, name: str) -> None:
        """Close a site's connections at once and let it in no more, until a roster that has it is accepted."""
        ...

    def refusals(self) -> list[ProtocolError]:
        """What was refused since the last call, with whom to blame; of a flood, the last."""
        ...

    def close(self) -> None:
        """Free everything. Frames just sent get a short time to leave. May be called twice."""
        ...


class ClientTransport(Protocol):
    """A site's end: its only peer is the coordinator, whose key is pinned."""

    def send(self, frame: bytes) -> None:
        """Hand over a frame for the coordinator. It is dropped if too many wait already."""
        ...

    def poll(self, timeout: float) -> list[bytes]:
        """Frames that have arrived; waits up to `timeout` seconds for the first."""
        ...

    def accept(self, roster: Roster) -> None:
        """Act on another roster from the next handshake on; of a coordinator with other keys, at once.

        Raises ValueError if it has other keys for this node, or another coordinator.
        """
        ...

    def rekey(self) -> None:
        """Have fresh session keys, as soon as the frame on its way out is through. Called once a round."""
        ...

    def refusals(self) -> list[ProtocolError]:
        """What was refused since the last call."""
        ...

    def close(self) -> None:
        """Free everything. Frames just sent get a short time to leave. May be called twice."""
        ...
