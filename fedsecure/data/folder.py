"""Any folder of NIfTI volumes: a file per patient, or a sub-folder per patient with all of that patient's files.

Several files of one patient need a sub-folder: side by side they would count as several patients, and one patient could
stand on both sides of a split. Labels are optional: beside the image under the same name with _gt, _seg, _label or
_mask, or in a folder `labels` beside the images or beside their folder. A 4D file is a cine: each frame is a volume.
`dataset.json` and `volumes.csv` in the root are read as in the Decathlon's layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fedsecure.data.hints import read_groups, read_structures
from fedsecure.data.layout import SUFFIXES, FrameFiles, Patient, Source, checked, children, is_nifti, stem
from fedsecure.data.nifti import frame_indices

_LABEL_ENDINGS = ("_gt", "_seg", "_label", "_mask")
_LABELS = "labels"


def open_folder(root: Path) -> Source:
    """Raises DataError when a folder cannot be listed, no volume is found, or dataset.json is not understood."""
    entries = children(root)
    base = root / "images" if root / "images" in entries else root
    groups = read_groups(root, base)
    patients = [_patient(path, groups) for path in children(base) if _holds_patient(path)]
    return checked(patients, read_structures(root), root, "NIfTI files (.nii, .nii.gz), or a sub-folder per patient")


def _holds_patient(path: Path) -> bool:
    if path.is_dir() and not is_nifti(path):
        return path.name != _LABELS and any(True for _ in _images(path))
    return _is_image(path)


def _patient(path: Path, groups: Mapping[str, str]) -> Patient:
    images = [path] if is_nifti(path) else sorted(_images(path))
    volumes = [(image, _label(image), index) for image in images for index in frame_indices(image)]
    frames = tuple(FrameFiles(*volume, number) for number, volume in enumerate(volumes, start=1))
    return Patient(stem(path), groups.get(stem(path)), frames)


def _images(folder: Path) -> Iterator[Path]:
    for path in children(folder):
        if _is_image(path):
            yield path
        elif path.is_dir() and path.name != _LABELS:
            yield from _images(path)


def _is_image(path: Path) -> bool:
    return is_nifti(path) and not stem(path).endswith(_LABEL_ENDINGS)


def _label(image: Path) -> Path | None:
    folders = (image.parent, image.parent / _LABELS, image.parent.parent / _LABELS)
    names = [stem(image) + ending + suffix for ending in ("", *_LABEL_ENDINGS) for suffix in SUFFIXES]
    candidates = (folder / name for folder in folders for name in names)
    return next((path for path in candidates if path != image and path.exists()), None)
