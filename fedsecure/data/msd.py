"""The layout of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 13, 2022), and a flat form.

    dataset.json                 names of the label values; may be absent
    imagesTr/  labelsTr/         a file per patient, the same name in both
    imagesTs/                    patients without labels; may be absent
    images/  labels/             the flat form
    volumes.csv                  groups of patients, see `hints.read_groups`; may be absent

The fourth axis of a Decathlon image is modality, not time: an image with several is refused when it is read.
"""

from __future__ import annotations

from pathlib import Path

from fedsecure.data.hints import read_groups, read_structures
from fedsecure.data.layout import FrameFiles, Patient, Source, checked, children, is_nifti, stem

_FOLDERS = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"), ("images", "labels"))


def open_msd(root: Path) -> Source:
    """Raises DataError when the folder cannot be listed, holds no image, or its dataset.json is not understood."""
    present = {path.name for path in children(root)}
    pairs = [(root / images, root / labels) for images, labels in _FOLDERS if images in present]
    groups = read_groups(root, *(images for images, _ in pairs))
    patients = [
        Patient(name, groups.get(name), (FrameFiles(path, _label(path, labels), None, 1),))
        for images, labels in pairs
        for path in children(images)
        if is_nifti(path)
        for name in [stem(path)]
    ]
    return checked(patients, read_structures(root), root, "images in imagesTr/, imagesTs/ or images/")


def _label(image: Path, labels: Path) -> Path | None:
    label = labels / image.name
    return label if label.exists() else None
