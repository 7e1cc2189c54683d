"""Folders of DICOM series: the only module that knows pydicom. Positions follow PS3.3 C.7.6.2 (image plane).

Opening reads headers and groups files by patient and series; several times at each slice position make several frames.
Reading one frame checks its geometry and decodes its pixels. Nothing but voxels and an affine is kept of a header.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from fedsecure.data.layout import FrameFiles, Patient, Raw, Source, checked, children
from fedsecure.errors import DataError
from fedsecure.types import FloatArray

_HEADER = (
    "PatientID", "SeriesInstanceUID", "Rows", "ImagePositionPatient", "ImageOrientationPatient",
    "TemporalPositionIdentifier", "TriggerTime",
)  # fmt: skip
_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_SAME_POSITION_MM = 0.01
_EVEN = 0.1  # gaps between slices may differ by this share of the median gap
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

_Point = tuple[float, tuple[float, ...], Path]  # position along the normal, time, file


def open_dicom(root: Path) -> Source:
    """Raises DataError when a folder cannot be listed, no image is found, or an image has no PatientID or series."""
    series: defaultdict[str, defaultdict[str, list[_Point]]] = defaultdict(lambda: defaultdict(list))
    for file, header in _headers(root):
        patient, uid = str(header.get("PatientID") or ""), str(header.get("SeriesInstanceUID") or "")
        if not patient or not uid:
            raise DataError("an image has no PatientID or no SeriesInstanceUID: patients cannot be told apart", file)
        series[patient][uid].append((_along_normal(header), _time(header), file))
    patients = (_patient(name, by_uid) for name, by_uid in series.items())
    return checked(patients, None, root, "DICOM images, in any depth of sub-folders")


def read_series(slices: Sequence[Path]) -> Raw:
    """One frame, [columns, rows, slices], ordered along the slice normal; rescaled to the modality's units.

    Raises DataError: unreadable, no geometry, multi-frame, colour, mixed sizes or orientations, duplicated, missing or
    uneven positions, pixels that cannot be decoded.
    """
    headers = [_read(file) for file in slices]
    for header, file in zip(headers, slices, strict=True):
        _check_slice(header, headers[0], file)
    positions = [_along_normal(header) for header in headers]
    order = np.argsort(positions, kind="stable")
    gap = _check_positions([positions[i] for i in order], slices[0])
    voxels = np.stack([_pixels(headers[i], slices[i]) for i in order], axis=-1)
    return Raw(voxels, _affine(headers[order[0]], gap))


def _headers(folder: Path) -> Iterator[tuple[Path, Dataset]]:
    for path in children(folder):
        if path.is_dir():
            yield from _headers(path)
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
        except InvalidDicomError:
            continue  # readme files, DICOMDIR-less viewers and the like lie beside exported series
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror}", path) from None
        if "Rows" in header:  # structured reports and contours are not images
            yield path, header


def _patient(name: str, by_uid: dict[str, list[_Point]]) -> Patient:
    stacks = [stack for _, points in sorted(by_uid.items()) for stack in _frames(points)]
    frames = (FrameFiles(stack[0].parent, None, None, number, stack) for number, stack in enumerate(stacks, start=1))
    return Patient(name, None, tuple(frames))


def _frames(points: Iterable[_Point]) -> list[tuple[Path, ...]]:
    """The files of each frame of a series: the k-th time at every position makes frame k.

    Trigger times differ a little from slice to slice, so they order the files of one position and are not compared
    across positions. Where times do not tell the files of a position apart, or positions have different numbers of
    files, all stay together in one frame, which is then refused as duplicated when it is read.
    """
    by_position: defaultdict[int, list[tuple[tuple[float, ...], Path]]] = defaultdict(list)
    for position, time, file in sorted(points):
        by_position[round(position / _SAME_POSITION_MM)].append((time, file))
    stacks = [sorted(files) for _, files in sorted(by_position.items())]
    counts = {len(files) for files in stacks}
    if len(counts) > 1 or any(len({time for time, _ in files}) < len(files) for files in stacks):
        return [tuple(file for files in stacks for _, file in files)]
    return [tuple(file for _, file in frame) for frame in zip(*stacks, strict=True)]


def _time(header: Dataset) -> tuple[float, ...]:
    return tuple(float(header.get(tag) or 0) for tag in ("TemporalPositionIdentifier", "TriggerTime"))


def _along_normal(header: Dataset) -> float:
    """Millimetres of the slice along its normal; 0 without geometry, which `_check_slice` refuses later."""
    if any(header.get(tag) is None for tag in ("ImagePositionPatient", "ImageOrientationPatient")):
        return 0.0
    return float(np.dot(np.asarray(header.ImagePositionPatient, dtype=np.float64), _normal(header)))


def _normal(header: Dataset) -> npt.NDArray[np.float64]:
    direction = np.asarray(header.ImageOrientationPatient, dtype=np.float64)
    return np.cross(direction[:3], direction[3:])


def _read(file: Path) -> Dataset:
    try:
        return pydicom.dcmread(file)
    except InvalidDicomError:
        raise DataError("not a DICOM file", file) from None
    except (OSError, EOFError):
        raise DataError("the file cannot be read, or is truncated", file) from None


def _check_slice(header: Dataset, first: Dataset, file: Path) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise DataError("enhanced multi-frame DICOM is not read: convert it to NIfTI and use folder:PATH", file)
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise DataError("the image is in colour; one value per pixel is needed", file)
    for tag in _NEEDED:
        if header.get(tag) is None:
            raise DataError(f"the image has no {tag}: slices cannot be put in order", file)
    if (header.Rows, header.Columns) != (first.Rows, first.Columns):
        raise DataError("slices of one series have different sizes", file)
    if not _close(header.ImageOrientationPatient, first.ImageOrientationPatient):
        raise DataError("slices of one series have different orientations", file)
    if not _close(header.PixelSpacing, first.PixelSpacing):
        raise DataError("slices of one series have different pixel spacings", file)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return bool(np.allclose(np.asarray(one, dtype=float), np.asarray(other, dtype=float), atol=1e-3))


def _check_positions(positions: Sequence[float], file: Path) -> float:
    """The distance between slices in mm. Raises DataError unless sorted positions are distinct and even."""
    if len(positions) < 2:
        raise DataError("the image is 2D: a volume has two slices or more", file)
    gaps = np.diff(positions)
    typical = float(np.median(gaps))
    if gaps.min() < _SAME_POSITION_MM:
        raise DataError("slice positions are duplicated, and no time in the headers tells the slices apart", file)
    if gaps.max() > (1 + _EVEN) * typical or gaps.min() < (1 - _EVEN) * typical:
        raise DataError("slices are missing: positions are not evenly spaced", file)
    return typical


def _pixels(header: Dataset, file: Path) -> FloatArray:
    """[columns, rows] in the modality's units; MONOCHROME1 (small is bright) is negated so that large is bright."""
    try:
        stored = header.pixel_array
    except (RuntimeError, NotImplementedError, ImportError, AttributeError, ValueError, TypeError, OSError):
        reason = (
            "the compressed pixel data cannot be decoded here: store the series uncompressed, or install pylibjpeg"
            if header.file_meta.TransferSyntaxUID.is_compressed
            else "the pixel data is incomplete or damaged"
        )
        raise DataError(reason, file) from None
    scaled = stored.T.astype(np.float32) * np.float32(header.get("RescaleSlope", 1))
    scaled += np.float32(header.get("RescaleIntercept", 0))
    return -scaled if header.get("PhotometricInterpretation") == "MONOCHROME1" else scaled


def _affine(first: Dataset, gap: float) -> npt.NDArray[np.float64]:
    """Voxel (column, row, slice) -> RAS+ mm. DICOM's patient axes are LPS+."""
    direction = np.asarray(first.ImageOrientationPatient, dtype=np.float64)
    between_rows, between_columns = (float(value) for value in first.PixelSpacing)
    steps = np.stack([direction[:3] * between_columns, direction[3:] * between_rows, _normal(first) * gap], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ steps
    affine[:3, 3] = _LPS_TO_RAS @ np.asarray(first.ImagePositionPatient, dtype=np.float64)
    return affine
