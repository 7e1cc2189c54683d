"""The coordinator's process of `bench_channel`: acknowledges every frame, and says how much memory it took."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import zmq

from keys.identity import Identity
from keys.roster import Roster
from protocols.handshake import Party
from protocols.transport.zmq_curve import CurveServer

ACK: Final = b"ack"
MEMORY: Final = b"memory?"  # answered with the peak since the question before


@dataclass(frozen=True, slots=True, repr=False)
class World:
    """Members made for one measurement, and forgotten with it."""

    private: dict[str, list[str]]

    @classmethod
    def make(cls, sites: int) -> Self:
        names = ("hub", *(f"site-{n}" for n in range(sites)))
        return cls({name: [key.hex() for key in Identity.generate().raw] for name in names})

    def party(self, name: str) -> Party:
        identities = {member: Identity(*map(bytes.fromhex, keys)) for member, keys in self.private.items()}
        roster = Roster("hub", {member: identity.public for member, identity in identities.items()})
        return Party(name, identities[name], roster, bytes(32), 1)


def memory(pid: int | None = None, *, reset: bool = False) -> tuple[int, int]:
    """Bytes resident now, and at most since the last reset; of this process or another. Linux."""
    folder = Path("/proc") / ("self" if pid is None else str(pid))
    if reset:
        (folder / "clear_refs").write_text("5")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, int(status["VmHWM"].split()[0]) * 1024


def serve() -> None:
    order = json.loads(sys.stdin.readline())
    hub = World(order["private"]).party("hub")
    (_sealed if order["mode"] == "sealed" else _bare)(hub, order["maximum"])


def _sealed(hub: Party, maximum: int) -> None:
    server = CurveServer(hub, maximum=maximum)
    sys.stdout.write(f"{server.endpoint}\n")
    sys.stdout.flush()
    before = 0
    while True:
        for name, frame in server.poll(1.0):
            if frame == MEMORY:
                server.send(name, ACK + str(memory()[1] - before).encode())
                before = memory(reset=True)[0]
            else:
                server.send(name, ACK)
            del frame  # not held while the next one comes


def _bare(hub: Party, maximum: int) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.curve_server = True
    socket.curve_secretkey, socket.maxmsgsize = hub.identity.channel_key, maximum + 1024
    sys.stdout.write(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}\n")
    sys.stdout.flush()
    while True:
        route, _ = socket.recv_multipart(copy=False)
        socket.send_multipart([route.bytes, ACK])


if __name__ == "__main__":
    serve()
