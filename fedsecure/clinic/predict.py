"""`predict`: labels for files and series of one's own, on their own grids, in a folder of one's own.

Nothing leaves this machine, and nothing that lies in the output folder is overwritten unasked. A volume that cannot be
used does not stop the others: what went wrong is told of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fedsecure.clinic.card import Modality
from fedsecure.clinic.released import ReleasedModel
from fedsecure.clinic.segment import Segmenting
from fedsecure.clinic.viewer import write_page
from fedsecure.clinic.volumes import Item
from fedsecure.data.layout import Raw
from fedsecure.data.nifti import label_bytes
from fedsecure.data.volume import FrameReader
from fedsecure.errors import DataError, FedsecureError, SettingsError
from fedsecure.files import write_atomic
from fedsecure.types import LabelArray

RECORD: Final = "predictions.json"
_COLDEST_MR: Final = -200.0  # below, values are Hounsfield units: no magnitude image has them
_KNOWN: Final = frozenset({"MR", "CT", "PT", "NM", "US", "XA", "CR", "DX", "MG", "RF"})  # PS3.3 C.7.3.1.1.1
_AIR: Final = -300.0  # Hounsfield; a CT volume that reaches out of the body has it


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is written beside the labels in NIfTI, and how much care is taken."""

    modality: Modality | None = None  # of the volumes, told by their owner
    dicom_seg: bool = False
    view: bool = False
    overwrite: bool = False


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, for the record. Names are relative to IN and OUT."""

    output: str
    frame: int
    millilitres: dict[str, float]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """predictions.json: which model made what lies here."""

    model: str
    name: str
    fedsecure: str
    predicted: tuple[Predicted, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one item: what was made of it, or why nothing was."""

    item: Item
    predicted: tuple[Predicted, ...] = ()
    error: FedsecureError | None = None


Told = Callable[[Outcome], None]


def outputs(item: Item, out: Path, wanted: Wanted) -> tuple[Path, ...]:
    """The files that an item ends in: labels, and where wanted DICOM-SEG and the viewer's page."""
    base = out / item.name
    made = [base.with_name(f"{base.name}_seg.nii.gz")]
    if wanted.dicom_seg and item.nifti is None:
        made.append(base.with_name(f"{base.name}_seg.dcm"))
    if wanted.view:
        made.append(base.with_name(f"{base.name}_view.html"))
    return tuple(made)


def check(model: ReleasedModel, items: Sequence[Item], given: Path, out: Path, wanted: Wanted) -> None:
    """Everything that can be refused before anything is read or written. Raises SettingsError."""
    card = model.manifest.card
    if wanted.modality not in (None, card.modality):
        raise SettingsError(
            f"the model was trained on {card.modality}, the volumes are {wanted.modality}: what it would draw on "
            "them means nothing"
        )
    if given.is_dir() and out.resolve().is_relative_to(given.resolve()):
        raise SettingsError("OUT lies in IN, where the next call would take results for patients: name another folder")
    if wanted.dicom_seg:
        if all(item.nifti is not None for item in items):
            raise SettingsError("--dicom-seg refers to the DICOM series it was made from, and there is none in IN")
        from fedsecure.clinic.dicom_seg import require_highdicom

        require_highdicom()
    there = sum(path.exists() for item in items for path in outputs(item, out, wanted))
    if there and not wanted.overwrite:
        raise SettingsError(
            f"{there} of the files to write are in OUT already: --overwrite replaces them, or name another folder"
        )


def predict(model: ReleasedModel, items: Sequence[Item], out: Path, wanted: Wanted, device: str,
            told: Told) -> tuple[Outcome, ...]:  # fmt: skip
    """Segment every item, as `check` found it possible, and write a record of it. `told` hears of each at once."""
    segmenting = Segmenting.of(model.segmenter(device), model.manifest.data)
    reader = FrameReader()
    outcomes = []
    for item in items:
        try:
            outcome = Outcome(item, _item(model, segmenting, item, out, wanted, reader))
        except DataError as error:
            outcome = Outcome(item, error=error)
        outcomes.append(outcome)
        told(outcome)
    from importlib.metadata import version

    made = tuple(one for outcome in outcomes for one in outcome.predicted)
    if made:
        record = Record(
            model=model.id, name=model.manifest.card.name, fedsecure=version("fedsecure"), predicted=made
        )  # fmt: skip
        write_atomic(out / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return tuple(outcomes)


def check_modality(modality: Modality, raw: Raw, slices: Sequence[Path], told: Modality | None, file: Path) -> None:
    """Raises DataError where a volume is, or looks as if it were, of another kind than the model's.

    DICOM says what it is. NIfTI does not, and a volume's values must do, unless its owner has `told`.
    """
    if slices:
        from fedsecure.data.dicom import read_modality

        found = read_modality(slices)
        if found is not None and found != modality:
            named = found if found in _KNOWN else "of another modality"
            raise DataError(f"the series is {named}, and the model was trained on {modality}", file)
    if told is not None or slices:
        return
    coldest = float(raw.voxels.min())
    if modality == "MR" and coldest < _COLDEST_MR:
        raise DataError(
            "values go far below zero, as in CT; the model was trained on MR: if this is MR, say --modality MR", file
        )
    if modality == "CT" and coldest > _AIR:
        raise DataError(
            "no value is as low as air has in CT; the model was trained on CT: if this is CT, say --modality CT", file
        )


def _item(model: ReleasedModel, segmenting: Segmenting, item: Item, out: Path, wanted: Wanted,
          reader: FrameReader) -> tuple[Predicted, ...]:  # fmt: skip
    raws: list[Raw] = []
    found: list[LabelArray] = []
    for frame in item.frames:
        raw = reader.image(frame)
        check_modality(model.manifest.card.modality, raw, frame.slices, wanted.modality, frame.image)
        found.append(segmenting.labels(raw, frame.image))
        raws.append(raw)
    paths = outputs(item, out, wanted)
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    stacked = found[0] if len(found) == 1 else np.stack(found, axis=-1)
    write_atomic(paths[0], label_bytes(stacked, raws[0].affine, item.nifti))
    structures = model.manifest.structures
    for path in paths[1:]:
        if path.suffix == ".dcm":
            from fedsecure.clinic.dicom_seg import seg_bytes

            write_atomic(path, seg_bytes(item.frames[0].slices, found[0], structures, model.id))
        else:
            write_page(path, raws, found, structures, model.manifest.card.name, model.id)
    name = paths[0].relative_to(out).as_posix()
    return tuple(
        Predicted(output=name, frame=frame.number, millilitres=_millilitres(labels, raw, structures))
        for frame, labels, raw in zip(item.frames, found, raws, strict=True)
    )


def _millilitres(labels: LabelArray, raw: Raw, structures: Sequence[str]) -> dict[str, float]:
    """By what the header says of a voxel's size."""
    counts = np.bincount(labels.ravel(), minlength=len(structures) + 1)
    voxel = abs(float(np.linalg.det(raw.affine[:3, :3]))) / 1000
    return {name: round(float(count) * voxel, 3) for name, count in zip(structures, counts[1:], strict=True)}
