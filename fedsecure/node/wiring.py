"""The one place of the nodes that picks a transport and joins a node's parts. Takes no entropy: it comes from the OS.

A node is its folder. `lay_out_*` write it, `run_*` bring it to life in this process until it stops.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from fedsecure.config import Run, Site, Study, dump, load
from fedsecure.egress import Gate
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.node.coordinator_shell import CoordinatorShell
from fedsecure.node.events import Stop
from fedsecure.node.membership import Own, open_own
from fedsecure.node.roster_watch import RosterWatch
from fedsecure.node.shell import run
from fedsecure.node.site_shell import SiteShell
from fedsecure.node.store import Store
from fedsecure.node.trainer import InlineTrainer, ProcessTrainer, Trainer
from fedsecure.plan import frame_limit
from fedsecure.progress import Observe, Progress, to_json
from protocols.handshake import Party
from protocols.transport.base import ClientTransport, ServerTransport
from protocols.transport.zmq_curve import CurveClient, CurveServer

COORDINATOR = "coordinator"
PARENT = "FEDSECURE_PARENT"  # environment variable: the process whose end is the node's end


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
    folder: Path, own: Own, connect: Callable[[Party], ClientTransport], trainer: Trainer, observe: Observe
) -> SiteShell:
    """A site from its folder, `own` from `open_own`; `connect` makes its transport.

    Raises SettingsError when something in the folder does not hold.
    """
    study = load(Study, (folder / "study.json").read_bytes())
    site = load(Site, (folder / "site.json").read_bytes())
    if site.name != own.name:
        raise SettingsError(f"this folder's keys are {own.name}'s, and its settings are {site.name}'s")
    identity, roster, store = own.identity, own.roster, Store(folder)
    boot = store.next_boot()
    transport = connect(Party(site.name, identity, roster, study.digest(), boot))
    readers = {name: roster.members[name] for name in roster.sites if name != site.name}
    gate = Gate(
        identity, site.name, study, boot, readers, roster.coordinator, store,
        lambda _, frame: transport.send(frame), observe, site.maximum_upload,
    )  # fmt: skip
    return SiteShell(site.name, study, identity, roster, store, gate, trainer, observe, transport=transport, boot=boot)


def build_coordinator(
    folder: Path, own: Own, bind: Callable[[Party], ServerTransport], trainer: Trainer, observe: Observe
) -> CoordinatorShell:
    """A coordinator from its folder; `bind` makes its transport. Raises as `build_site`."""
    study = load(Study, (folder / "study.json").read_bytes())
    identity, roster, store = own.identity, own.roster, Store(folder)
    boot = store.next_boot()
    transport = bind(Party(own.name, identity, roster, study.digest(), boot))
    gate = Gate(identity, roster.coordinator, study, boot, {}, roster.coordinator, store, transport.send, observe)
    return CoordinatorShell(
        roster.coordinator, study, identity, roster, store, gate, trainer, observe, transport=transport
    )


def run_site(folder: Path) -> Stop:
    """A site as a process: CURVE to the coordinator, training in a worker process; until it stops."""
    study = load(Study, (folder / "study.json").read_bytes())
    site = load(Site, (folder / "site.json").read_bytes())
    own = open_own(folder)

    def connect(party: Party) -> ClientTransport:
        return CurveClient(party, maximum=frame_limit(study), endpoint=site.coordinator)

    shell = build_site(folder, own, connect, ProcessTrainer(folder), metrics_writer(folder))
    return run(shell, _until_told(folder, shell.veto, RosterWatch(folder, own, shell.follow)))


def run_coordinator(folder: Path, endpoint: str) -> Stop:
    """The coordinator as a process. Writes the endpoint it bound to the file `endpoint` of its folder."""
    study = load(Study, (folder / "study.json").read_bytes())
    own = open_own(folder)

    def bind(party: Party) -> ServerTransport:
        server = CurveServer(party, maximum=frame_limit(study), endpoint=endpoint)
        write_atomic(folder / "endpoint", server.endpoint.encode())
        return server

    shell = build_coordinator(folder, own, bind, ProcessTrainer(folder), metrics_writer(folder))
    return run(shell, _until_told(folder, shell.veto, RosterWatch(folder, own, shell.follow)))


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
