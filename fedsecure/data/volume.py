"""From the files of one frame to the arrays the network sees. Headers end here: arrays and a grid spacing come out.

In this order, the same on every site:

1. orientation: array axes are flipped, and the in-plane axes swapped where needed, until they grow as the code says;
2. in-plane resampling to `spacing_mm`: linear for images, nearest for labels; the distance between slices stays;
3. centre crop to `crop` pixels, where an edge is longer;
4. intensity, per volume over the cropped voxels: clip to the 1st..99th percentile, subtract the mean, divide by the
   standard deviation;
5. padding to the square, with the volume's minimum (background for labels);
6. in-plane resizing to `size`: linear, with antialiasing when shrinking; nearest for labels.

z is the third axis as stored, the one through the slices. It is never resampled or swapped with another. With an
orientation code it grows towards the code's third letter in every volume, which flips volumes stored the other way;
a volume whose slices are stacked along another direction is refused. Where headers are not to be trusted, or slices are
oblique as in short-axis MR, `orientation = "stored"` keeps all axes as in the file. ACDC's slices run base to apex as
stored, and its headers all say RAS: with "RAS" and with "stored" they stay base to apex.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Orientation, Spacing, SpatialPad

from fedsecure.config import DataSettings
from fedsecure.data.layout import FrameFiles, Raw
from fedsecure.data.nifti import NiftiReader, axis_codes
from fedsecure.errors import DataError
from fedsecure.types import FloatArray, LabelArray

STORED = "stored"  # the orientation that leaves all axes as in the file
_AXES = (("L", "R"), ("P", "A"), ("I", "S"))
_WHOLE = 1e-4  # labels scaled by a header may miss their whole number by this much


@dataclass(frozen=True, slots=True)
class Grid:
    """What `Volume` holds, before it belongs to a subject. image, label: [Z, H, W]; spacing_mm: (z, y, x)."""

    image: FloatArray
    label: LabelArray | None
    spacing_mm: tuple[float, float, float]

    def __repr__(self) -> str:
        return f"Grid(shape={self.image.shape}, labelled={self.label is not None})"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network sees of one image, and where that lies. image: [Z, H, W]; affine: [4, 4], (x, y, z) of its
    pixels -> mm in the axes of the file."""

    image: FloatArray
    affine: npt.NDArray[np.float64]

    def __repr__(self) -> str:
        return f"Seen(shape={self.image.shape})"


class FrameReader:
    """Reads and checks frames of any layout. Holds one file at a time."""

    def __init__(self) -> None:
        self._nifti = NiftiReader()

    def image(self, frame: FrameFiles) -> Raw:
        """Raises DataError when the image cannot be read, is not finite, or is constant."""
        if frame.slices:
            from fedsecure.data.dicom import read_series

            raw = read_series(frame.slices)
        else:
            raw = self._nifti.read(frame.image, frame.index)
        _check_image(raw.voxels, frame.image)
        return raw

    def label(self, frame: FrameFiles) -> Raw | None:
        return None if frame.label is None else self._nifti.read(frame.label, frame.index)


def prepare_frame(frame: FrameFiles, settings: DataSettings, reader: FrameReader) -> Grid:
    """Read, check and transform one frame. Raises DataError with the reason when it cannot be used."""
    raw, label = read_frame(frame, settings, reader)
    seen = prepare_image(raw, settings, frame.image)
    x, y, z = Raw(raw.voxels, seen.affine).spacing_mm
    return Grid(
        image=seen.image,
        label=None if label is None else _label_grid(label, settings, frame.image),
        spacing_mm=(z, y, x),
    )


def read_frame(frame: FrameFiles, settings: DataSettings, reader: FrameReader) -> tuple[Raw, Raw | None]:
    """Image and label as stored, checked against each other. Raises DataError with the reason when one cannot be
    used."""
    raw = reader.image(frame)
    label = reader.label(frame)
    if frame.label is not None and label is not None:
        _check_label(label, raw, settings, frame.label)
    return raw, label


def prepare_image(raw: Raw, settings: DataSettings, file: Path) -> Seen:
    """Steps 1 to 6 for an image. Raises DataError when it cannot be used; `file` is named in it."""
    oriented = _oriented(raw, settings, "bilinear", file)
    square = _square(oriented, settings, file)
    step = square.shape[1] / settings.size  # of the square's pixels, from one pixel of the network's to the next
    shrink = np.diag([step, step, 1.0, 1.0])
    shrink[:2, 3] = (step - 1) / 2  # edges lie on edges, not centres on centres
    return Seen(_resized(square.as_tensor(), settings.size, "bilinear").numpy(), square.affine.numpy() @ shrink)


