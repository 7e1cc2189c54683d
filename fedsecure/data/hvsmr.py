"""The layout of the HVSMR challenge (MICCAI 2016; Pace et al., MICCAI 2015): whole hearts with congenital disease.

    training_axial_crop_pat0.nii.gz              the image of patient 0; also axial_full and sa_crop
    training_axial_crop_pat0-label.nii.gz        its label, here or under "Ground truth/"
    testing_axial_crop_pat10.nii.gz              patients without labels

Images may lie in folders of their own, such as "Training dataset/". One patient's images in several forms are one
heart: one of them is used, cropped ones first.
"""

from __future__ import annotations

import re
from pathlib import Path

from fedsecure.data.layout import SUFFIXES, FrameFiles, Patient, Source, checked, children, is_nifti, stem

STRUCTURES = ("myocardium", "blood pool")  # label values 1, 2 of the challenge
_FORMS = ("axial_crop", "sa_crop", "axial_full")  # in the order of preference
_IMAGE = re.compile(r"(?:training|testing)_(axial_crop|sa_crop|axial_full)_pat(\d+)")
_LABELS = ("Ground truth", "Ground Truth")


def open_hvsmr(root: Path) -> Source:
    """Raises DataError when the folder cannot be listed or holds no image of the challenge."""
    folders = [root, *(path for path in children(root) if path.is_dir() and path.name not in _LABELS)]
    images: dict[int, dict[str, Path]] = {}
    for path in (path for folder in folders for path in children(folder) if is_nifti(path)):
        if match := _IMAGE.fullmatch(stem(path)):
            images.setdefault(int(match[2]), {})[match[1]] = path
    patients = [_patient(number, forms, root) for number, forms in images.items()]
    return checked(patients, STRUCTURES, root, "training_FORM_patN.nii.gz, FORM axial_crop, sa_crop or axial_full")


def _patient(number: int, forms: dict[str, Path], root: Path) -> Patient:
    image = next(forms[form] for form in _FORMS if form in forms)
    return Patient(f"pat{number:02}", None, (FrameFiles(image, _label(image, root), None, 1),))


def _label(image: Path, root: Path) -> Path | None:
    names = [f"{stem(image)}-label{suffix}" for suffix in SUFFIXES]
    places = [folder / name for folder in (image.parent, *(root / label for label in _LABELS)) for name in names]
    return next((path for path in places if path.exists()), None)
