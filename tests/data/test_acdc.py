from __future__ import annotations

from pathlib import Path

import numpy as np

from fedsecure.config import DataSettings
from fedsecure.data.cohort import prepare
from fedsecure.data.nifti import write
from fedsecure.data.source import open_source

RNG = np.random.default_rng(0)


def patient(root: Path, name: str, labelled: tuple[int, ...], cine: int = 0, group: str | None = "DCM") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    shape = (20, 24, 4)
    for number in labelled:
        write(folder / f"{name}_frame{number:02d}.nii.gz", RNG.random(shape, np.float32), np.eye(4))
        label = np.zeros(shape, np.uint8)
        label[5:9] = number % 4
        write(folder / f"{name}_frame{number:02d}_gt.nii.gz", label, np.eye(4))
    if cine:
        write(folder / f"{name}_4d.nii.gz", RNG.random((*shape, cine), np.float32), np.eye(4))
    if group:
        (folder / "Info.cfg").write_text(f"ED: 1\nES: 3\nGroup: {group}\nHeight: 184.0\nNbFrame: {cine}\n")


def test_a_cine_adds_the_frames_that_have_no_file_of_their_own(tmp_path: Path) -> None:
    patient(tmp_path, "patient007", (1, 3), cine=5)
    (found,) = open_source(f"acdc:{tmp_path}").patients
    assert [(frame.number, frame.index, frame.label is not None) for frame in found.frames] == [
        (1, None, True),
        (2, 1, False),
        (3, None, True),
        (4, 3, False),
        (5, 4, False),
    ]
    prepared = prepare(open_source(f"acdc:{tmp_path}"), DataSettings(size=32), tmp_path / "cache", b"s" * 32)
    assert [volume.frame for volume in prepared.subjects[0].volumes] == [1, 2, 3, 4, 5]


def test_training_and_testing_are_one_source(tmp_path: Path) -> None:
    patient(tmp_path / "training", "patient002", (1,))
    patient(tmp_path / "testing", "patient101", (1,), group=None)
    patient(tmp_path / "training", "patient001", (1,), group="NOR")
    (tmp_path / "training" / "MANDATORY_CITATION.md").touch()
    source = open_source(f"acdc:{tmp_path}")
    assert [(found.name, found.group) for found in source.patients] == [
        ("patient001", "NOR"),
        ("patient002", "DCM"),
        ("patient101", None),
    ]
    assert source.structures == ("RV cavity", "LV myocardium", "LV cavity")


def test_the_real_set_is_used_whole(acdc: Path, tmp_path: Path) -> None:
    source = open_source(f"acdc:{acdc}")
    assert len(source.patients) == 69
    assert {patient.group for patient in source.patients} == {"DCM", "HCM", "MINF", "NOR", "RV"}
    settings = DataSettings(crop=128)
    prepared = prepare(source.select(range(0, 69, 6)), settings, tmp_path, b"s" * 32)
    assert len(prepared.subjects) == 12
    assert prepared.excluded == ()
    for subject in prepared.subjects:
        assert [volume.frame for volume in subject.volumes] == [1, 2]
        end_diastole, end_systole = (volume.label for volume in subject.volumes)
        assert end_diastole is not None
        assert end_systole is not None
        assert set(np.unique(end_diastole)) == {0, 1, 2, 3}
        assert (end_diastole == 3).sum() > (end_systole == 3).sum()  # a heart contracts
        # z runs base to apex: the upper third of the slices holds more RV than the lower third
        areas = (end_diastole == 1).sum((1, 2))
        third = len(areas) // 3
        assert areas[:third].sum() > areas[-third:].sum()
