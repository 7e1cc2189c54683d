"""What a source would give to a study, patient by patient, for the terminal of the data's owner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedsecure.config import DataSettings
from fedsecure.data.cohort import Examined, examine
from fedsecure.data.layout import Patient, Raw, Source
from fedsecure.data.volume import FrameReader, reverses_z
from fedsecure.errors import DataError, SettingsError
from fedsecure.types import Subject


@dataclass(frozen=True, slots=True)
class Row:
    """One patient. What is stored is of the first frame that can be read; None where none can.

    grid: (x, y, z) voxels; spacing_mm: (x, y, z); intensities: least and greatest stored value.
    """

    position: int
    subject: Subject | None
    group: str | None
    frames: int
    labelled: int
    grid: tuple[int, ...] | None
    spacing_mm: tuple[float, ...] | None
    intensities: tuple[float, float] | None
    reversed_z: bool
    errors: tuple[DataError, ...]

    @property
    def verdict(self) -> str:
        if self.subject is None:
            return "left out"
        used = len(self.subject.volumes)
        return "used" if used == self.frames else f"{used} of {self.frames} frames used"


def settings_for(source: Source, settings: DataSettings) -> DataSettings:
    """The settings with the source's own names of structures, unless some were given.

    Raises SettingsError when there are labels and nobody says what their values mean.
    """
    if settings.structures:
        return settings
    if source.structures is not None:
        return settings.model_copy(update={"structures": source.structures})
    if any(frame.label is not None for patient in source.patients for frame in patient.frames):
        raise SettingsError("the source does not name its label values: say --structures NAME,NAME,... for 1, 2, ...")
    return settings


def rows(source: Source, settings: DataSettings, cache: Path, salt: bytes) -> Iterator[Row]:
    """One row per patient, in the source's order. Raises DataError at the first bad file if `on_error` is "stop"."""
    reader = FrameReader()
    for position, examined in enumerate(examine(source, settings, cache, salt)):
        if examined.errors and settings.on_error == "stop":
            raise examined.errors[0]
        yield _row(position, examined, _stored(examined.patient, reader), settings)


def _row(position: int, examined: Examined, raw: Raw | None, settings: DataSettings) -> Row:
    patient = examined.patient
    return Row(
        position=position,
        subject=examined.subject,
        group=patient.group,
        frames=len(patient.frames),
        labelled=sum(frame.label is not None for frame in patient.frames),
        grid=None if raw is None else tuple(raw.voxels.shape),
        spacing_mm=None if raw is None else raw.spacing_mm,
        intensities=None if raw is None else (float(raw.voxels.min()), float(raw.voxels.max())),
        reversed_z=raw is not None and reverses_z(raw, settings),
        errors=examined.errors,
    )


def _stored(patient: Patient, reader: FrameReader) -> Raw | None:
    for frame in patient.frames:
        try:
            return reader.image(frame)
        except DataError:
            continue  # `examine` has told why
    return None
