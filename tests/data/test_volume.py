from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import zoom

from fedsecure.config import DataSettings
from fedsecure.data.layout import FrameFiles, Raw
from fedsecure.data.nifti import write
from fedsecure.data.volume import FrameReader, Grid, prepare_frame, reverses_z
from fedsecure.errors import DataError

RNG = np.random.default_rng(0)
RAS = np.diag([1.5, 2.0, 8.0, 1.0])
SMALL = DataSettings(size=32, structures=("a", "b"))


def prepared(
    folder: Path,
    image: np.ndarray,
    label: np.ndarray | None = None,
    settings: DataSettings = SMALL,
    *,
    affine: np.ndarray = RAS,
    label_affine: np.ndarray | None = None,
) -> Grid:
    write(folder / "i.nii.gz", image, affine)
    if label is not None:
        write(folder / "l.nii.gz", label, affine if label_affine is None else label_affine)
    files = FrameFiles(folder / "i.nii.gz", None if label is None else folder / "l.nii.gz", None, 1)
    return prepare_frame(files, settings, FrameReader())


def blocks(shape: tuple[int, int, int] = (32, 32, 3)) -> np.ndarray:
    """A label that is not symmetric under any flip or swap."""
    label = np.zeros(shape, np.uint8)
    label[2:20, 4:10, 0] = 1
    label[22:27, 3:21, 1] = 2
    label[1:9, 12:30, -1] = 2
    return label


def noise(shape: tuple[int, ...] = (32, 32, 3)) -> np.ndarray:
    return RNG.normal(100, 20, shape).astype(np.float32)


def test_axes_come_out_as_z_y_x_with_the_spacing_of_the_new_grid(tmp_path: Path) -> None:
    label = blocks()
    grid = prepared(tmp_path, noise(), label)
    assert grid.image.shape == (3, 32, 32)
    assert grid.image.dtype == np.float32
    np.testing.assert_array_equal(grid.label, label.transpose(2, 1, 0))
    assert grid.spacing_mm == (8.0, 2.0, 1.5)


def test_intensity_is_clipped_at_the_percentiles_and_has_mean_0_and_deviation_1(tmp_path: Path) -> None:
    image = noise()
    image[3, 4, 1] = 1e6
    grid = prepared(tmp_path, image)
    clipped = np.clip(image, *np.percentile(image, (1, 99)))
    expected = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(grid.image, expected.transpose(2, 1, 0), atol=1e-4)


@given(gain=st.floats(1e-3, 1e4), offset=st.floats(-1e3, 1e3))
def test_a_linear_change_of_intensity_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, gain: float, offset: float
) -> None:
    folder = tmp_path_factory.mktemp("linear")
    image = np.random.default_rng(5).uniform(-1, 1, (16, 16, 2))
    one = prepared(folder, image.astype(np.float64))
    other = prepared(folder, image * gain + offset * gain)
    np.testing.assert_allclose(one.image, other.image, atol=2e-3)


@pytest.mark.parametrize("code", ["LPS", "RPI", "LAI", "ARS", "PLI"])
def test_one_body_in_any_stored_axes_gives_one_grid(tmp_path: Path, code: str) -> None:
    image, label = noise(), blocks()
    expected = prepared(tmp_path, image, label)
    # Store the same body with other axes, and say so in the header.
    order = [next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair) for letter in code]
    flips = [-1 if letter in "LPI" else 1 for letter in code]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (source, flip) in enumerate(zip(order, flips, strict=True)):
        affine[source, axis] = flip * RAS[source, source]
    slices = tuple(slice(None, None, flip) for flip in flips)
    stored = prepared(
        tmp_path,
        np.ascontiguousarray(image.transpose(order)[slices]),
        np.ascontiguousarray(label.transpose(order)[slices]),
        affine=affine,
    )
    np.testing.assert_array_equal(stored.label, expected.label)
    np.testing.assert_allclose(stored.image, expected.image, atol=1e-5)
    assert stored.spacing_mm == pytest.approx(expected.spacing_mm)
    assert reverses_z(Raw(image, affine), SMALL) is (code[2] == "I")


def test_stored_leaves_all_axes_alone_whatever_the_header_says(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"orientation": "stored"})
    label = blocks()
    for affine in (np.diag([-1.0, 1.0, -9.0, 1.0]), np.eye(4)[[2, 0, 1, 3]]):
        grid = prepared(tmp_path, noise(), label, settings, affine=affine, label_affine=np.eye(4))
        np.testing.assert_array_equal(grid.label, label.transpose(2, 1, 0))
        assert not reverses_z(Raw(label.astype(np.float32), affine), settings)


def test_slices_stacked_along_another_direction_are_refused(tmp_path: Path) -> None:
    sagittal = np.eye(4)[[2, 0, 1, 3]]  # the third axis runs along A
    with pytest.raises(DataError, match='orientation = "stored"'):
        prepared(tmp_path, noise(), affine=sagittal)


def test_padding_to_the_square_centres_the_image_and_fills_with_its_minimum(tmp_path: Path) -> None:
    label = np.ones((32, 16, 2), np.uint8)
    grid = prepared(tmp_path, noise((32, 16, 2)), label)
    assert grid.label is not None
    np.testing.assert_array_equal(grid.label[:, 8:24], 1)
    np.testing.assert_array_equal(grid.label[:, :8], 0)
    np.testing.assert_array_equal(grid.label[:, 24:], 0)
    assert (grid.image[:, :8] == grid.image.min()).all()


