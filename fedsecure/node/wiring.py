"""The one place of the nodes that picks a transport and joins a node's parts. Takes no entropy: it comes from the OS.

A node is its folder. `lay_out_*` write it, `run_*` bring it to life in this process until it stops.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TextIO

from fedsecure.config import Run, Site, Study, dump, load
from fedsecure.egress import Gate
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.greeting import START_SIZE, software, works_with
from fedsecure.node.coordinator_shell import CoordinatorShell
from fedsecure.node.events import Stop
from fedsecure.node.health import Health
from fedsecure.node.log import Level, Log
from fedsecure.node.membership import Own, load_trust, open_own
from fedsecure.node.roster_watch import RosterWatch
from fedsecure.node.shell import Shell, run
from fedsecure.node.site_shell import SiteShell
from fedsecure.node.store import Store
from fedsecure.node.tapping import Inspect, inline_tap, process_tap
from fedsecure.node.trainer import InlineTrainer, ProcessTrainer, Trainer
from fedsecure.node.vitals import Status, Vitals
from fedsecure.plan import frame_limit
from fedsecure.progress import Observe, Progress, to_json
from keys.errors import KeysError
from keys.passphrase import Passphrase, resolve
from protocols.handshake import Party
from protocols.transport.base import ClientTransport, ServerTransport
from protocols.transport.zmq_curve import CurveClient, CurveServer

Heard = Callable[[str, int], None]  # peer, bytes of a frame that came

COORDINATOR = "coordinator"
PARENT = "FEDSECURE_PARENT"  # environment variable: the process whose end is the node's end


def _unheard(_: str, __: int) -> None:
    pass


def lay_out(folder: Path, study: Study, settings: Run, site: Site | None = None) -> None:
    """Write what a node needs to know into its folder, except keys and roster. A coordinator has no `site`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "study.json", dump(study))
    write_atomic(folder / "run.json", dump(settings))
    if site is not None:
        write_atomic(folder / "site.json", dump(site))


