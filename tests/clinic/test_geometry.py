"""Labels come back to the voxels they belong to, however a file stores its axes."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsecure.clinic.geometry import lying, standing
from fedsecure.clinic.segment import Segmenting
from fedsecure.config import DataSettings
from fedsecure.data.layout import Raw
from fedsecure.errors import DataError

FILE = Path("volume.nii.gz")
SETTINGS = DataSettings(size=64, structures=("bright", "brighter"))
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((1, -1), repeat=3)]


def threshold(slices: torch.Tensor) -> torch.Tensor:
    """A network whose answer is known: two classes by grey value, in normalised units, with soft borders."""
    logits = [torch.zeros_like(slices), 8 * (slices - 0.5), 16 * (slices - 1.5)]
    return torch.cat(logits, 1)


def body(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Raw:
    """Two blobs of different brightness off every axis of symmetry, in millimetres of an RAS body."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-31.0, 17.0, 5.0)
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    voxels = np.zeros(shape, np.float32)
    voxels[((x - 0.6) / 0.22) ** 2 + ((y - 0.45) / 0.3) ** 2 + ((z - 0.4) / 0.35) ** 2 < 1] = 1.5
    voxels[((x - 0.3) / 0.12) ** 2 + ((y - 0.65) / 0.18) ** 2 + ((z - 0.7) / 0.25) ** 2 < 1] = 4
    return Raw(voxels, affine)


def stored(raw: Raw, order: tuple[int, ...], flips: tuple[int, ...]) -> Raw:
    """The same body in a file whose axes are in another order, some of them running backwards."""
    affine, voxels = raw.affine.copy(), raw.voxels.transpose(order)
    affine[:, :3] = raw.affine[:, order]
    for axis, flip in enumerate(flips):
        if flip < 0:
            affine[:, 3] += affine[:, axis] * (voxels.shape[axis] - 1)
            affine[:, axis] *= -1
    return Raw(np.ascontiguousarray(voxels[tuple(slice(None, None, flip) for flip in flips)]), affine)


def unstored(labels: np.ndarray, order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    return labels[tuple(slice(None, None, flip) for flip in flips)].transpose(np.argsort(order))


@pytest.mark.parametrize("change", [{"crop": 48}, {"spacing_mm": (1.3, 1.1), "orientation": "LPI"}])
def test_one_body_has_one_answer_in_all_48_orientations(change: dict[str, object]) -> None:
    raw = body((56, 40, 5), (1.5, 1.2, 7.0))
    segmenting = Segmenting(threshold, SETTINGS.model_copy(update=change))
    expected = segmenting.labels(raw, FILE)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert len(ORIENTATIONS) == 48
    for order, flips in ORIENTATIONS:
        other = stored(raw, order, flips)
        found = segmenting.labels(other, FILE)
        assert found.shape == other.voxels.shape
        unlike = unstored(found, order, flips) != expected
        assert unlike.mean() < 2e-4, (order, flips)  # a tie between two classes may fall either way


@settings(deadline=None, max_examples=15)
@given(
    edges=st.tuples(st.integers(20, 90), st.integers(20, 90), st.integers(2, 8)),
    spacing=st.tuples(st.floats(0.4, 3.0), st.floats(0.4, 3.0), st.floats(1.0, 12.0)),
    crop=st.sampled_from([None, 16, 48, 128]),
    pixel=st.sampled_from([None, (1.0, 1.0), (1.7, 0.8)]),
)
def test_structures_stay_where_they_are(
    edges: tuple[int, int, int], spacing: tuple[float, float, float], crop: int | None,
    pixel: tuple[float, float] | None,
) -> None:  # fmt: skip
    """A gradient along x and y, thresholded by the network, is found at the same voxels, to within a pixel of the
    coarser of the two grids."""
    ramp = np.arange(edges[0])[:, None, None] * spacing[0] + np.arange(edges[1])[None, :, None] * spacing[1]
    raw = Raw((ramp + np.zeros(edges)).astype(np.float32), np.diag([*spacing, 1.0]))
    data = SETTINGS.model_copy(update={"crop": crop, "spacing_mm": pixel, "structures": ("beyond",)})
    found = Segmenting(lambda slices: torch.cat([0 * slices, 50 * slices], 1), data).labels(raw, FILE)
    y, x = data.spacing_mm or (spacing[1], spacing[0])
    extent_mm = np.array(edges[:2]) * spacing[:2]
    side_mm = (crop or round(max(extent_mm / (x, y)))) * np.array([x, y])
    pixel_mm = np.maximum(side_mm / data.size, spacing[:2])
    # Away from the edges of the image and of what was looked at, where padding begins.
    reach = np.minimum(side_mm, extent_mm) / 2 - 2 * pixel_mm
    place = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(edges[:2], spacing[:2], strict=True)]
    inside = (np.abs(place[0])[:, None] < reach[0]) & (np.abs(place[1])[None] < reach[1])
    values, labels = ramp[:, :, 0][inside], found[:, :, 0][inside]
    if labels.any() and not labels.all():
        assert values[labels == 1].min() > values[labels == 0].max() - 2 * pixel_mm.sum()
    assert (found == found[:, :, :1]).all()


def test_what_the_network_does_not_see_is_background() -> None:
    raw = Raw(np.random.default_rng(0).normal(0, 1, (64, 64, 3)).astype(np.float32), np.eye(4))
    data = SETTINGS.model_copy(update={"crop": 32})
    everywhere = Segmenting(lambda slices: torch.cat([0 * slices, 0 * slices + 5], 1), data)
    expected = np.zeros((64, 64), bool)
    expected[16:48, 16:48] = True
    np.testing.assert_array_equal(everywhere.labels(raw, FILE)[:, :, 1] == 1, expected)


def test_axes_come_back_in_their_own_order() -> None:
    raw = stored(body((30, 20, 8), (1.0, 1.0, 4.0)), (2, 0, 1), (1, -1, 1))
    upright, order = standing(raw, SETTINGS, FILE)
    assert upright.spacing_mm == (1.0, 1.0, 4.0)
    assert lying(upright.voxels.astype(np.uint8), order).shape == raw.voxels.shape


def test_slices_taken_along_another_direction_are_refused() -> None:
    sagittal = stored(body((8, 60, 60), (5.0, 1.0, 1.0)), (1, 2, 0), (1, 1, 1))
    with pytest.raises(DataError, match="axial"):
        Segmenting(threshold, SETTINGS).labels(sagittal, FILE)


def test_stored_orientation_takes_the_axes_as_they_are() -> None:
    data = SETTINGS.model_copy(update={"orientation": "stored"})
    raw = body((64, 64, 6), (1.0, 1.0, 5.0))
    turned = Raw(raw.voxels, raw.affine[[2, 0, 1, 3]])
    straight, odd = (Segmenting(threshold, data).labels(one, FILE) for one in (raw, turned))
    np.testing.assert_array_equal(straight, odd)


def test_tilted_slices_are_refused_where_they_would_be_resampled() -> None:
    raw = body((64, 64, 6), (1.0, 1.0, 5.0))
    raw.affine[1, 2] = 2.0  # each slice is shifted against the one before, as with a tilted gantry
    Segmenting(threshold, SETTINGS).labels(raw, FILE)
    with pytest.raises(DataError, match="tilted"):
        Segmenting(threshold, SETTINGS.model_copy(update={"spacing_mm": (1.1, 1.1)})).labels(raw, FILE)
