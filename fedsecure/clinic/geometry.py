"""From what the network says of its own square slices back to the voxels that the file holds, and to no other grid.

The way in is `data.volume.prepare_image`: flips, a swap of in-plane axes, in-plane resampling, crop, padding, resizing.
All of it is one affine map, so the way back is one too: the place in the network's slices of each stored voxel. There
the probabilities are read, linearly within a slice and never across slices, and the class is chosen afterwards:
structures keep smooth outlines on fine grids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from fedsecure.config import DataSettings
from fedsecure.data.layout import Raw
from fedsecure.data.nifti import axis_codes
from fedsecure.data.volume import STORED, Seen
from fedsecure.errors import DataError
from fedsecure.types import FloatArray, LabelArray

Order = tuple[int, int, int]
_THICK = 1.5  # times the distance between slices: an in-plane edge as long was no in-plane edge when it was scanned
_TILT = 0.05  # of a slice, at the far corner of the image


def standing(raw: Raw, settings: DataSettings, file: Path) -> tuple[Raw, Order]:
    """The volume with its axes in an order that puts those along the body last, as the network's slices need; and that
    order, for `lying`.

    Files may store the axes of one body in any order. Where slices were taken along another direction, putting them in
    order does not make axial slices of them: raises DataError. With "stored" orientation the order stays.
    """
    order = order_of(raw, settings)
    if order == (0, 1, 2):
        return raw, order
    affine = raw.affine.copy()
    affine[:, :3] = raw.affine[:, order]
    turned = Raw(np.ascontiguousarray(raw.voxels.transpose(order)), affine)
    x, y, z = turned.spacing_mm
    if max(x, y) > _THICK * z:
        raise DataError(
            "slices were taken along another direction than the model's, which are axial: resampled to such slices "
            "they would be too coarse. Use an axial series",
            file,
        )
    return turned, order


def lying(labels: LabelArray, order: Order) -> LabelArray:
    """Inverse of the order of axes that `standing` gave."""
    return np.ascontiguousarray(labels.transpose(np.argsort(order)))


def on_stored_grid(probabilities: FloatArray, seen: Seen, raw: Raw, file: Path) -> Iterator[FloatArray]:
    """Of each stored slice in order the probabilities of all classes, [C, X, Y] float32; they sum to 1.

    probabilities: [Z, C, S, S] on the network's grid; `seen` and `raw` are of one image, `raw` as `standing` gave it.
    What the network did not see is background. Raises DataError for a volume whose slices are tilted.
    """
    depth, classes, size, _ = probabilities.shape
    to_seen = np.linalg.inv(seen.affine) @ raw.affine
    edges = np.array(raw.voxels.shape)
    # Slice on slice, or the resampled volume has other slices than the stored one: the library straightens a shear.
    if np.abs([*to_seen[2, :2], abs(to_seen[2, 2]) - 1]) @ edges > _TILT:
        raise DataError("slices are tilted against their direction: resample the volume to right angles first", file)
    i, j = np.meshgrid(np.arange(edges[0]), np.arange(edges[1]), indexing="ij")
    plane = to_seen[:2, 0, None, None] * i + to_seen[:2, 1, None, None] * j + to_seen[:2, 3, None, None]
    for k in range(edges[2]):
        x, y = plane + to_seen[:2, 2, None, None] * k
        z = min(max(round(float(to_seen[2, 2] * k + to_seen[2, 3])), 0), depth - 1)
        grid = torch.from_numpy(np.stack([(2 * x + 1) / size - 1, (2 * y + 1) / size - 1], axis=-1)).float()
        page = torch.from_numpy(probabilities[z])[None]
        found = F.grid_sample(page, grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0].numpy()
        outside = (np.abs(x - (size - 1) / 2) > size / 2) | (np.abs(y - (size - 1) / 2) > size / 2)
        found[:, outside] = np.eye(classes, dtype=np.float32)[:, :1]
        yield found


def order_of(raw: Raw, settings: DataSettings) -> Order:
    """The stored axis that `standing` puts first, second and last."""
    if settings.orientation == STORED:
        return 0, 1, 2
    codes = axis_codes(raw.affine)
    first, second = (axis for axis in range(3) if codes[axis] not in "SI")
    along = next(axis for axis in range(3) if codes[axis] in "SI")
    return first, second, along
