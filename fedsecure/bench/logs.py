"""Transparency logs of a federation that trains nothing: real gates, stores and checkpoints, and frames between them.

Every site says in a round what it says in a small study's (an update, its head, that it is done) and is sent a model
and the heads of all others. What is measured is `audit verify` over what they leave, and tests use the same logs.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from pathlib import Path
from typing import Final

import numpy as np

from fedsecure.audit.log import Told, received
from fedsecure.config import Study, parse_study
from fedsecure.egress import Gate, RoundContext
from fedsecure.node.checkpoints import Checkpoints
from fedsecure.node.closing import close_log
from fedsecure.node.membership import now, save_trust
from fedsecure.node.store import Store
from fedsecure.packing import pack_model
from fedsecure.plan import frame_limit, schedule
from fedsecure.progress import ignore
from fedsecure.types import Flow, Tensors, Update, schema_of
from keys.edition import FEDERATION_SIZE, LIFETIME, NOTHING, Edition, Member
from keys.identity import Identity
from keys.roster import Roster
from keys.trust import Pin, Trust
from protocols.envelope import ReplayGuard, open_frame
from protocols.errors import FaultyPeer
from protocols.messages import Logging, RoundDone, RoundOpen, kind_of, model_digest
from protocols.tlog.leaf import flow_of, model_of, place_of

HUB: Final = "coordinator"
_MODEL: Final[Tensors] = {"a": np.ones((4, 4), np.float32), "b": np.zeros(8, np.float32)}
_BYTES: Final = pack_model(_MODEL)
_CONTEXT: Final = RoundContext(0, 0, schema_of(_MODEL), model_digest(_BYTES))


class LogNode:
    """A node's gate, log and checkpoints, and what it took. `faults`: of whom its checkpoints told."""

    def __init__(self, world: LogWorld, name: str, boot: int = 1) -> None:
        self.name, self.folder = name, world.folder_of(name)
        self.faults: list[FaultyPeer] = []
        self.store, self.replay, self.identity = Store(self.folder), ReplayGuard(), world.identities[name]
        readers = {site: world.identities[site].public for site in world.sites if site != name}
        self.gate = Gate(
            self.identity, name, world.study, boot, readers, HUB, self.store,
            lambda peer, frame: world.wire.append((name, peer, frame)), ignore,
        )  # fmt: skip
        self.checkpoints = Checkpoints(
            name, world.study, self.identity, world.roster, self.store, fault=self.faults.append,
            say=lambda peer, message: self.gate.share(peer, message, *world.at), position=lambda: world.at,
        )  # fmt: skip


class LogWorld:
    """A coordinator and sites below `folder`, laid out as a run's are."""

    def __init__(self, folder: Path, sites: int, rounds: int) -> None:
        self.folder = folder
        self.sites = tuple(f"site-{number:03}" for number in range(sites))
        raw = {
            "sites": [{"name": name, "weight": 1} for name in self.sites], "baseline": False,
            "pretrain": {"rounds": rounds}, "security": {"secagg": False},
            "finetune": {"labelled": [1], "modes": ["local"]},
        }  # fmt: skip
        self.study: Study = parse_study(raw)
        self.identities = {name: Identity.generate() for name in (HUB, *self.sites)}
        self.edition = self._edition()
        members = {name: member.public for name, member in self.edition.members.items()}
        self.roster = Roster(HUB, members)
        self.wire: deque[tuple[str, str, bytes]] = deque()
        self.at = (0, 0)
        self.log_seconds = 0.0  # that the sites spent on their logs
        self.nodes = {name: LogNode(self, name) for name in self.identities}

    def folder_of(self, name: str) -> Path:
        return self.folder / HUB if name == HUB else self.folder / "sites" / name

    def round(self, number: int) -> None:
        """One round of the first stage."""
        self.at = (0, number)
        hub = self.nodes[HUB]
        for site in self.sites:
            hub.checkpoints.round_opens(*self.at)
            hub.checkpoints.show(site)
            opening = RoundOpen(0, number, _CONTEXT.model_digest, (), (), b"", b"", _BYTES)
            hub.gate.publish(site, opening, 0, number)
        self.deliver()
        for site in self.sites:
            node = self.nodes[site]
            node.gate.release(Update(Flow.WEIGHTS, dict(_MODEL)), _CONTEXT._replace(round=number))
            began = time.perf_counter()
            node.checkpoints.round_done(*self.at)
            self.log_seconds += time.perf_counter() - began
            node.gate.control(HUB, RoundDone(0, number), *self.at)
        self.deliver()

    def deliver(self) -> None:
        """Hand over all that was sent, in order, and what is said in answer."""
        while self.wire:
            self.hand_over(*self.wire.popleft())

    def hand_over(self, sender: str, recipient: str, frame: bytes) -> None:
        """One frame; its recipient puts it on record, as `node.shell` does."""
        node = self.nodes[recipient]
        opened = open_frame(
            frame, peer=sender, me=recipient, study=self.study.digest(), roster=self.roster, replay=node.replay,
            maximum=frame_limit(self.study),
        )  # fmt: skip
        message = opened.message
        place = place_of(message) or self.at
        told = Told(kind_of(message), sender, flow_of(message), *place, model_of(message))
        digest = hashlib.sha256(frame).digest()
        began = time.perf_counter()
        node.store.note(received(node.store.leaves(), told, len(frame), digest))
        if isinstance(message, Logging):
            node.checkpoints.take(sender, message)
        if recipient != HUB:
            self.log_seconds += time.perf_counter() - began

    def close(self) -> None:
        """The study is over: last heads, and everybody's evidence."""
        hub = self.nodes[HUB]
        hub.checkpoints.round_opens(len(schedule(self.study)), 0)
        for site in self.sites:
            hub.checkpoints.show(site)
        self.deliver()
        for node in self.nodes.values():
            self.leave_evidence(node)
            node.store.close()

    def leave_evidence(self, node: LogNode) -> None:
        close_log(node.store, node.name, self.study, node.identity, node.gate.policy, {})

    def _edition(self) -> Edition:
        moment = now()
        members = {name: Member(name, identity.public) for name, identity in self.identities.items()}
        edition = Edition(os.urandom(FEDERATION_SIZE), 1, NOTHING, moment, moment + LIFETIME, HUB, members)
        for site in edition.sites:
            edition = edition.signed(site, self.identities[site])
        pins = {name: Pin(name, member.public.fingerprint) for name, member in members.items()}
        for name in members:
            folder = self.folder_of(name)
            folder.mkdir(parents=True)
            save_trust(folder, Trust(edition.federation, name, 1, pins).accept(edition, moment))
        return edition


def write_logs(folder: Path, sites: int, rounds: int) -> LogWorld:
    """A run of so many rounds that is over, its evidence below `folder`."""
    world = LogWorld(folder, sites, rounds)
    for number in range(rounds):
        world.round(number)
    world.close()
    return world
