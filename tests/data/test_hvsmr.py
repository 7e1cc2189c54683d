from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsecure.data.hvsmr import STRUCTURES, open_hvsmr
from fedsecure.data.nifti import write
from fedsecure.errors import DataError


def volume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, np.zeros((4, 5, 3), np.uint8), np.eye(4))
    return path


def test_one_heart_in_several_forms_is_one_patient_and_the_cropped_one_is_used(tmp_path: Path) -> None:
    for form in ("axial_full", "axial_crop", "sa_crop"):
        volume(tmp_path / f"training_{form}_pat0.nii.gz")
        volume(tmp_path / f"training_{form}_pat0-label.nii.gz")
    volume(tmp_path / "training_axial_full_pat2.nii")
    source = open_hvsmr(tmp_path)
    assert source.structures == STRUCTURES
    first, second = (patient.frames[0] for patient in source.patients)
    assert first.image.name == "training_axial_crop_pat0.nii.gz"
    assert first.label is not None
    assert first.label.name == "training_axial_crop_pat0-label.nii.gz"
    assert (second.image.name, second.label) == ("training_axial_full_pat2.nii", None)


def test_the_challenges_own_folders_are_found_and_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        volume(tmp_path / "Training dataset" / f"training_axial_crop_pat{number}.nii.gz")
        volume(tmp_path / "Ground truth" / f"training_axial_crop_pat{number}-label.nii.gz")
    volume(tmp_path / "Test dataset" / "testing_axial_crop_pat11.nii.gz")
    patients = open_hvsmr(tmp_path).patients
    assert [patient.name for patient in patients] == ["pat01", "pat09", "pat10", "pat11"]
    assert [patient.frames[0].label is not None for patient in patients] == [True, True, True, False]


@pytest.mark.parametrize("name", ["training_axial_crop_pat0-label.nii.gz", "axial_crop_pat0.nii.gz", "pat0.nii.gz"])
def test_a_folder_without_an_image_of_the_challenge_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    volume(tmp_path / name)
    with pytest.raises(DataError, match=r"expected training_FORM_patN\.nii\.gz"):
        open_hvsmr(tmp_path)
