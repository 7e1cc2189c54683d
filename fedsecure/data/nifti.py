"""NIfTI files, checked: the only module that knows nibabel."""

from __future__ import annotations

import gzip
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel import imageglobals

from fedsecure.data.layout import Raw
from fedsecure.errors import DataError

imageglobals.logger.disabled = True  # it quotes header fields, on standard error

_KINDS = (nibabel.Nifti1Image, nibabel.Nifti2Image)
_LONGEST_HEADER = 540
_MOST_FRAMES = 32767  # of NIfTI-1; a NIfTI-2 header that says more is damaged
_EDGE_MM = (1e-4, 1e4)  # of a voxel
_FLATTEST = 0.01  # volume spanned by the directions of the three axes: 1 at right angles
_GEOMETRY = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


class NiftiReader:
    """Reads volumes one by one. Keeps the last file read, because all frames of a cine lie in one."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._image: Any = None

    def read(self, path: Path, index: int | None) -> Raw:
        """The volume of a 3D file (index None), or one frame of a 4D file. Voxels are scaled as the header says.

        Raises DataError: unreadable, damaged or truncated, not NIfTI, 2D, no slices, colour or complex voxels, several
        volumes where one is expected, a singular affine.
        """
        if path != self._path:
            self._image = _parse(_content(path), path)
            self._path = path
        _check_shape(self._image.shape, index, path)
        x, y, z = self._image.shape[:3]
        # What does not fit into float32 becomes infinite, and is refused as such by whoever looks at the voxels.
        with _private(path), np.errstate(all="ignore"):
            affine = np.asarray(self._image.affine, dtype=np.float64)
            if not _holds(affine):
                raise DataError("the header's geometry does not hold: its affine cannot be inverted", path)
            voxels = self._image.dataobj[..., index] if index is not None else np.asanyarray(self._image.dataobj)
            return Raw(np.array(voxels, dtype=np.float32).reshape(x, y, z), affine)


def frame_indices(path: Path) -> tuple[int | None, ...]:
    """One entry per volume in the file: (None,) for 3D, (0, 1, ...) for 4D. Reads the header alone.

    (None,) also where the header cannot be read: reading the volume will say why.
    """
    try:
        with _private(path), _open(path) as file:
            start = file.read(_LONGEST_HEADER)
            shape = _kind(start, path).header_class(start[: _header_size(start, path)], check=False).get_data_shape()
            frames = int(shape[3]) if len(shape) > 3 else 1
    except DataError:
        return (None,)
    return (None,) if not 1 < frames <= _MOST_FRAMES else tuple(range(frames))


def write(path: Path, voxels: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> None:
    """An array [X, Y, Z] or [X, Y, Z, T] as a NIfTI-1 file, in the array's own type."""
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def label_bytes(labels: npt.NDArray[np.uint8], affine: npt.NDArray[np.float64], like: Path | None) -> bytes:
    """A gzipped NIfTI file of labels [X, Y, Z] or [X, Y, Z, T]. `like` is the file whose grid they are on: of its
    header all that says where voxels lie comes over unchanged, and nothing else, as its texts may name the patient."""
    if like is None:
        made = nibabel.Nifti1Image(labels, affine)
        made.header.set_xyzt_units("mm", "sec")
    else:
        source = _parse(_content(like), like)
        header = type(source.header)()
        for name in _GEOMETRY:
            header[name] = source.header[name]
        header.set_data_dtype(labels.dtype)
        made = type(source)(labels, None, header)
    made.header.set_intent("label")
    return gzip.compress(made.to_bytes(), compresslevel=6, mtime=0)


def axis_codes(affine: npt.NDArray[np.float64]) -> str:
    """The direction in which each array axis grows, e.g. "RAS"; for oblique volumes the nearest one."""
    return "".join(nibabel.aff2axcodes(affine))


@contextmanager
def _private(path: Path) -> Iterator[None]:
    """nibabel reads headers in here. Raises DataError for whatever goes wrong, without a word of the header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except Exception:  # noqa: BLE001  # damage shows as exceptions of many types, which quote header fields
        raise DataError("not a NIfTI file: its header does not hold", path) from None


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _content(path: Path) -> bytes:
    # The whole file, not only the frame asked for: gzip's checksum stands at the end.
    try:
        with _open(path) as file:
            return file.read()
    except EOFError:
        raise DataError("the gzip stream ends early: the file is truncated, copy it again", path) from None
    except (gzip.BadGzipFile, zlib.error):
        raise DataError("the gzip stream is damaged, or the file is not gzip: copy it again", path) from None
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", path) from None


def _kind(content: bytes, path: Path) -> Any:
    for kind in _KINDS:
        if kind.header_class.may_contain_header(content):
            return kind
    raise DataError("not a NIfTI file", path)


def _header_size(content: bytes, path: Path) -> int:
    return int(_kind(content, path).header_class.template_dtype.itemsize)


def _parse(content: bytes, path: Path) -> Any:
    with _private(path):
        image = _kind(content, path).from_bytes(content)
        start, shape, kind = int(image.dataobj.offset), image.shape, image.get_data_dtype()
    if min(shape, default=0) < 1:
        raise DataError("the image has no slices or no pixels along an axis", path)
    if kind.kind not in "iuf":
        raise DataError("voxels are colours or complex numbers; one real number per voxel is needed", path)
    if start < 0 or start + math.prod(shape) * kind.itemsize > len(content):
        raise DataError("the file ends before its last voxel: it is truncated, copy it again", path)
    return image


def _holds(affine: npt.NDArray[np.float64]) -> bool:
    """Whether voxels have an extent in three directions."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _EDGE_MM
    if not (np.isfinite(affine).all() and edges.min() > low and edges.max() < high):
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / edges)) > _FLATTEST)


def _check_shape(shape: tuple[int, ...], index: int | None, path: Path) -> None:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3 or (len(shape) == 3 and shape[2] == 1):
        raise DataError("the image is 2D: a volume has two slices or more", path)
    if len(shape) > 4:
        raise DataError(f"the image has {len(shape)} axes; a volume has 3, a cine 4", path)
    if index is None and len(shape) == 4:
        raise DataError(
            f"the image has {shape[3]} modalities on its fourth axis and there is no modality setting to pick one: "
            "store the modality to use as a 3D file",
            path,
        )
    if index is not None and (len(shape) == 3 or index >= shape[3]):
        raise DataError("the file has fewer frames than the image it belongs to", path)
