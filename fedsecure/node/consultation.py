"""`fedsecure doctor` over the transport that the study will use: `comparison`'s ends joined to real sockets."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedsecure.agreement import AGREEMENTS, Category
from fedsecure.config import Study
from fedsecure.egress import Gate
from fedsecure.node.checks import Finding
from fedsecure.node.comparison import CoordinatorEnd, SiteEnd
from fedsecure.node.membership import Own
from fedsecure.node.store import Store
from fedsecure.node.wiring import require_free
from fedsecure.progress import ignore
from protocols.handshake import Party
from protocols.transport.zmq_curve import CurveClient, CurveServer


def consult_coordinator(
    folder: Path, own: Own, study: Study, versions: Mapping[str, str], endpoint: str, wait_s: float
) -> list[Finding]:
    """The coordinator's end of `fedsecure doctor`: listen where the study will, and compare the sites that come.

    folder: the node's; what was sent is on record in its sub-folder `doctor`. Raises SettingsError.
    """
    require_free(endpoint)
    with _doctors_store(folder) as (store, boot):
        party = Party(own.name, own.identity, own.roster, study.digest(), boot)
        transport = CurveServer(party, maximum=AGREEMENTS.maximum, endpoint=endpoint)
        gate = Gate(own.identity, own.name, study, boot, {}, own.name, store, transport.send, ignore)
        end = CoordinatorEnd(own, study, versions, gate.compare, os.urandom, wait_s=wait_s)
        try:
            while not end.done:
                for peer, raw in transport.poll(0.05):
                    end.receive(peer, raw)
                end.refused(transport.refusals())
                end.tick(time.monotonic())
        finally:
            transport.close()
    return end.findings


def consult_site(
    folder: Path,
    own: Own,
    study: Study,
    versions: Mapping[str, str],
    endpoint: str,
    wait_s: float,
    values: Mapping[Category, str] | None,
) -> list[Finding]:
    """A site's end; as `consult_coordinator`. values: what it compares, None if it could not read its volumes."""
    coordinator = own.roster.coordinator
    with _doctors_store(folder) as (store, boot):
        party = Party(own.name, own.identity, own.roster, study.digest(), boot)
        transport = CurveClient(party, maximum=AGREEMENTS.maximum, endpoint=endpoint)
        gate = Gate(
            own.identity, own.name, study, boot, {}, coordinator, store, lambda _, frame: transport.send(frame), ignore
        )  # fmt: skip
        end = SiteEnd(own, study, versions, gate.compare, os.urandom, values=values)
        until = time.monotonic() + 2 * wait_s
        try:
            while not end.done and time.monotonic() < until:
                for raw in transport.poll(0.05):
                    end.receive(coordinator, raw)
                end.refused(transport.refusals())
                end.tick(time.monotonic())
        finally:
            transport.close()
    if not end.done:
        end.findings.append(
            Finding("failed", "sites", "nothing was compared: run the doctor on all nodes at the same time")
        )
    return end.findings


@contextmanager
def _doctors_store(folder: Path) -> Iterator[tuple[Store, int]]:
    """The store of the doctor, and how often it was run here."""
    store = Store(folder / "doctor")
    try:
        yield store, store.next_boot()
    finally:
        store.close()
