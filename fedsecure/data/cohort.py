"""The patients of one site as training sees them: opaque ids, prepared volumes, a split by patient."""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedsecure.config import DataSettings
from fedsecure.data.cache import Store
from fedsecure.data.layout import Patient, Source
from fedsecure.errors import DataError
from fedsecure.seeds import derive_seed
from fedsecure.types import Cohort, Subject, Volume

_SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Prepared:
    """`subjects` in the source's order; `excluded` says what was left out and why, and for its owner which file."""

    subjects: tuple[Subject, ...]
    excluded: tuple[DataError, ...]


@dataclass(frozen=True, slots=True)
class Examined:
    """One patient after examination. `subject` is None when nothing of it can be used; `errors` says why."""

    patient: Patient
    subject: Subject | None
    errors: tuple[DataError, ...]


def prepare(
    source: Source,
    settings: DataSettings,
    cache: Path,
    salt: bytes,
    observe: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Prepare every patient, one volume at a time. `observe(done, total)` counts patients.

    Raises DataError for the first file that cannot be used (`on_error` "stop"), or when nothing is left of the source
    (`on_error` "exclude").
    """
    subjects: list[Subject] = []
    excluded: list[DataError] = []
    for done, examined in enumerate(examine(source, settings, cache, salt), start=1):
        if examined.errors and settings.on_error == "stop":
            raise examined.errors[0]
        excluded += examined.errors
        if examined.subject is not None:
            subjects.append(examined.subject)
        if observe is not None:
            observe(done, len(source.patients))
    if not subjects:
        raise DataError(
            f"no patient of this source can be used; the first of {len(excluded)} reasons: {excluded[0].reason}"
            if excluded
            else "no patient is selected from this source"
        )
    return Prepared(tuple(subjects), tuple(excluded))


def examine(source: Source, settings: DataSettings, cache: Path, salt: bytes) -> Iterator[Examined]:
    """Prepare patient after patient, telling what is wrong with each. A second copy of a patient is not used."""
    store = Store(cache, settings)
    ids: set[str] = set()
    images: set[bytes] = set()
    for patient in source.patients:
        subject, errors = _subject(patient, settings, store, salt)
        if subject is not None:
            contents = {content_digest(volume) for volume in subject.volumes}
            file = patient.frames[0].image
            if subject.id in ids:
                subject, errors = None, [*errors, DataError("a patient's name stands twice in the source", file)]
            elif contents & images:
                reason = "a patient's images are those of another patient, byte for byte"
                subject, errors = None, [*errors, DataError(reason, file)]
            else:
                ids.add(subject.id)
                images |= contents
        yield Examined(patient, subject, tuple(errors))


def divide(subjects: Sequence[Subject], settings: DataSettings, seed: int) -> Cohort:
    """Who trains and who is scored, as `settings` name them: held-out patients, or in their place validation patients
    out of those who are not held out. Raises DataError when there are too few for that."""
    cohort = split(subjects, settings.held_out, seed, settings.fold)
    if settings.judged == "held-out":
        return cohort
    if len(cohort.train) < 2:
        raise DataError(
            "a site needs three patients or more to train on one, validate on one and hold one out: add patients, or "
            "leave this site out of the study"
        )
    return split(cohort.train, settings.held_out, derive_seed(seed, "validation"))


def split(subjects: Sequence[Subject], held_out: float, seed: int, fold: tuple[int, int] | None = None) -> Cohort:
    """Hold out a share of the patients, at least one, and keep at least one. Both sides keep the order given.

    fold: (k, K) holds out the k-th of K parts instead, which under one seed have no patient in common and leave none
    out. Which ones depends on seed and position alone: ids hang on the site's secret and would make runs differ. Raises
    DataError when there are fewer than two patients, or fewer than K.
    """
    if len(subjects) < 2:
        raise DataError(
            "a site needs two patients or more, one to train on and one to hold out: add patients to the source, or "
            "leave this site out of the study"
        )
    count = min(max(round(held_out * len(subjects)), 1), len(subjects) - 1)
    ranked = sorted(range(len(subjects)), key=lambda position: derive_seed(seed, "held-out", position))
    out = set(ranked[:count])
    if fold is not None:
        if len(subjects) < fold[1]:
            raise DataError(f"{len(subjects)} patients of a site cannot be cut into {fold[1]} folds: use fewer folds")
        out = set(ranked[fold[0] :: fold[1]])
    cohort = Cohort(
        train=tuple(subject for position, subject in enumerate(subjects) if position not in out),
        held_out=tuple(subject for position, subject in enumerate(subjects) if position in out),
    )
    check_disjoint(cohort)
    return cohort


def check_disjoint(cohort: Cohort) -> None:
    """Raises DataError when a patient, by id or by the content of an image, is on both sides."""
    if {subject.id for subject in cohort.train} & {subject.id for subject in cohort.held_out}:
        raise DataError("a patient is both trained on and held out")
    if _contents(cohort.train) & _contents(cohort.held_out):
        raise DataError("an image is both trained on and held out, under two patients")


def content_digest(volume: Volume) -> bytes:
    """SHA-256 of the prepared image: equal for copies of a file, even when compressed or named differently."""
    return hashlib.sha256(np.ascontiguousarray(volume.image).data).digest()


def load_salt(path: Path) -> bytes:
    """The site's secret of 32 bytes that keys its subject ids; made once, readable by its owner alone.

    Raises DataError when the file cannot be read or made, or has another length.
    """
    try:
        if not path.exists():
            _create_salt(path)
        salt = path.read_bytes()
    except OSError as error:
        raise DataError(f"the salt of subject ids cannot be read or made: {error.strerror}", path) from None
    if len(salt) != _SALT_BYTES:
        raise DataError("the salt of subject ids is damaged: restore it, or delete it and all ids change", path)
    return salt


def _create_salt(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # mode 0600 from the start
        file.write(os.urandom(_SALT_BYTES))
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)  # whole or not at all, and never over another process's salt
        except FileExistsError:
            return


def _subject(
    patient: Patient, settings: DataSettings, store: Store, salt: bytes
) -> tuple[Subject | None, list[DataError]]:
    identity = "s-" + hmac.digest(salt, patient.name.encode(), "sha256").hex()[:12]
    volumes: list[Volume] = []
    errors: list[DataError] = []
    for frame in patient.frames:
        try:
            grid = store.volume(frame)
        except DataError as error:
            errors.append(error)
            if settings.on_error == "stop":
                break
        else:
            volumes.append(Volume(identity, frame.number, grid.image, grid.label, grid.spacing_mm))
    if not patient.frames:
        errors.append(DataError("a patient has no volume", Path(patient.name)))
    return (Subject(identity, patient.group, tuple(volumes)) if volumes else None), errors


def _contents(subjects: Sequence[Subject]) -> set[bytes]:
    return {content_digest(volume) for subject in subjects for volume in subject.volumes}