def test_crop_takes_the_centre_before_intensities_are_normalised(tmp_path: Path) -> None:
    image, label = noise((64, 48, 2)), np.zeros((64, 48, 2), np.uint8)
    image[:16] += 5000
    label[16:48, 8:40] = RNG.integers(0, 3, (32, 32, 2))
    grid = prepared(tmp_path, image, label, SMALL.model_copy(update={"crop": 32}))
    np.testing.assert_array_equal(grid.label, label[16:48, 8:40].transpose(2, 1, 0))
    assert abs(float(grid.image.mean())) < 1e-3  # the bright edge was outside


def test_shrinking_averages_images_and_picks_labels(tmp_path: Path) -> None:
    checkers = (np.indices((64, 64, 2)).sum(0) % 2).astype(np.float32)
    label = np.kron(blocks((32, 32, 2)), np.ones((2, 2, 1), np.uint8))
    grid = prepared(tmp_path, checkers, label)
    assert np.abs(grid.image[:, 2:-2, 2:-2]).max() < 0.1  # a pattern above the new grid's limit averages out
    np.testing.assert_array_equal(grid.label, blocks((32, 32, 2)).transpose(2, 1, 0))
    assert grid.spacing_mm == (8.0, 4.0, 3.0)


def test_growing_is_linear_and_centred(tmp_path: Path) -> None:
    image = np.cumsum(noise((16, 16, 2)), axis=0)
    grid = prepared(tmp_path, image)
    clipped = np.clip(image, *np.percentile(image, (1, 99)))
    normal = (clipped - clipped.mean()) / clipped.std()
    expected = zoom(normal, (2, 2, 1), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(grid.image, expected.transpose(2, 1, 0), atol=1e-4)


def test_resampling_in_plane_keeps_slices_and_gives_the_spacing_asked_for(tmp_path: Path) -> None:
    label = np.kron(blocks((32, 32, 3)), np.ones((2, 1, 1), np.uint8))  # stored twice as fine along x
    affine = np.diag([0.75, 1.5, 8.0, 1.0])
    settings = SMALL.model_copy(update={"spacing_mm": (1.5, 1.5), "crop": 32})
    grid = prepared(tmp_path, noise(label.shape), label, settings, affine=affine)
    assert grid.image.shape == (3, 32, 32)
    assert grid.spacing_mm == pytest.approx((8.0, 1.5, 1.5))
    assert grid.label is not None
    agree = grid.label == blocks().transpose(2, 1, 0)
    assert agree.mean() > 0.95  # edges may fall to the other side


@pytest.mark.parametrize(
    ("bad", "reason"), [(np.nan, "NaN voxels"), (np.inf, "infinite voxels"), (-np.inf, "infinite voxels")]
)
def test_images_that_are_not_finite(tmp_path: Path, bad: float, reason: str) -> None:
    image = noise()
    image[1, 2, 0] = bad
    with pytest.raises(DataError, match=reason):
        prepared(tmp_path, image)


def test_a_value_too_large_for_float32_is_infinite(tmp_path: Path) -> None:
    image = noise().astype(np.float64)
    image[1, 2, 0] = 1e300
    with pytest.raises(DataError, match="infinite voxels"):
        prepared(tmp_path, image)


def test_constant_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every voxel has the same value"):
        prepared(tmp_path, np.full((32, 32, 3), 7, np.int16))
    nearly = np.zeros((32, 32, 3), np.int16)
    nearly[0, 0, 0] = 1
    with pytest.raises(DataError, match="constant between its 1st and 99th percentile"):
        prepared(tmp_path, nearly)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (np.zeros((32, 32, 4), np.uint8), r"shape \(32, 32, 4\) is not its image's \(32, 32, 3\)"),
        (np.full((32, 32, 3), 3, np.uint8), "the value 3, outside the label map: 0 is background, 1 to 2"),
        (np.full((32, 32, 3), -1, np.int16), "the value -1, outside the label map"),
        (np.full((32, 32, 3), 1.5, np.float32), "not whole numbers"),
        (np.full((32, 32, 3), np.nan, np.float32), "not whole numbers"),
        (np.zeros((32, 32, 3, 2), np.uint8), "fourth axis"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, label: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        prepared(tmp_path, noise(), label)
    assert "l.nii.gz" in caught.value.for_owner()


def test_a_label_whose_header_is_flipped_against_its_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other axis directions"):
        prepared(tmp_path, noise(), blocks(), label_affine=np.diag([-1.5, 2.0, 8.0, 1.0]))


def test_hippocampus_labels_keep_their_values_and_volumes_their_slices(hippocampus: Path) -> None:
    for case in ("hippocampus_001", "hippocampus_003"):
        files = FrameFiles(
            hippocampus / "images" / f"{case}.nii.gz", hippocampus / "labels" / f"{case}.nii.gz", None, 1
        )
        reader = FrameReader()
        raw = reader.label(files)
        assert raw is not None
        grid = prepare_frame(files, SMALL.model_copy(update={"size": 64}), reader)
        assert grid.label is not None
        assert len(grid.image) == raw.voxels.shape[2]
        scale = np.prod(grid.spacing_mm)  # mm3 of a prepared voxel; a stored one has 1
        for value in (1, 2):
            assert (grid.label == value).sum() * scale == pytest.approx((raw.voxels == value).sum(), rel=0.05)
