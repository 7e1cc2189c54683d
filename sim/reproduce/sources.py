"""What a source of volumes says before anything is trained: how many patients, which groups, which structures."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fedsecure.data.layout import Source
from fedsecure.data.nifti import NiftiReader
from fedsecure.data.phantom import STRUCTURES, VERSION
from fedsecure.data.source import open_source
from fedsecure.errors import SettingsError
from sim.partition import LEAST

PHANTOM: Final = "phantom"
LABELS_READ: Final = 24  # of a source that does not name its structures
MOST_GROUPS: Final = 20  # more are no hospitals, but something like a column of ages


@dataclass(frozen=True, slots=True)
class Described:
    """`address` is None for phantoms, whose patients each site gets of its own. `fingerprint`: digest of names, groups
    and sizes of files; that of a copy elsewhere is the same."""

    kind: str
    address: str | None
    structures: tuple[str, ...]
    groups: tuple[str | None, ...]
    fingerprint: str

    @property
    def patients(self) -> int:
        return len(self.groups)

    @property
    def natural_sites(self) -> int | None:
        """The number of groups, where every patient has one and each could be a hospital."""
        sizes = Counter(self.groups)
        if None in sizes or not 2 <= len(sizes) <= MOST_GROUPS or min(sizes.values()) < LEAST:
            return None
        return len(sizes)

    def __repr__(self) -> str:
        return f"Described({self.kind}, patients={self.patients})"


def describe(address: str) -> Described:
    """Look at a source. Reads headers, sizes and, where its layout names no structures, some labels.

    Raises SettingsError and DataError as `open_source`, and SettingsError where no patient has a label.
    """
    if address == PHANTOM:
        return Described(PHANTOM, None, STRUCTURES, (), f"phantom-v{VERSION}")
    source = open_source(address)
    kind, _, path = address.partition(":")
    return Described(
        kind=kind,
        address=f"{kind}:{Path(path).expanduser().resolve()}",
        structures=source.structures or _numbered(source),
        groups=tuple(patient.group for patient in source.patients),
        fingerprint=_fingerprint(source),
    )


def _numbered(source: Source) -> tuple[str, ...]:
    """Names for label values that the source does not name: as many as the first labels hold. A value found later that
    none of these had is refused when its file is read."""
    labels = [frame.label for patient in source.patients for frame in patient.frames if frame.label is not None]
    if not labels:
        raise SettingsError("no patient of this source has a label: there is nothing to fine-tune on or to score")
    reader = NiftiReader()
    spread = [labels[i] for i in sorted({int(i) for i in np.linspace(0, len(labels) - 1, LABELS_READ)})]
    values = int(max(float(reader.read(label, None).voxels.max()) for label in spread))
    if values < 1:
        raise SettingsError("the labels of this source hold no structure, only background")
    return tuple(f"structure {value}" for value in range(1, values + 1))


def _fingerprint(source: Source) -> str:
    files = [
        [patient.name, patient.group, [[size(frame.files), frame.index, frame.number] for frame in patient.frames]]
        for patient in source.patients
    ]
    return hashlib.sha256(b"fedsecure/source/v1\0" + msgspec.json.encode(files)).hexdigest()


def size(files: Sequence[Path]) -> int:
    """Bytes of all of them; one that is gone counts nothing, and is refused when it is read."""
    return sum(file.stat().st_size for file in files if file.exists())