def metrics_writer(folder: Path) -> Observe:
    """An observer that appends each event to the node's own metrics.jsonl, with the time."""
    file = (folder / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")

    def observe(event: Progress) -> None:
        file.write(f'{{"at":{time.time():.3f},"event":{to_json(event).decode()}}}\n')

    return observe


def build_site(
    folder: Path,
    own: Own,
    connect: Callable[[Party], ClientTransport],
    trainer: Trainer,
    observe: Observe,
    heard: Heard = _unheard,
    clock: Callable[[], float] = time.monotonic,
    content_tests: Callable[[Path, Study], Inspect] = inline_tap,
) -> SiteShell:
    """A site from its folder, `own` from `open_own`; `connect` makes its transport, `content_tests` what looks at its
    releases unless its settings say that nothing does.

    Raises SettingsError when something in the folder does not hold.
    """
    study = load(Study, (folder / "study.json").read_bytes())
    site = load(Site, (folder / "site.json").read_bytes())
    if site.name != own.name:
        raise SettingsError(f"this folder's keys are {own.name}'s, and its settings are {site.name}'s")
    identity, roster, store = own.identity, own.roster, _open_store(folder)
    boot = store.next_boot()
    transport = connect(Party(site.name, identity, roster, study.digest(), boot))
    readers = {name: roster.members[name] for name in roster.sites if name != site.name}
    gate = Gate(
        identity, site.name, study, boot, readers, roster.coordinator, store,
        lambda _, frame: transport.send(frame), observe, site.maximum_upload,
        *([content_tests(folder, study)] if site.content_tests else []),
    )  # fmt: skip
    return SiteShell(
        site.name, study, identity, roster, store, gate, trainer, observe,
        clock, transport=transport, boot=boot, verified=lambda: frozenset(load_trust(folder).pins), floors=site.sums,
        start=os.urandom(START_SIZE), heard=heard,
    )  # fmt: skip


def build_coordinator(
    folder: Path,
    own: Own,
    bind: Callable[[Party], ServerTransport],
    trainer: Trainer,
    observe: Observe,
    heard: Heard = _unheard,
    clock: Callable[[], float] = time.monotonic,
) -> CoordinatorShell:
    """A coordinator from its folder; `bind` makes its transport. Raises as `build_site`."""
    study = load(Study, (folder / "study.json").read_bytes())
    identity, roster, store = own.identity, own.roster, _open_store(folder)
    boot = store.next_boot()
    transport = bind(Party(own.name, identity, roster, study.digest(), boot))
    gate = Gate(identity, roster.coordinator, study, boot, {}, roster.coordinator, store, transport.send, observe)
    return CoordinatorShell(
        roster.coordinator, study, identity, roster, store, gate, trainer, observe,
        clock, transport=transport, boot=boot, start=os.urandom(START_SIZE), heard=heard,
    )  # fmt: skip


def run_site(
    folder: Path,
    passphrase: Callable[[], Passphrase] = resolve,
    health: str | None = None,
    log: TextIO | None = None,
) -> Stop:
    """A site as a process: CURVE to the coordinator, training in a worker process; until it stops.

    health: where the health endpoint listens; None: nowhere. log: where the structured log goes; None: nowhere.
    Raises SettingsError, RosterError, IdentityError.
    """
    study = load(Study, (folder / "study.json").read_bytes())
    site = load(Site, (folder / "site.json").read_bytes())
    own = open_own(folder, passphrase)
    life = _Life(folder, own.name, health, log)

    def connect(party: Party) -> ClientTransport:
        return CurveClient(party, maximum=frame_limit(study), endpoint=site.coordinator)

    shell = build_site(folder, own, connect, ProcessTrainer(folder), life.observe, life.heard, waking_clock(),
                       process_tap)  # fmt: skip
    return life.run(shell, RosterWatch(folder, own, shell.follow))


def run_coordinator(
    folder: Path,
    endpoint: str,
    passphrase: Callable[[], Passphrase] = resolve,
    health: str | None = None,
    log: TextIO | None = None,
) -> Stop:
    """The coordinator as a process; the endpoint it bound goes to the file `endpoint` of its folder. As `run_site`."""
    study = load(Study, (folder / "study.json").read_bytes())
    own = open_own(folder, passphrase)
    require_free(endpoint)
    life = _Life(folder, own.name, health, log)

    def bind(party: Party) -> ServerTransport:
        server = CurveServer(party, maximum=frame_limit(study), endpoint=endpoint)
        write_atomic(folder / "endpoint", server.endpoint.encode())
        return server

    shell = build_coordinator(folder, own, bind, ProcessTrainer(folder), life.observe, life.heard)
    return life.run(shell, RosterWatch(folder, own, shell.follow))


def require_free(endpoint: str) -> None:
    """Raises SettingsError if nothing can listen at tcp://HOST:PORT, with the system's reason."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if port == "*":
        return
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("" if host == "*" else host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not an address"
        raise SettingsError(f"the coordinator cannot listen on {host}:{port}: {reason}") from None


def _open_store(folder: Path) -> Store:
    """Raises SettingsError if the folder's study was begun by a version that this one does not go on for."""
    store = Store(folder)
    begun = store.get("software")
    if begun is None:
        store.put(software=software().encode())
    elif not works_with(begun.decode(), software()):
        store.close()
        raise SettingsError(
            f"this study was begun with fedsecure {begun.decode()}, and this is {software()}: one study is run with "
            "one major.minor version from beginning to end. Install that one, or begin anew (docs/pilot.md, Upgrades)"
        )
    return store


def waking_clock() -> Callable[[], float]:
    """Seconds of a clock that never falls, and that counts a machine's sleep as soon as its wall clock is right again:
    rounds went on meanwhile (order.py)."""
    ahead = time.time() - time.monotonic()

    def now() -> float:
        nonlocal ahead
        running = time.monotonic()
        ahead = max(ahead, time.time() - running)
        return running + ahead

    return now


class _Life:
    """What a node's process does beside its loop: metrics, log, status, health; and it stops when told to."""

    def __init__(self, folder: Path, name: str, health: str | None, log: TextIO | None) -> None:
        self._folder = folder
        self._log = None if log is None else Log(name, log)
        self._vitals: Vitals | None = None
        self._observers = [metrics_writer(folder), *([] if self._log is None else [self._log.observe])]
        self._health = None if health is None else Health(health, self._latest)

    def observe(self, event: Progress) -> None:
        for observe in self._observers:
            observe(event)

    def _latest(self) -> Status | None:
        return None if self._vitals is None else self._vitals.latest

    def heard(self, peer: str, size: int) -> None:
        if self._vitals is not None:
            self._vitals.heard(peer, size)

    def run(self, shell: Shell, watch: RosterWatch) -> Stop:
        self._vitals = vitals = Vitals(self._folder, shell.sent_bytes(), software())
        self._observers.append(vitals.observe)
        if self._log is not None:
            self._log.say(Level.NOTICE, "started", software=software(), study=shell.standing().digest)
        told = _until_told(self._folder, shell.veto, watch)

        def should_stop() -> bool:
            vitals.write(shell.standing())
            return told()

        try:
            stop = run(shell, should_stop)
            vitals.write(shell.standing(), stop.reason)
        except KeysError as error:  # the roster is over, or has this node no more
            vitals.write(shell.standing(), str(error))
            if self._log is not None:
                self._log.say(Level.ERROR, "stopped", reason="roster", detail=str(error))
            raise
        finally:
            if self._health is not None:
                self._health.close()
        if stop.detail and self._log is not None:
            self._log.say(Level.ERROR, "reason", detail=stop.detail)
        return stop


def inline_trainer(folder: Path, observe: Observe) -> Trainer:
    """A trainer in this process, for federations in memory."""
    return InlineTrainer(folder, observe)


def explain(folder: Path, stop: Stop) -> None:
    """Leave the reason of a stop in the node's folder, for whoever started it."""
    write_atomic(folder / "stopped.json", json.dumps({"reason": stop.reason, "detail": stop.detail}).encode())


def _until_told(folder: Path, veto: Callable[[], None], rosters: RosterWatch) -> Callable[[], bool]:
    """Stop on SIGTERM, SIGINT and when whoever started us is gone; a file named veto is the site's veto."""
    told = False
    # Whoever starts a node and wants it to end with itself says so; a node that nobody watches runs on.
    parent = int(os.environ.get(PARENT, "0"))

    def on_signal(_: int, __: FrameType | None) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)

    def should_stop() -> bool:
        rosters.look()
        if (folder / "veto").exists():
            veto()
        return told or (parent != 0 and os.getppid() != parent)

    return should_stop
