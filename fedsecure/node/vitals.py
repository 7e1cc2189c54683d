"""How a node is doing, for its own operator: `status.json` in its folder, which `fedsecure status` and the health
endpoint show. Names of nodes, phases, counts of bytes and times; nothing computed from volumes."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.progress import Progress, Refused, Sent

FILE: Final = "status.json"
WRITE_EVERY_S: Final = 5.0
NO_BUDGET: Final = "none yet"  # until releases are charged; epsilon is infinite


class SumStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A secure sum that runs. step: what sites answer in it, the `number`-th of `steps`; attempt: from 1, of its round;
    awaited: who has not answered."""

    step: str
    number: int
    steps: int
    attempt: int
    awaited: tuple[str, ...]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a node is in its study. `sites`: name -> what the coordinator knows of it; of a site, only its own."""

    node: str
    role: str
    study: str
    digest: str
    phase: str
    stage: int
    stage_name: str
    round: int
    rounds: int
    sites: Mapping[str, str]
    sum: SumStanding | None = None


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """What went between this node and one peer, over all its starts. Bytes are of whole frames."""

    sent: int = 0
    received: int = 0
    heard: float | None = None  # Unix time of the last frame that came
    refused: int = 0  # kinds of refusal that were noted, see `Shell._refused`


class Status(msgspec.Struct, frozen=True, kw_only=True):
    at: float  # Unix time at which it was written
    started: float
    software: str
    standing: Standing
    peers: Mapping[str, Contact]
    budget: str = NO_BUDGET
    stopped: str | None = None


class Vitals:
    """Counts what goes in and out of one node; `write` puts it on disk now and then. Used by the node's own thread."""

    def __init__(self, folder: Path, sent: Mapping[str, int], software: str) -> None:
        """sent: bytes by peer that the node's record has from earlier starts."""
        self._path = folder / FILE
        self._software = software
        self._started = time.time()
        self._next = 0.0
        try:
            earlier = read(folder).peers
        except SettingsError:  # none yet, or not one that this version reads: what it counts is news, not state
            earlier = {}
        self._peers = {
            peer: msgspec.structs.replace(earlier.get(peer, Contact()), sent=sent.get(peer, 0))
            for peer in {*earlier, *sent}
        }
        self.latest: Status | None = None

    def heard(self, peer: str, size: int) -> None:
        contact = self._peers.get(peer, Contact())
        self._put(peer, contact, received=contact.received + size, heard=time.time())

    def observe(self, event: Progress) -> None:
        match event:
            case Sent(peer=peer, size=size):
                contact = self._peers.get(peer, Contact())
                self._put(peer, contact, sent=contact.sent + size)
            case Refused(peer=peer):
                contact = self._peers.get(peer, Contact())
                self._put(peer, contact, refused=contact.refused + 1)
            case _:
                pass

    def write(self, standing: Standing, stopped: str | None = None) -> None:
        """Note where the node is; on disk every WRITE_EVERY_S, and when it stops."""
        now = time.time()
        self.latest = Status(
            at=now, started=self._started, software=self._software, standing=standing, peers=dict(self._peers),
            stopped=stopped,
        )  # fmt: skip
        if stopped is not None or now >= self._next:
            self._next = now + WRITE_EVERY_S
            write_atomic(self._path, msgspec.json.encode(self.latest))

    def _put(self, peer: str, contact: Contact, **changes: object) -> None:
        self._peers[peer] = msgspec.structs.replace(contact, **changes)


def read(folder: Path) -> Status:
    """What a node last wrote of itself. Raises SettingsError if there is nothing, or it is damaged."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Status)
    except OSError:
        raise SettingsError("no node has run in this folder yet (status.json is not there)") from None
    except msgspec.DecodeError:
        raise SettingsError("status.json is damaged; a running node writes it anew") from None


def running(folder: Path) -> bool:
    """Whether a process has this node's folder open."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
