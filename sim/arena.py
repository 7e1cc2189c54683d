"""A federation in memory that is turned by hand, on a clock that turns with it: between two turns nodes can be ended,
started again, and their folders exchanged. What `sim.federation` runs to its end is stopped here in the middle."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedsecure.config import Study
from fedsecure.node.log import Log
from fedsecure.node.membership import open_own
from fedsecure.node.shell import Shell
from fedsecure.node.wiring import COORDINATOR, build_coordinator, build_site, inline_trainer, metrics_writer
from fedsecure.plan import frame_limit
from fedsecure.progress import Progress, Refused
from protocols.handshake import Party
from protocols.transport.base import ClientTransport, ServerTransport
from sim.ceremony import enrol
from sim.errors import FederationFailed
from sim.faults import FaultyHub, Network
from sim.world import coordinator_folder, site_folder

TURN_S: Final = 0.5  # seconds that one turn takes on the arena's clock
ROOM: Final = 1 << 16  # bytes by which the wire takes more than nodes do: what is too large reaches them


class Arena:
    """`wrap_client(name, transport)` and `wrap_server(transport)` put faults or an adversary between node and sessions;
    `network` has those of the wire below the sessions."""

    def __init__(
        self,
        run: Path,
        study: Study,
        wrap_client: Callable[[str, ClientTransport], ClientTransport] = lambda _, inner: inner,
        wrap_server: Callable[[ServerTransport], ServerTransport] = lambda inner: inner,
        network: Network | None = None,
    ) -> None:
        self.study = study
        self.folders = {COORDINATOR: coordinator_folder(run)}
        self.folders |= {member.name: site_folder(run, member.name) for member in study.sites}
        enrol(self.folders, COORDINATOR)
        self.now = 0.0
        self._hub = FaultyHub(frame_limit(study) + ROOM, lambda: self.now, network or Network())
        self._wrap_client, self._wrap_server = wrap_client, wrap_server
        self.shells: dict[str, Shell] = {}
        self.ends: dict[str, ClientTransport] = {}
        self.refused: list[tuple[str, Refused]] = []
        self.logs = {name: io.StringIO() for name in self.folders}

    def start(self, *names: str) -> None:
        """Start nodes, from wherever their folders stand."""
        for name in names:
            folder, log = self.folders[name], Log(name, self.logs[name], journald=False)
            write = metrics_writer(folder)

            def observe(event: Progress, name: str = name, log: Log = log, write: Callable[..., None] = write) -> None:
                write(event)
                log.observe(event)
                if isinstance(event, Refused):
                    self.refused.append((name, event))

            trainer, own = inline_trainer(folder, observe), open_own(folder)
            if name == COORDINATOR:
                shell: Shell = build_coordinator(folder, own, self._bind, trainer, observe, clock=lambda: self.now)
            else:
                shell = build_site(folder, own, self._connect, trainer, observe, clock=lambda: self.now)
            self.shells[name] = shell

    def _bind(self, party: Party) -> ServerTransport:
        return self._wrap_server(self._hub.server(party))

    def _connect(self, party: Party) -> ClientTransport:
        self.ends[party.name] = self._wrap_client(party.name, self._hub.client(party))
        return self.ends[party.name]

    def end(self, *names: str) -> None:
        """End nodes as a kill does: what is not on disk is gone."""
        for name in names:
            self.shells.pop(name).close()

    def turn(self, turns: int = 1) -> None:
        """Every node that is there once, in the order of names."""
        for _ in range(turns):
            self.now += TURN_S
            for name in sorted(self.shells):
                if self.shells[name].outcome is None:
                    self.shells[name].pump(0.0)

    def until(self, what: Callable[[], bool], turns: int = 2000) -> None:
        """Turn until something is so. Raises FederationFailed if it does not come."""
        for _ in range(turns):
            if what():
                return
            self.turn()
        raise FederationFailed("what was waited for did not come")

    def outcomes(self) -> dict[str, str]:
        """Why each node stopped; empty for one that runs."""
        return {name: shell.outcome.reason if shell.outcome else "" for name, shell in self.shells.items()}

    def finish(self, turns: int = 2000) -> None:
        """Turn until all nodes have stopped."""
        self.until(lambda: all(self.outcomes().values()), turns)

    def close(self) -> None:
        self.end(*self.shells)
