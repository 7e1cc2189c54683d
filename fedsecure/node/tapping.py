"""Joins a site's cohort and its gate: content tests (audit.tap) of everything that the gate is asked to release.

The index of the cohort is made once, from the source and by the data door, never by the trainer, which could leave out
what it means to send. A node's process reaches no torch, so there a child makes it while the first round trains, and
hands it over by a pipe; it is nowhere on disk.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from fedsecure.audit import tap
from fedsecure.audit.fingerprint import Index
from fedsecure.audit.likeness import Gallery
from fedsecure.audit.tap import Reference, Tap
from fedsecure.config import Site, Study, load
from fedsecure.errors import FedsecureError, GateRefused
from fedsecure.node.trainer import die_with_parent
from fedsecure.plan import schedule
from fedsecure.types import FloatArray, Flow, Update

Inspect = Callable[[Update], None]
_PARTS: Final = frozenset(
    {"prepared", "prepared_windows", "native", "native_windows", "thresholds", "gallery"}
)  # fmt: skip


def inline_tap(folder: Path, study: Study) -> Inspect:
    """Content tests whose index is made in this process, when it is first needed."""
    return _Late(study, lambda: reference_of(folder))


def process_tap(folder: Path, study: Study) -> Inspect:
    """Content tests whose index a child process makes, from now on."""
    command = [sys.executable, "-m", "fedsecure.node", "index", str(folder)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def collect() -> Reference:
        raw, _ = child.communicate()
        if child.returncode != 0:
            raise GateRefused(
                "content tests: this site's volumes could not be read for them (fedsecure data inspect)", "content"
            )
        return unpacked(raw)

    return _Late(study, collect)


class _Late:
    """The tests, from the first update on. Fails closed: where there is no index, nothing leaves."""

    def __init__(self, study: Study, make: Callable[[], Reference]) -> None:
        self._updates = sum((stage.rounds + 1) * len(Flow) for stage in schedule(study))
        self._make = make
        self._tap: Tap | None = None

    def __call__(self, update: Update) -> None:
        """Raises GateRefused."""
        if self._tap is None:
            try:
                self._tap = Tap(self._make(), self._updates)
            except GateRefused:
                raise
            except FedsecureError as error:
                raise GateRefused(f"content tests: no index of this site's volumes: {error}", "content") from None
        self._tap(update)


def serve_index(folder: Path) -> None:
    """The child's work: the index of a site's cohort, to standard output."""
    die_with_parent()
    sys.stdout.buffer.write(packed(reference_of(folder)))


def reference_of(folder: Path) -> Reference:
    """Of all patients of the site, trained on or held out, as prepared and as stored. Raises DataError and others."""
    from fedsecure.node.workbench import load_cohort

    study, site = load(Study, (folder / "study.json").read_bytes()), load(Site, (folder / "site.json").read_bytes())
    cohort = load_cohort(folder, study, site)
    prepared = (volume.image for side in (cohort.train, cohort.held_out) for one in side for volume in one.volumes)
    return tap.reference(prepared, _stored(site))


def _stored(site: Site) -> Iterator[FloatArray]:
    from fedsecure.data.source import open_source
    from fedsecure.data.volume import FrameReader
    from fedsecure.errors import DataError

    source, reader = open_source(site.source), FrameReader()
    for patient in (source if site.subjects is None else source.select(site.subjects)).patients:
        for frame in patient.frames:
            try:
                voxels = reader.image(frame).voxels
            except DataError:
                continue  # what cannot be used trains nobody; the data door has said so
            yield voxels.transpose(2, 1, 0)


def packed(known: Reference) -> bytes:
    """As arrays of NumPy's own format, without pickle."""
    out = io.BytesIO()
    np.savez(
        out, prepared=known.prepared.keys, prepared_windows=known.prepared.windows, native=known.native.keys,
        native_windows=known.native.windows, gallery=known.gallery.slices,
        thresholds=np.array([known.prepared.threshold, known.native.threshold], np.int64),
    )  # fmt: skip
    return out.getvalue()


def unpacked(raw: bytes) -> Reference:
    """Inverse of `packed`."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as parts:
        known = {name: parts[name] for name in _PARTS}
    ours, stored = (int(one) for one in known["thresholds"])
    return Reference(
        Index(known["prepared"], known["prepared_windows"], ours),
        Index(known["native"], known["native_windows"], stored),
        Gallery(known["gallery"]),
    )
