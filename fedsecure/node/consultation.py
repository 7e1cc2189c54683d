"""`fedsecure doctor` over the transport that the study will use: `comparison`'s ends joined to real sockets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
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
from protocols.transport.zmq_curve import CurveClient, CurveServer


def consult_coordinator(
    folder: Path, own: Own, study: Study, versions: Mapping[str, str], endpoint: str, wait_s: float
) -> list[Finding]:
    """The coordinator's end of `fedsecure doctor`: listen where the study will, and compare the sites that come.

    folder: the node's; what was sent is on record in its sub-folder `doctor`. Raises SettingsError.
    """
    require_free(endpoint)
    transport = CurveServer(own.identity, own.roster, maximum=AGREEMENTS.maximum, endpoint=endpoint)
    with _doctors_gate(folder, own, study, transport.send) as gate:
        end = CoordinatorEnd(own, study, versions, gate.compare, os.urandom, wait_s=wait_s)
        try:
            while not end.done:
                for peer, raw in transport.poll(0.05):
                    end.receive(peer, raw)
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
    transport = CurveClient(own.identity, own.roster, maximum=AGREEMENTS.maximum, endpoint=endpoint)
    with _doctors_gate(folder, own, study, lambda _, frame: transport.send(frame)) as gate:
        end = SiteEnd(own, study, versions, gate.compare, os.urandom, values=values)
        until = time.monotonic() + 2 * wait_s
        try:
            while not end.done and time.monotonic() < until:
                for raw in transport.poll(0.05):
                    end.receive(own.roster.coordinator, raw)
                end.tick(time.monotonic())
        finally:
            transport.close()
    if not end.done:
        end.findings.append(
            Finding("failed", "sites", "nothing was compared: run the doctor on all nodes at the same time")
        )
    return end.findings


@contextmanager
def _doctors_gate(folder: Path, own: Own, study: Study, send: Callable[[str, bytes], None]) -> Iterator[Gate]:
    store = Store(folder / "doctor")
    try:
        coordinator = own.roster.coordinator
        yield Gate(own.identity, own.name, study, store.next_boot(), {}, coordinator, store, send, ignore)
    finally:
        store.close()
