"""`evaluate`: a model against labelled volumes of one's own, by structure, patient and site, on their own grids.

What may be handed on numbers patients from 1 within a site and names none. `files.csv`, which stays, says which file
each number is.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Final, Literal

import msgspec

from fedsecure.clinic.geometry import order_of
from fedsecure.clinic.measures import Calibration, Measured, Reliability, measure
from fedsecure.clinic.released import ReleasedModel
from fedsecure.clinic.segment import Segmenting
from fedsecure.data.layout import FrameFiles, Patient, Source
from fedsecure.data.volume import FrameReader, read_frame
from fedsecure.errors import DataError, SettingsError
from fedsecure.files import write_atomic
from fedsecure.types import FloatArray

Unit = Literal["mm", "voxels"]
MEASURES: Final = ("dice", "hd95", "assd", "surface_dice")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One structure in one volume. Fields are None as in `measures.Measured`."""

    site: str
    patient: int
    frame: int
    structure: str
    dice: float | None
    hd95: float | None
    assd: float | None
    surface_dice: float | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """All of evaluation.json. nominal: every header says 1 x 1 x 1 mm, which some write for "unknown"."""

    format: Literal[1] = 1
    model: str
    name: str
    unit: Unit
    tolerance: float
    nominal: bool
    structures: tuple[str, ...]
    rows: tuple[Row, ...]
    calibration: Calibration | None
    left_out: int
    fedsecure: str
    created: str


@dataclass(frozen=True, slots=True)
class Evaluated:
    """`files` are (site, patient, frame, path) and `errors` name files: both for this hospital's eyes alone."""

    evaluation: Evaluation
    files: tuple[tuple[str, int, int, Path], ...]
    errors: tuple[DataError, ...]


def evaluate(model: ReleasedModel, sources: Mapping[str, Source], unit: Unit, tolerance: float, device: str,
             told: Callable[[], None]) -> Evaluated:  # fmt: skip
    """Every labelled volume of `sources`, by the name of its site. `told` hears of each.

    A volume that cannot be used is left out and listed. Raises SettingsError where none has a label, DataError where
    none can be used.
    """
    work = list(_labelled(sources))
    if not work:
        raise SettingsError("no volume of this source has a label to compare with: see `fedsecure data inspect`")
    _check_structures(model, sources)
    segmenting = Segmenting.of(model.segmenter(device), model.manifest.data)
    reliability, reader = Reliability(), FrameReader()
    rows: list[Row] = []
    files: list[tuple[str, int, int, Path]] = []
    errors: list[DataError] = []
    spacings: set[tuple[float, ...]] = set()
    for site, number, frame in work:
        try:
            found, spacing = _frame(segmenting, frame, unit, tolerance, reliability, reader)
        except DataError as error:
            errors.append(error)
        else:
            spacings.add(spacing)
            files.append((site, number, frame.number, frame.image))
            rows += _rows(site, number, frame.number, model.manifest.structures, found)
        told()
    if not rows:
        raise errors[0]
    evaluation = Evaluation(
        model=model.id,
        name=model.manifest.card.name,
        unit=unit,
        tolerance=tolerance,
        nominal=spacings == {(1.0, 1.0, 1.0)},
        structures=model.manifest.structures,
        rows=tuple(rows),
        calibration=reliability.result(),
        left_out=len(errors),
        fedsecure=version("fedsecure"),
        created=datetime.now(UTC).date().isoformat(),
    )
    return Evaluated(evaluation, tuple(files), tuple(errors))


def write(evaluated: Evaluated, folder: Path) -> tuple[Path, ...]:
    """evaluation.{json,csv,html} and files.csv into a new or empty folder; the last names patients' files and stays."""
    from fedsecure.clinic.evaluation_page import page

    if folder.exists() and any(folder.iterdir()):
        raise SettingsError("the folder for the evaluation is not empty: name another one, nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    found = evaluated.evaluation
    head = ("site", "patient", "frame", "structure", *MEASURES)
    rows = ([getattr(row, name) for name in head] for row in found.rows)
    contents = {
        "evaluation.json": msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n",
        "evaluation.csv": _csv(head, rows),
        "evaluation.html": page(found).encode(),
        "files.csv": _csv(("site", "patient", "frame", "file"), evaluated.files),
    }
    for name, raw in contents.items():
        write_atomic(folder / name, raw)
    return tuple(folder / name for name in contents)


def mean(rows: Iterable[Row], name: str) -> float | None:
    """Mean over patients of the mean over a patient's volumes; None where nothing was measured."""
    patients: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for row in rows:
        value = getattr(row, name)
        if value is not None:
            patients[row.site, row.patient].append(value)
    return fmean(map(fmean, patients.values())) if patients else None


def _labelled(sources: Mapping[str, Source]) -> Iterator[tuple[str, int, FrameFiles]]:
    for site, source in sources.items():
        patients: list[Patient] = [p for p in source.patients if any(frame.label is not None for frame in p.frames)]
        for number, patient in enumerate(patients, start=1):
            yield from ((site, number, frame) for frame in patient.frames if frame.label is not None)


def _check_structures(model: ReleasedModel, sources: Mapping[str, Source]) -> None:
    for source in sources.values():
        if source.structures is not None and source.structures != model.manifest.structures:
            raise SettingsError(
                "the source names other structures than the model: the model's are "
                f"{', '.join(model.manifest.structures)}, in this order"
            )


def _frame(segmenting: Segmenting, frame: FrameFiles, unit: Unit, tolerance: float, reliability: Reliability,
           reader: FrameReader) -> tuple[tuple[Measured, ...], tuple[float, ...]]:  # fmt: skip
    raw, reference = read_frame(frame, segmenting.data, reader)
    if reference is None:
        raise DataError("the volume has no label", frame.image)
    label = reference.voxels.round().astype("uint8")
    upright = label.transpose(order_of(raw, segmenting.data))

    def look(k: int, page: FloatArray) -> None:
        reliability.add(page, upright[:, :, k])

    prediction = segmenting.labels(raw, frame.image, look)
    spacing = raw.spacing_mm if unit == "mm" else (1.0, 1.0, 1.0)
    found = measure(prediction, label, len(segmenting.data.structures), spacing, tolerance)
    return found, tuple(round(length, 4) for length in raw.spacing_mm)


def _rows(site: str, patient: int, frame: int, structures: Sequence[str], found: Sequence[Measured]) -> Iterator[Row]:
    for structure, one in zip(structures, found, strict=True):
        yield Row(
            site=site, patient=patient, frame=frame, structure=structure,
            dice=one.dice, hd95=one.hd95, assd=one.assd, surface_dice=one.surface_dice,
        )  # fmt: skip


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()
