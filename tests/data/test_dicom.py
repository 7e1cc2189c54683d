from __future__ import annotations

import traceback
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    BasicTextSRStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    generate_uid,
)

from fedsecure.config import DataSettings
from fedsecure.data.cohort import prepare
from fedsecure.data.dicom import read_series
from fedsecure.data.source import open_source
from fedsecure.errors import DataError

OBLIQUE = np.array([[0.8, 0.6, 0.0], [0.0, 0.0, -1.0]])  # unit directions of rows and columns, patient axes LPS
NORMAL = np.cross(*OBLIQUE)
ORIGIN = np.array([10.0, -20.0, 30.0])
ROWS, COLUMNS = 6, 5


def pixels(k: int) -> np.ndarray:
    return (100 * k + np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)).astype(np.uint16)


def save(folder: Path, k: int, name: str | None = None, stored: np.ndarray | None = None, **changes: object) -> Path:
    """One slice, `k` * 8 mm along the normal. `changes` overwrite attributes; None removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / (name or f"IM{(k * 7) % 10}{k}")  # file names do not follow the slices
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientID, data.SeriesInstanceUID = "MRN-0042", "1.2.3"
    data.PatientName = "Doe^Jane"
    stored = pixels(k) if stored is None else stored
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelSpacing = [1.25, 2.5]  # between rows, between columns
    data.ImageOrientationPatient = [float(value) for value in OBLIQUE.ravel()]
    data.ImagePositionPatient = [float(value) for value in ORIGIN + 8.0 * k * NORMAL]
    data.PixelData = stored.tobytes()
    for tag, value in changes.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_slices_are_ordered_along_the_normal_and_rescaled(tmp_path: Path) -> None:
    files = [save(tmp_path, k, RescaleSlope=2.0, RescaleIntercept=-1000.0) for k in (3, 0, 2, 1)]
    raw = read_series(files)
    assert raw.voxels.shape == (COLUMNS, ROWS, 4)
    for k in range(4):
        np.testing.assert_array_equal(raw.voxels[:, :, k], 2.0 * pixels(k).T - 1000.0)
    assert raw.spacing_mm == pytest.approx((2.5, 1.25, 8.0))


def test_the_affine_is_the_standards_equation_in_ras(tmp_path: Path) -> None:
    """PS3.3 C.7.6.2.1.1: a pixel lies at its slice's position + column * row direction + row * column direction."""
    raw = read_series([save(tmp_path, k) for k in range(3)])
    for column, row, k in ((0, 0, 0), (4, 0, 1), (0, 5, 2), (3, 2, 1)):
        lps = ORIGIN + 8.0 * k * NORMAL + column * 2.5 * OBLIQUE[0] + row * 1.25 * OBLIQUE[1]
        np.testing.assert_allclose(raw.affine @ [column, row, k, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-4)


def test_series_are_grouped_by_patient_in_any_depth(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "a" / "deep", k)
        save(tmp_path / "a", k, name=f"second{k}", SeriesInstanceUID="1.2.4")
        save(tmp_path / "b", k, PatientID="MRN-0001")
    (tmp_path / "a" / "readme.txt").write_text("not an image")
    save(tmp_path / "b", 9, PatientID="MRN-0001", Rows=None, SOPClassUID=BasicTextSRStorage)
    source = open_source(f"dicom:{tmp_path}")
    assert [(patient.name, [len(frame.slices) for frame in patient.frames]) for patient in source.patients] == [
        ("MRN-0001", [3]),
        ("MRN-0042", [3, 3]),
    ]
    assert "MRN" not in repr(source.patients)


@pytest.mark.parametrize("tag", ["TriggerTime", "TemporalPositionIdentifier"])
def test_times_of_one_series_are_frames(tmp_path: Path, tag: str) -> None:
    for k in range(3):
        for phase in range(4):
            # Heart rates differ from slice to slice, and so do trigger times.
            time = 30.0 * phase + k if tag == "TriggerTime" else phase + 1
            save(tmp_path, k, name=f"{k}-{3 - phase}", stored=pixels(k) + 1000 * phase, **{tag: time})
    (patient,) = open_source(f"dicom:{tmp_path}").patients
    assert [frame.number for frame in patient.frames] == [1, 2, 3, 4]
    for phase, frame in enumerate(patient.frames):
        expected = np.stack([pixels(k).T + 1000.0 * phase for k in range(3)], axis=-1)
        np.testing.assert_array_equal(read_series(frame.slices).voxels, expected)


def test_a_series_goes_through_the_door(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "in", k)
    settings = DataSettings(size=32, orientation="stored")
    (subject,) = prepare(open_source(f"dicom:{tmp_path / 'in'}"), settings, tmp_path / "cache", b"s" * 32).subjects
    assert subject.volumes[0].image.shape == (4, 32, 32)
    assert subject.volumes[0].label is None


def refused(folder: Path, reason: str) -> None:
    (patient,) = open_source(f"dicom:{folder}").patients
    with pytest.raises(DataError, match=reason) as caught:
        read_series(patient.frames[0].slices)
    assert "MRN" not in str(caught.value)
    assert str(folder) not in str(caught.value)


def test_duplicated_positions(tmp_path: Path) -> None:
    for k in (0, 1, 1, 2):
        save(tmp_path, k, name=generate_uid())
    refused(tmp_path, "positions are duplicated")


def test_every_position_twice_without_a_time(tmp_path: Path) -> None:
    for k in (0, 0, 1, 1):
        save(tmp_path, k, name=generate_uid())
    refused(tmp_path, "positions are duplicated, and no time")


def test_missing_positions(tmp_path: Path) -> None:
    for k in (0, 1, 3, 4):
        save(tmp_path, k)
    refused(tmp_path, "slices are missing")


def test_mixed_slices(tmp_path: Path) -> None:
    cases = {
        "different sizes": {"stored": np.zeros((4, 4), np.uint16)},
        "different orientations": {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]},
        "different pixel spacings": {"PixelSpacing": [1.0, 1.0]},
        "in colour": {"SamplesPerPixel": 3},
        "multi-frame": {"NumberOfFrames": 12},
        "has no PixelSpacing": {"PixelSpacing": None},
        "has no ImagePositionPatient": {"ImagePositionPatient": None},
    }
    for number, (reason, change) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        for k in (0, 1):
            save(folder, k)
        save(folder, 2, **change)
        refused(folder, reason)


