"""A whole federation on this machine: the real nodes, as processes over CURVE on loopback or as objects in memory.

The simulation adds nothing to what a node does. It makes keys on the spot, starts the nodes, watches the metrics files
that each writes in its own folder, and ends all of them together.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from fedsecure.config import Study
from fedsecure.node.events import Stop
from fedsecure.node.membership import IDENTITY, open_own
from fedsecure.node.shell import Shell
from fedsecure.node.wiring import (
    COORDINATOR,
    PARENT,
    build_coordinator,
    build_site,
    explain,
    inline_trainer,
    metrics_writer,
)
from fedsecure.plan import frame_limit
from fedsecure.progress import Observe, Progress
from protocols.transport.memory import MemoryHub
from sim.ceremony import enrol
from sim.errors import FederationFailed, Interrupted
from sim.world import connect, coordinator_folder, site_folder

Transport = Literal["zmq", "memory"]
Watch = Callable[[str, Progress], None]  # node's name, event

ENDPOINT: Final = "tcp://127.0.0.1:*"
START_S: Final = 60.0  # a coordinator that has not bound its port by then will not
GRACE_S: Final = 5.0  # between asking a process to end and ending it
LOOK_EVERY_S: Final = 0.1


class _Timed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a node's metrics.jsonl."""

    at: float
    event: Progress


def finished(run: Path) -> bool:
    """Did this federation get to its end in an earlier run?"""
    return _reason(coordinator_folder(run)) == ("finished", "")


def federate(run: Path, study: Study, transport: Transport, watch: Watch) -> None:
    """Run the federation that `world.build` laid out in `run` to its end, from wherever its nodes' stores stand.

    Raises FederationFailed naming the node that stopped, and Interrupted after Ctrl-C; both leave the folders ready
    to be gone on with.
    """
    folders = {COORDINATOR: coordinator_folder(run)}
    folders |= {member.name: site_folder(run, member.name) for member in study.sites}
    for folder in folders.values():
        (folder / "stopped.json").unlink(missing_ok=True)
    enrol(folders, COORDINATOR)
    if transport == "memory":
        _in_memory(folders, study, watch)
    else:
        _Processes(run, study, folders, watch).run()
    for folder in folders.values():
        (folder / IDENTITY).unlink()  # made for this run, of no use after it


def read_metrics(path: Path) -> Iterator[tuple[float, Progress]]:
    """(time, event) of a node's metrics.jsonl, in order; a torn last line, as a kill leaves it, ends it."""
    decoder = msgspec.json.Decoder(_Timed)
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(msgspec.DecodeError):
            timed = decoder.decode(line)
            yield timed.at, timed.event


def _in_memory(folders: dict[str, Path], study: Study, watch: Watch) -> None:
    hub = MemoryHub(frame_limit(study))
    shells: dict[str, Shell] = {}
    for name, folder in folders.items():
        observe = _both(metrics_writer(folder), name, watch)
        trainer = inline_trainer(folder, observe)
        if name == COORDINATOR:
            shells[name] = build_coordinator(folder, open_own(folder), hub.server, trainer, observe)
        else:
            shells[name] = build_site(folder, open_own(folder), hub.client, trainer, observe)
    try:
        alive = set(shells)
        while alive:
            alive = {name for name in sorted(alive) if shells[name].pump(0.0)}
            for name in shells.keys() - alive:
                stop = shells[name].outcome
                if stop is not None and stop.reason != "finished":
                    raise FederationFailed(f"{name} stopped: {stop.reason}. {stop.detail}".rstrip())
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None
    finally:
        for shell in shells.values():
            shell.close()
    _note_finished(folders)


def _both(write: Observe, name: str, watch: Watch) -> Observe:
    def observe(event: Progress) -> None:
        write(event)
        watch(name, event)

    return observe


def _note_finished(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        explain(folder, Stop("finished"))


def _reason(folder: Path) -> tuple[str, str] | None:
    path = folder / "stopped.json"
    if not path.is_file():
        return None
    stopped = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    return stopped["reason"], stopped["detail"]


class _Processes:
    """The nodes as operating-system processes that know each other only through sockets."""

    def __init__(self, run: Path, study: Study, folders: dict[str, Path], watch: Watch) -> None:
        self._run = run
        self._study = study
        self._folders = folders
        self._watch = watch
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tails = {name: _Tail(folder / "metrics.jsonl") for name, folder in folders.items()}

    def run(self) -> None:
        try:
            endpoint = self._start_coordinator()
            connect(self._run, self._study, endpoint)
            for member in self._study.sites:
                self._start(member.name, "site", str(self._folders[member.name]))
            while not self._over():
                self._look()
                time.sleep(LOOK_EVERY_S)
            self._look()
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        finally:
            self._end()

    def _start_coordinator(self) -> str:
        folder = self._folders[COORDINATOR]
        (folder / "endpoint").unlink(missing_ok=True)
        process = self._start(COORDINATOR, "coordinator", str(folder), ENDPOINT)
        until = time.monotonic() + START_S
        while not (folder / "endpoint").exists():
            if process.poll() is not None or time.monotonic() > until:
                raise FederationFailed("the coordinator did not start; is loopback networking available?")
            time.sleep(LOOK_EVERY_S)
        return (folder / "endpoint").read_text()

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
        process = subprocess.Popen(
            [sys.executable, "-m", "fedsecure.node", *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, PARENT: str(os.getpid())},
        )
        self._processes[name] = process
        return process

    def _over(self) -> bool:
        """True when all have ended well; raises FederationFailed as soon as one has not."""
        codes = {name: process.poll() for name, process in self._processes.items()}
        for name, code in codes.items():
            if code is None:
                continue
            reason = _reason(self._folders[name])
            if reason is None:
                raise FederationFailed(f"{name} ended without a word (exit code {code})")
            if reason[0] != "finished":
                raise FederationFailed(f"{name} stopped: {reason[0]}. {self._cause(name)}".rstrip())
        return all(code is not None for code in codes.values())

    def _cause(self, name: str) -> str:
        """A node's own reason; for one that was only told to stop, the reason of whoever stopped first."""
        time.sleep(LOOK_EVERY_S)
        reasons = {other: _reason(folder) for other, folder in self._folders.items()}
        own = reasons[name]
        if own is not None and own[1]:
            return own[1]
        others = [f"{other}: {reason[1]}" for other, reason in reasons.items() if reason is not None and reason[1]]
        return "; ".join(others)

    def _look(self) -> None:
        # In the order of their clocks, which is one: what a round sent is told before its end.
        heard = [(at, name, event) for name, tail in self._tails.items() for at, event in tail.read()]
        for _, name, event in sorted(heard, key=lambda told: told[0]):
            self._watch(name, event)

    def _end(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        until = time.monotonic() + GRACE_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Tail:
    """New whole lines of a metrics.jsonl that another process appends to, from where it ended when we began."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.is_file() else 0
        self._decoder = msgspec.json.Decoder(_Timed)

    def read(self) -> list[tuple[float, Progress]]:
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._at += len(whole)
        timed = [self._decoder.decode(line) for line in whole.splitlines()]
        return [(line.at, line.event) for line in timed]
