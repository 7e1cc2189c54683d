"""What `fedsecure doctor` can see on one machine: keys, roster, disk, versions, and the site's own volumes.

A finding is for the operator's terminal. What is compared with other sites are three coarse categories of the volumes,
see `fedsecure.agreement`; nothing else of them is kept.
"""

from __future__ import annotations

import json
import platform
import shutil
import socket
import statistics
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np

from fedsecure.agreement import Category
from fedsecure.config import Site, Study
from fedsecure.errors import DataError
from fedsecure.node.membership import load_trust, now
from fedsecure.node.workbench import load_cohort
from fedsecure.plan import frame_limit
from fedsecure.types import Cohort

PACKAGES: Final = ("fedsecure", "torch", "numpy", "cryptography", "pyzmq", "msgspec")
SOON: Final = timedelta(days=14)  # a roster that ends within is to be renewed now
KEPT_MODELS: Final = 20  # largest frames' worth of disk that a node may need beside its cache
IN_PLANE_MM: Final = (0.5, 1.0, 1.5, 2.0, 3.0)  # upper edges of the bins; beyond is one more
BETWEEN_MM: Final = (2.0, 4.0, 7.0, 12.0)
_LOOKED_AT: Final = 32  # patients whose stored spacing is read
UNSAID: Final = ""


Level = Literal["ok", "warning", "failed"]


class Finding(NamedTuple):
    level: Level
    what: str
    text: str


def versions() -> dict[str, str]:
    """What this node runs."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def check_roster(folder: Path) -> Finding:
    """That a roster was accepted and for how long it holds. Raises RosterError."""
    trust = load_trust(folder)
    trust.roster(now())
    if trust.accepted is None:
        raise RuntimeError("a roster to act on, of no edition")
    left = trust.accepted.expires - now()
    text = f"version {trust.accepted.version}, {len(trust.accepted.sites)} sites, ends in {left.days} days"
    return Finding("warning", "roster", f"{text}: renew it") if left < SOON else Finding("ok", "roster", text)


def check_disk(folder: Path, study: Study) -> Finding:
    """That the models of a few rounds fit. The cache of prepared volumes is the operator's own estimate."""
    free, needed = shutil.disk_usage(folder).free, KEPT_MODELS * frame_limit(study)
    text = f"{free >> 20:,} MiB free, {needed >> 20:,} MiB for models and messages"
    return Finding("ok" if free >= needed else "failed", "disk", text)


def check_reachable(endpoint: str, timeout: float = 5.0) -> Finding:
    """That something listens where the coordinator should."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout).close()
    except TimeoutError:
        return Finding("failed", "port", f"{host}:{port} does not answer: a firewall on the way?")
    except socket.gaierror:
        return Finding("failed", "port", f"the name {host} is not known here")
    except OSError as error:
        return Finding("failed", "port", f"{host}:{port}: {error.strerror}; does the coordinator's doctor run?")
    return Finding("ok", "port", f"{host}:{port} accepts connections")


def check_data(folder: Path, study: Study, site: Site) -> tuple[Finding, Cohort | None]:
    """That the volumes can be read, and that the study's weight is the number that it trains on."""
    try:
        cohort = load_cohort(folder, study, site)
    except DataError as error:
        return Finding("failed", "data", error.for_owner()), None
    weight = next(member.weight for member in study.sites if member.name == site.name)
    labelled = sum(subject.labelled for subject in cohort.train)
    text = f"{len(cohort.train)} patients to train on, {labelled} of them labelled, {len(cohort.held_out)} held out"
    if weight != len(cohort.train):
        return Finding("warning", "data", f"{text}; the study says weight = {weight}"), cohort
    if labelled < max(study.finetune.labelled):
        return Finding("warning", "data", f"{text}; the study fine-tunes with {max(study.finetune.labelled)}"), cohort
    return Finding("ok", "data", text), cohort


def categories(site: Site, modality: str | None, cohort: Cohort) -> Mapping[Category, str]:
    """The three categories of a site's volumes. Empty where the site cannot say."""
    from fedsecure.data.source import open_source

    named = open_source(site.source).structures
    seen = sorted({int(value) for subject in cohort.train for volume in subject.volumes
                   if volume.label is not None for value in np.unique(volume.label)})  # fmt: skip
    return {
        Category.LABELS: json.dumps([named, seen]) if seen else UNSAID,
        Category.MODALITY: modality or UNSAID,
        Category.SPACING: _spacing(site),
    }


def _spacing(site: Site) -> str:
    """Bins of the median spacing as stored, in the plane and between slices."""
    from fedsecure.data.source import open_source
    from fedsecure.data.volume import FrameReader

    source = open_source(site.source)
    if site.subjects is not None:
        source = source.select(site.subjects)
    reader, stored = FrameReader(), []
    for patient in source.patients[:_LOOKED_AT]:
        try:
            stored.append(reader.image(patient.frames[0]).spacing_mm)
        except DataError:
            continue  # `check_data` has told
    if not stored:
        return UNSAID
    x, y, z = (statistics.median(lengths) for lengths in zip(*stored, strict=True))
    return f"{_bin(max(x, y), IN_PLANE_MM)} {_bin(z, BETWEEN_MM)}"


def _bin(length: float, edges: tuple[float, ...]) -> int:
    return sum(length > edge for edge in edges)