def test_directions_that_are_none(tmp_path: Path) -> None:
    for k in range(2):
        save(tmp_path, k, ImageOrientationPatient=[1.0, 0.0, 0.0, 0.8, 0.6, 0.0])
    refused(tmp_path, "not unit vectors at right angles")


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    save(tmp_path, 0)
    refused(tmp_path, "is 2D")


def test_pixels_that_cannot_be_decoded(tmp_path: Path) -> None:
    for k in range(2):
        path = save(tmp_path / "compressed", k)
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless
        data.PixelData = encapsulate([b"not a code stream"])
        data["PixelData"].VR = "OB"
        data.save_as(path)
        save(tmp_path / "short", k, PixelData=b"\x00\x01")
    refused(tmp_path / "compressed", "cannot be decoded here: store the series uncompressed")
    refused(tmp_path / "short", "incomplete or damaged")


def test_monochrome1_is_turned_so_that_large_is_bright(tmp_path: Path) -> None:
    raw = read_series([save(tmp_path, k, PhotometricInterpretation="MONOCHROME1") for k in range(2)])
    np.testing.assert_array_equal(raw.voxels[:, :, 1], -pixels(1).T.astype(np.float32))


@pytest.mark.parametrize("tag", ["PatientID", "SeriesInstanceUID"])
def test_patients_that_cannot_be_told_apart(tmp_path: Path, tag: str) -> None:
    save(tmp_path, 0, **{tag: ""})
    refused(tmp_path, "patients cannot be told apart")


def excluded(folder: Path, cache: Path) -> tuple[int, list[str]]:
    """How many patients are left of a source, and what is said of the others."""
    settings = DataSettings(size=32, orientation="stored", on_error="exclude")
    prepared = prepare(open_source(f"dicom:{folder}"), settings, cache, b"s" * 32)
    return len(prepared.subjects), [str(error) for error in prepared.excluded]


