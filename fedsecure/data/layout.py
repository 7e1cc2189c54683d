"""What a source of volumes is made of before a voxel is read: patients, and the files of each of their frames.

Names and paths are private: no repr prints them, so none reaches a log by accident.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fedsecure.errors import DataError, SettingsError
from fedsecure.types import FloatArray

SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True, slots=True)
class FrameFiles:
    """The files of one volume. `number` counts a patient's frames from 1, or is the layout's own frame number.

    image: a NIfTI file, or the folder of a DICOM series whose files, one per slice, are `slices`.
    index: place on the image's fourth axis (time); None where the file holds one volume.
    """

    image: Path
    label: Path | None
    index: int | None
    number: int
    slices: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that this volume is read from, the label's last."""
        return (self.slices or (self.image,)) + (() if self.label is None else (self.label,))

    def __repr__(self) -> str:
        return f"FrameFiles(number={self.number}, labelled={self.label is not None})"


@dataclass(frozen=True, slots=True)
class Patient:
    """One person as the source names them. `group` is a class of the source's own, such as a diagnosis."""

    name: str
    group: str | None
    frames: tuple[FrameFiles, ...]

    def __repr__(self) -> str:
        return f"Patient(frames={len(self.frames)})"


@dataclass(frozen=True, slots=True)
class Source:
    """All patients of one site, sorted by name. `structures` names label values 1, 2, ... where the layout tells."""

    patients: tuple[Patient, ...]
    structures: tuple[str, ...] | None

    def select(self, positions: Iterable[int]) -> Self:
        """The patients at these positions, in the order given. Raises SettingsError for a wrong or repeated one."""
        chosen = tuple(positions)
        if len(set(chosen)) != len(chosen):
            raise SettingsError("subjects: a position stands twice")
        if any(not 0 <= position < len(self.patients) for position in chosen):
            raise SettingsError(f"subjects: positions run from 0 to {len(self.patients) - 1} in this source")
        return type(self)(tuple(self.patients[position] for position in chosen), self.structures)

    def __repr__(self) -> str:
        return f"Source(patients={len(self.patients)})"


@dataclass(frozen=True, slots=True)
class Raw:
    """One volume as stored: voxels [X, Y, Z] float32, slices along the last axis; affine [4, 4] voxel -> RAS+ mm."""

    voxels: FloatArray
    affine: npt.NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """(x, y, z) distance between voxel centres."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    def __repr__(self) -> str:
        return f"Raw(shape={self.voxels.shape})"


def children(folder: Path) -> tuple[Path, ...]:
    """What lies in a folder, sorted by name, without hidden files. Raises DataError if it cannot be listed."""
    try:
        return tuple(sorted(path for path in folder.iterdir() if not path.name.startswith(".")))
    except FileNotFoundError:
        raise DataError("the path of the source does not exist", folder) from None
    except NotADirectoryError:
        raise DataError("the path of the source is a file; name the folder that holds the volumes", folder) from None
    except OSError as error:
        raise DataError(f"the folder cannot be read: {error.strerror}", folder) from None


def stem(path: Path) -> str:
    """A NIfTI file's name without .nii or .nii.gz; other names unchanged."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def is_nifti(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def checked(patients: Iterable[Patient], structures: tuple[str, ...] | None, root: Path, expected: str) -> Source:
    """A source in its deterministic order. Raises DataError when it is empty, saying what was looked for."""
    ordered = tuple(sorted(patients, key=lambda patient: patient.name))
    if not ordered:
        raise DataError(f"no patient found; expected {expected}", root)
    return Source(ordered, structures)