def reverses_z(raw: Raw, settings: DataSettings) -> bool:
    """Whether `orientation` makes slices run the other way than they are stored."""
    return settings.orientation != STORED and axis_codes(raw.affine)[2] != settings.orientation[2]


def _oriented(raw: Raw, settings: DataSettings, mode: str, file: Path) -> Any:
    """Steps 1 and 2: a MetaTensor [1, X, Y, Z]."""
    volume = MetaTensor(torch.from_numpy(raw.voxels)[None], affine=torch.from_numpy(raw.affine))
    if settings.orientation != STORED:
        if axis_codes(raw.affine)[2] not in "SI":
            raise DataError(
                "slices are not stacked along the body's long axis, as the orientation code asks: write "
                'orientation = "stored" in the data settings to take axes as in the file, or store axial slices',
                file,
            )
        volume = Orientation(axcodes=settings.orientation, labels=_AXES)(volume)
    if settings.spacing_mm is not None:
        y, x = settings.spacing_mm
        # -1 keeps the distance between slices.
        volume = Spacing(pixdim=(x, y, -1.0), mode=mode, padding_mode="border")(volume)
    return volume


def _square(oriented: Any, settings: DataSettings, file: Path) -> Any:
    """Steps 3 to 5 for an image: a MetaTensor [1, side, side, Z]."""
    side = settings.crop or max(oriented.shape[1:3])
    cropped = CenterSpatialCrop((side, side, -1))(oriented)
    normalised = MetaTensor(torch.from_numpy(_normalised(cropped.numpy(), file)), affine=cropped.affine)
    return _padded(normalised, side, float(normalised.min()))


def _normalised(voxels: FloatArray, file: Path) -> FloatArray:
    low, high = np.percentile(voxels, (1.0, 99.0))
    clipped = np.clip(voxels, low, high)
    mean, deviation = clipped.mean(dtype=np.float64), clipped.std(dtype=np.float64)
    if not deviation > 1e-6 * max(1.0, abs(mean)):
        raise DataError("the image is constant between its 1st and 99th percentile, within the crop", file)
    normalised: FloatArray = ((clipped - mean) / deviation).astype(np.float32)
    return normalised


def _label_grid(label: Raw, settings: DataSettings, file: Path) -> LabelArray:
    oriented = _oriented(label, settings, "nearest", file)
    side = settings.crop or max(oriented.shape[1:3])
    cropped = CenterSpatialCrop((side, side, -1))(oriented)
    resized = _resized(_padded(cropped, side, 0.0).as_tensor(), settings.size, "nearest-exact")
    return resized.round().to(torch.uint8).numpy()


def _padded(volume: Any, side: int, value: float) -> Any:
    return SpatialPad((side, side, -1), mode="constant", value=value)(volume)


def _resized(volume: torch.Tensor, size: int, mode: str) -> torch.Tensor:
    """[1, X, Y, Z] -> [Z, H, W] with H along y and W along x."""
    slices = volume.permute(3, 0, 2, 1)  # [Z, 1, Y, X]
    linear = mode == "bilinear"
    resized = F.interpolate(slices, (size, size), mode=mode, antialias=linear, align_corners=False if linear else None)
    return resized[:, 0].contiguous()


def _check_image(voxels: FloatArray, file: Path) -> None:
    if np.isnan(voxels).any():
        raise DataError("the image holds NaN voxels", file)
    if np.isinf(voxels).any():
        raise DataError("the image holds infinite voxels", file)
    if voxels.min() == voxels.max():
        raise DataError("the image is constant: every voxel has the same value", file)


def _check_label(label: Raw, image: Raw, settings: DataSettings, file: Path) -> None:
    if label.voxels.shape != image.voxels.shape:
        raise DataError(f"the label's shape {label.voxels.shape} is not its image's {image.voxels.shape}", file)
    if settings.orientation != STORED and axis_codes(label.affine) != axis_codes(image.affine):
        raise DataError("the label's header gives other axis directions than its image's: one of them is wrong", file)
    whole = np.rint(label.voxels)
    if not (np.abs(label.voxels - whole) <= _WHOLE).all():
        raise DataError("the label holds values that are not whole numbers", file)
    low, high, top = int(whole.min()), int(whole.max()), len(settings.structures)
    if low < 0 or high > top:
        raise DataError(
            f"the label holds the value {high if high > top else low}, outside the label map: 0 is background, "
            f"1 to {top} are the study's structures",
            file,
        )