@pytest.mark.parametrize("where", ["other", "same"])
def test_an_image_of_nobody_is_left_out_with_what_it_may_belong_to(tmp_path: Path, where: str) -> None:
    for k in range(3):
        save(tmp_path / "in" / "a", k)
        save(tmp_path / "in" / "b", k, PatientID="MRN-0001", SeriesInstanceUID="1.2.5", stored=pixels(k)[::-1])
    save(tmp_path / "in" / ("a" if where == "same" else "c"), 3, PatientID="")
    used, reasons = excluded(tmp_path / "in", tmp_path / "cache")
    assert used == (1 if where == "same" else 2)
    assert len(reasons) == 1
    assert "cannot be told apart" in reasons[0]


@pytest.mark.parametrize("before", [b"\x10\x00\x20\x00", b"\x20\x00\x32\x00", b"\x28\x00\x10\x00"])
def test_a_cut_end_slice_is_not_lost_unseen(tmp_path: Path, before: bytes) -> None:
    """Cut before PatientID, before ImagePositionPatient, before Rows."""
    for k in range(4):
        last = save(tmp_path / "in" / "a", k)
        save(tmp_path / "in" / "b", k, PatientID="MRN-0001", SeriesInstanceUID="1.2.5", stored=pixels(k)[::-1])
    last.write_bytes(last.read_bytes().partition(before)[0])
    used, reasons = excluded(tmp_path / "in", tmp_path / "cache")
    assert used == 1
    assert len(reasons) == 1


def test_a_file_that_cannot_be_read_is_an_error_of_its_series(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path, k)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "cannot be read: No such file")


def plant(path: Path, tag: str, value: bytes) -> None:
    """Write a value into an element that pydicom would refuse to make."""
    element = pydicom.dcmread(path)[tag]
    content = path.read_bytes()
    head = element.tag.group.to_bytes(2, "little") + element.tag.element.to_bytes(2, "little") + element.VR.encode()
    start = content.index(head)
    length = int.from_bytes(content[start + 6 : start + 8], "little")
    path.write_bytes(content[: start + 8] + value.ljust(length)[:length] + content[start + 8 + length :])


@pytest.mark.parametrize(
    "tag",
    ["TriggerTime", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "NumberOfFrames",
     "RescaleSlope", "SeriesInstanceUID", "SOPClassUID", "TemporalPositionIdentifier"],
)  # fmt: skip
def test_no_header_value_is_told(tmp_path: Path, tag: str, capfd: pytest.CaptureFixture[str]) -> None:
    extra = {"TriggerTime": 123456.5, "NumberOfFrames": "1         ", "RescaleSlope": "1.00000001"}
    extra["TemporalPositionIdentifier"] = "1         "
    for k in range(3):
        path = save(tmp_path, k, **{tag: extra[tag]} if tag in extra else {})
    plant(path, tag, b"J.D")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            for patient in open_source(f"dicom:{tmp_path}").patients:
                for frame in patient.frames:
                    read_series(frame.slices)
        except DataError:
            told = traceback.format_exc()
        else:
            told = ""
    out, err = capfd.readouterr()
    assert "J.D" not in told + out + err
    assert err == ""
    assert told or tag in {"SeriesInstanceUID", "SOPClassUID"}


def test_flipped_bytes_are_a_volume_or_a_data_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    whole = [save(tmp_path, k, TriggerTime=10.0 * k) for k in range(2)]
    content = whole[1].read_bytes()
    refusals = 0
    for _ in range(400):
        damaged = bytearray(content[: rng.integers(132, len(content) + 1)] if rng.random() < 0.3 else content)
        for at in rng.integers(132, len(damaged) + 1, rng.integers(1, 4)):
            damaged[min(at, len(damaged) - 1)] = rng.integers(256)
        whole[1].write_bytes(damaged)
        try:
            for patient in open_source(f"dicom:{tmp_path}").patients:
                for frame in patient.frames:
                    read_series(frame.slices)
        except DataError:
            refusals += 1
    assert 100 < refusals < 400
    assert capfd.readouterr() == ("", "")
