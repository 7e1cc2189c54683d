"""The layout of the ACDC challenge (Bernard et al., IEEE TMI 37(11), 2018): a folder per patient.

    patient001/  Info.cfg                        "ED: 1", "ES: 12", "Group: DCM", "NbFrame: 30"
                 patient001_frame01.nii.gz       one labelled frame, numbered from 1
                 patient001_frame01_gt.nii.gz    its label
                 patient001_4d.nii.gz            the whole cine; may be absent

The root may also hold these folders under training/ and testing/.
"""

from __future__ import annotations

import re
from pathlib import Path

from fedsecure.data.layout import FrameFiles, Patient, Source, checked, children, is_nifti, stem
from fedsecure.data.nifti import frame_indices

STRUCTURES = ("RV cavity", "LV myocardium", "LV cavity")  # label values 1, 2, 3 of the challenge
_PATIENT = re.compile(r"patient\d+")
_FRAME = re.compile(r"_frame(\d+)$")


def open_acdc(root: Path) -> Source:
    """Raises DataError when the folder cannot be listed or holds no patient folder."""
    parts = [part for name in ("training", "testing") if (part := root / name).is_dir()]
    folders = [folder for part in [root, *parts] for folder in children(part) if _PATIENT.fullmatch(folder.name)]
    patients = [_patient(folder) for folder in folders if folder.is_dir()]
    return checked(patients, STRUCTURES, root, "folders patientNNN, directly or under training/ and testing/")


def _patient(folder: Path) -> Patient:
    files = {stem(path): path for path in children(folder) if is_nifti(path)}
    frames = {
        int(match[1]): FrameFiles(path, files.get(f"{name}_gt"), None, int(match[1]))
        for name, path in files.items()
        if (match := _FRAME.search(name))
    }
    cine = files.get(f"{folder.name}_4d")
    if cine is not None:
        # Frames with a file of their own are the labelled ones: the cine must not count them a second time.
        for number, index in enumerate(frame_indices(cine), start=1):
            frames.setdefault(number, FrameFiles(cine, None, index, number))
    return Patient(folder.name, _group(folder / "Info.cfg"), tuple(frames[number] for number in sorted(frames)))


def _group(info: Path) -> str | None:
    try:
        lines = info.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None  # the challenge's test part came without; a group is never needed
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() or None for key, _, value in pairs if key.strip() == "Group"), None)
