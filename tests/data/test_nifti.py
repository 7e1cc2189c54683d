from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedsecure.config import DataSettings
from fedsecure.data.layout import FrameFiles
from fedsecure.data.nifti import NiftiReader, axis_codes, frame_indices, write
from fedsecure.data.volume import FrameReader, prepare_frame
from fedsecure.errors import DataError

VOXELS = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
AFFINE = np.diag([2.0, 1.5, 8.0, 1.0])


def refused(path: Path, reason: str, index: int | None = None) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        NiftiReader().read(path, index)
    assert path.name not in str(caught.value)
    assert path.name in caught.value.for_owner()


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, VOXELS, AFFINE)
    raw = NiftiReader().read(tmp_path / name, None)
    assert raw.voxels.dtype == np.float32
    np.testing.assert_array_equal(raw.voxels, VOXELS)
    assert raw.spacing_mm == (2.0, 1.5, 8.0)
    assert frame_indices(tmp_path / name) == (None,)


def test_nifti_2_and_header_scaling_are_read(tmp_path: Path) -> None:
    image = nibabel.Nifti2Image(VOXELS, AFFINE)
    image.header.set_slope_inter(0.5, -3.0)
    nibabel.save(image, tmp_path / "v.nii")
    expected = np.asarray(nibabel.load(tmp_path / "v.nii").dataobj)
    np.testing.assert_allclose(NiftiReader().read(tmp_path / "v.nii", None).voxels, expected, rtol=1e-6)


def test_frames_of_a_cine(tmp_path: Path) -> None:
    cine = np.random.default_rng(1).random((6, 5, 4, 3), np.float32)
    write(tmp_path / "c.nii.gz", cine, AFFINE)
    assert frame_indices(tmp_path / "c.nii.gz") == (0, 1, 2)
    reader = NiftiReader()
    for index in (2, 0, 1):
        np.testing.assert_array_equal(reader.read(tmp_path / "c.nii.gz", index).voxels, cine[..., index])
    refused(tmp_path / "c.nii.gz", "3 modalities on its fourth axis and there is no modality setting")
    refused(tmp_path / "c.nii.gz", "fewer frames", 3)
    write(tmp_path / "one.nii.gz", cine[..., :1], AFFINE)
    assert frame_indices(tmp_path / "one.nii.gz") == (None,)
    np.testing.assert_array_equal(reader.read(tmp_path / "one.nii.gz", None).voxels, cine[..., 0])


def test_a_truncated_gzip_is_refused_even_when_only_its_checksum_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "v.nii.gz", VOXELS, AFFINE)
    whole = (tmp_path / "v.nii.gz").read_bytes()
    for kept in (len(whole) // 2, len(whole) - 4):
        (tmp_path / "v.nii.gz").write_bytes(whole[:kept])
        refused(tmp_path / "v.nii.gz", "gzip stream ends early: the file is truncated")


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "v.nii.gz", VOXELS, AFFINE)
    content = bytearray((tmp_path / "v.nii.gz").read_bytes())
    content[-6] ^= 1  # in the checksum
    (tmp_path / "v.nii.gz").write_bytes(content)
    refused(tmp_path / "v.nii.gz", "gzip stream is damaged")
    (tmp_path / "v.nii.gz").write_bytes(b"hello")
    refused(tmp_path / "v.nii.gz", "gzip stream is damaged, or the file is not gzip")


def test_a_truncated_plain_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "v.nii", VOXELS, AFFINE)
    (tmp_path / "v.nii").write_bytes((tmp_path / "v.nii").read_bytes()[:-1])
    refused(tmp_path / "v.nii", "ends before its last voxel")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(400), b"\x5c\x01\x00\x00" + bytes(400)])
def test_other_content_is_not_nifti(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.nii").write_bytes(content)
    refused(tmp_path / "v.nii", "not a NIfTI file")
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(content))
    refused(tmp_path / "v.nii.gz", "not a NIfTI file")
    assert frame_indices(tmp_path / "v.nii.gz") == (None,)  # opening a source does not fail; reading says why


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((6, 5), "is 2D"), ((6, 5, 1), "is 2D"), ((6, 5, 0), "no slices"), ((6, 5, 4, 1, 3), "has 5 axes")],
)
def test_shapes_that_are_no_volume(tmp_path: Path, shape: tuple[int, ...], reason: str) -> None:
    write(tmp_path / "v.nii", np.ones(shape, np.float32), AFFINE)
    refused(tmp_path / "v.nii", reason)


def test_voxels_that_are_no_number(tmp_path: Path) -> None:
    colours = np.zeros((6, 5, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for name, voxels in (("colour.nii", colours), ("complex.nii", np.ones((6, 5, 4), np.complex64))):
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), tmp_path / name)
        refused(tmp_path / name, "colours or complex numbers")


def test_a_folder_or_a_forbidden_file_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.nii").mkdir()
    refused(tmp_path / "v.nii", "cannot be read: Is a directory")
    refused(tmp_path / "absent.nii.gz", "cannot be read: No such file")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    refused(tmp_path / "w.nii", "cannot be read: Permission denied")


def test_an_affine_that_cannot_be_inverted(tmp_path: Path) -> None:
    write(tmp_path / "v.nii", VOXELS, AFFINE)
    content = bytearray((tmp_path / "v.nii").read_bytes())
    content[280:296] = bytes(16)  # srow_x of the NIfTI-1 header
    (tmp_path / "v.nii").write_bytes(content)
    refused(tmp_path / "v.nii", "cannot be inverted")


def test_an_axis_of_negative_length(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "v.nii", VOXELS, AFFINE)
    content = bytearray((tmp_path / "v.nii").read_bytes())
    content[42:48] = struct.pack("<3h", -6, -5, 4)  # dim[1..3]; the product is as it was
    (tmp_path / "v.nii").write_bytes(content)
    refused(tmp_path / "v.nii", "no slices or no pixels|header does not hold")
    assert frame_indices(tmp_path / "v.nii") == (None,)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_flipped_bytes_of_a_header_are_a_volume_or_a_data_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: type[nibabel.Nifti1Image]
) -> None:
    rng = np.random.default_rng(3)
    path, settings = tmp_path / "v.nii", DataSettings(size=32)
    nibabel.save(kind(VOXELS, AFFINE), path)
    whole = path.read_bytes()
    refusals = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for at in rng.integers(4, len(whole) - VOXELS.nbytes, rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            for index in frame_indices(path):
                grid = prepare_frame(FrameFiles(path, None, index, 1), settings, FrameReader())
                assert np.isfinite(grid.image).all()
        except DataError:
            refusals += 1
    assert 50 < refusals < 400
    assert capfd.readouterr() == ("", "")


def test_axis_codes() -> None:
    assert axis_codes(np.eye(4)) == "RAS"
    assert axis_codes(np.diag([-1.0, -1.0, 1.0, 1.0])) == "LPS"
