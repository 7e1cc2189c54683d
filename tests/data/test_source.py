from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fedsecure.data.layout import FrameFiles, Patient, Source
from fedsecure.data.nifti import write
from fedsecure.data.source import open_source
from fedsecure.errors import DataError, SettingsError


def volume(path: Path, shape: tuple[int, ...] = (4, 5, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, np.arange(np.prod(shape), dtype=np.float32).reshape(shape), np.eye(4))
    return path


@pytest.mark.parametrize("uri", ["", "acdc", "acdc:", "/some/path", "s3:bucket", "ACDC:/x"])
def test_an_unknown_scheme_names_the_five(uri: str) -> None:
    with pytest.raises(SettingsError, match="acdc:PATH, msd:PATH, folder:PATH, dicom:PATH or hvsmr:PATH"):
        open_source(uri)


@pytest.mark.parametrize("scheme", ["acdc", "msd", "folder", "dicom", "hvsmr"])
def test_a_source_that_is_missing_empty_or_a_file_says_so(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_source(f"{scheme}:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="no patient found; expected"):
        open_source(f"{scheme}:{tmp_path}")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match="is a file; name the folder"):
        open_source(f"{scheme}:{file}")


def test_an_unreadable_folder_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="the folder cannot be read: Permission denied") as caught:
        open_source(f"folder:{tmp_path}")
    assert str(tmp_path) not in str(caught.value)
    assert str(tmp_path) in caught.value.for_owner()


def test_reprs_print_no_name_and_no_path() -> None:
    frame = FrameFiles(Path("/secret/jane.nii"), None, None, 1)
    patient = Patient("jane", "DCM", (frame,))
    source = Source((patient,), None)
    for text in (repr(frame), repr(patient), repr(source), repr([source])):
        assert "jane" not in text
        assert "secret" not in text


def test_select_takes_positions_in_the_order_given() -> None:
    source = Source(tuple(Patient(name, None, ()) for name in "abcd"), ("x",))
    assert [patient.name for patient in source.select((2, 0)).patients] == ["c", "a"]
    assert source.select((1,)).structures == ("x",)
    for wrong, reason in (((0, 0), "twice"), ((4,), "0 to 3"), ((-1,), "0 to 3")):
        with pytest.raises(SettingsError, match=reason):
            source.select(wrong)


def test_decathlon_layout(tmp_path: Path) -> None:
    for name in ("case_2", "case_1"):
        volume(tmp_path / "imagesTr" / f"{name}.nii.gz")
        volume(tmp_path / "labelsTr" / f"{name}.nii.gz")
    volume(tmp_path / "imagesTr" / "._case_1.nii.gz")  # what macOS leaves in the Decathlon's archives
    volume(tmp_path / "imagesTs" / "case_3.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"2": "B", "0": "background", "1": "A"}}))
    source = open_source(f"msd:{tmp_path}")
    assert [patient.name for patient in source.patients] == ["case_1", "case_2", "case_3"]
    assert [patient.frames[0].label is not None for patient in source.patients] == [True, True, False]
    assert source.structures == ("A", "B")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "must hold"),
        ("{}", "must hold"),
        ('{"labels": ["a"]}', "must hold"),
        ('{"labels": {"background": 0}}', "must hold"),
        ('{"labels": {"1": "a", "3": "b"}}', "gap"),
    ],
)
def test_a_dataset_json_that_does_not_hold_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    volume(tmp_path / "images" / "a.nii")
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=reason):
        open_source(f"msd:{tmp_path}")


def test_groups_come_from_the_group_column_of_volumes_csv(tmp_path: Path) -> None:
    volume(tmp_path / "images" / "a.nii")
    volume(tmp_path / "images" / "b.nii")
    (tmp_path / "volumes.csv").write_text("case,nx,scanner_group\na,4,old\nz,4,new\n")
    for scheme in ("msd", "folder"):
        assert [patient.group for patient in open_source(f"{scheme}:{tmp_path}").patients] == ["old", None]
    (tmp_path / "volumes.csv").write_text("case,nx\na,4\n")
    assert [patient.group for patient in open_source(f"msd:{tmp_path}").patients] == [None, None]


def test_folder_with_a_file_per_patient_finds_labels_beside_and_in_labels(tmp_path: Path) -> None:
    for name in ("p1", "p1_gt", "p2", "p2_seg", "p3", "p4", "p5", "p5_mask"):
        volume(tmp_path / f"{name}.nii.gz")
    volume(tmp_path / "labels" / "p3.nii")
    patients = open_source(f"folder:{tmp_path}").patients
    assert [patient.name for patient in patients] == ["p1", "p2", "p3", "p4", "p5"]
    labels = [patient.frames[0].label for patient in patients]
    assert [label and label.name for label in labels] == [
        "p1_gt.nii.gz",
        "p2_seg.nii.gz",
        "p3.nii",
        None,
        "p5_mask.nii.gz",
    ]


def test_folder_with_a_sub_folder_per_patient_keeps_a_patients_frames_together(tmp_path: Path) -> None:
    for name in ("ED", "ES", "ES_label"):
        volume(tmp_path / "ann" / f"{name}.nii.gz")
    volume(tmp_path / "bob" / "deep" / "cine.nii", (4, 5, 3, 6))
    volume(tmp_path / "labels" / "unrelated.nii")
    (tmp_path / "notes").mkdir()
    ann, bob = open_source(f"folder:{tmp_path}").patients
    assert [(frame.image.name, frame.label is not None, frame.index, frame.number) for frame in ann.frames] == [
        ("ED.nii.gz", False, None, 1),
        ("ES.nii.gz", True, None, 2),
    ]
    assert [(frame.index, frame.number) for frame in bob.frames] == [(index, index + 1) for index in range(6)]


def test_hippocampus_reads_the_same_as_msd_and_as_folder(hippocampus: Path) -> None:
    msd, folder = (open_source(f"{scheme}:{hippocampus}") for scheme in ("msd", "folder"))
    assert msd == folder
    assert len(msd.patients) == 260
    assert all(patient.frames[0].label for patient in msd.patients)
    groups = [patient.group for patient in msd.patients]
    assert sorted(groups.count(group) for group in set(groups)) == [34, 55, 171]  # as its SOURCE.md counts them
