"""Folders of DICOM series: the only module that knows pydicom. Positions follow PS3.3 C.7.6.2 (image plane).

Opening reads headers and groups files by patient and series; several times at each slice position make several frames.
Reading one frame checks its geometry and decodes its pixels. Nothing but voxels and an affine is kept of a header.

A damaged file may have been a slice of anything near it. It goes into the series that it names, or else into every
series of its folder, and reading that series says what is wrong with it: no volume loses a slice unseen.
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.uid import UID

from fedsecure.data.layout import FrameFiles, Patient, Raw, Source, checked, children
from fedsecure.errors import DataError
from fedsecure.types import FloatArray

# pydicom's complaints quote header values, and nobody but the owner of the data may see those.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False

_TAGS = (
    "SOPClassUID", "PatientID", "SeriesInstanceUID", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "TemporalPositionIdentifier", "TriggerTime",
)  # fmt: skip
_MAGIC_AT, _MAGIC = 128, b"DICM"  # PS3.10 section 7.1
_SAME_POSITION_MM = 0.01
_SMALLEST_MM, _FARTHEST_MM = 1e-4, 1e6
_EVEN = 0.1  # gaps between slices may differ by this share of the median gap
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_DAMAGED = "the DICOM header is damaged or incomplete: export or copy the file again"

_Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, repr=False)
class _Header:
    """What is used of one image's header, in plain numbers; None where the image has no such attribute."""

    size: tuple[int, int]  # (rows, columns)
    frames: int
    samples: int
    position: _Vector | None  # [3] mm, LPS+
    orientation: _Vector | None  # [6] directions of rows and columns, LPS+
    spacing: _Vector | None  # [2] mm between (rows, columns)
    time: tuple[float, float]

    @property
    def normal(self) -> _Vector:
        assert self.orientation is not None  # noqa: S101  # only asked for where there is geometry
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def along_normal(self) -> float:
        """Millimetres of the slice along its normal; 0 without geometry, which `_check_slice` refuses later."""
        if self.position is None or self.orientation is None:
            return 0.0
        return float(np.dot(self.position, self.normal))


@dataclass(frozen=True, slots=True, repr=False)
class _Slice:
    """One file as the listing sees it. A file that is not `whole` makes its series fail when it is read."""

    file: Path
    patient: str = ""
    series: str = ""
    position: float = 0.0
    time: tuple[float, float] = (0.0, 0.0)
    whole: bool = False


def open_dicom(root: Path) -> Source:
    """Raises DataError when a folder cannot be listed or no image is found. Damaged files fail when they are read."""
    series: defaultdict[str, defaultdict[str, list[_Slice]]] = defaultdict(lambda: defaultdict(list))
    strays: defaultdict[Path, list[_Slice]] = defaultdict(list)
    for found in _slices(root):
        if found.patient and found.series:
            series[found.patient][found.series].append(found)
        else:
            strays[found.file.parent].append(found)
    stacks = [stack for by_uid in series.values() for stack in by_uid.values()]
    folders = [{found.file.parent for found in stack} for stack in stacks]
    patients = []
    for folder, lost in strays.items():
        near = [stack for stack, holds in zip(stacks, folders, strict=True) if folder in holds]
        for stack in near:
            stack.extend(lost)
        if not near:
            patients.append(_patient(str(folder), {"": lost}))
    patients += [_patient(name, by_uid) for name, by_uid in series.items()]
    return checked(patients, None, root, "DICOM images, in any depth of sub-folders")


def read_series(slices: Sequence[Path]) -> Raw:
    """One frame, [columns, rows, slices], ordered along the slice normal; rescaled to the modality's units.

    Raises DataError: unreadable, damaged, no patient, no geometry, multi-frame, colour, mixed sizes or orientations,
    duplicated, missing or uneven positions, pixels that cannot be decoded.
    """
    read = [_read(file) for file in slices]
    headers = [_header(dataset, file) for dataset, file in zip(read, slices, strict=True)]
    for header, file in zip(headers, slices, strict=True):
        _check_slice(header, headers[0], file)
    positions = [header.along_normal for header in headers]
    order = np.argsort(positions, kind="stable")
    gap = _check_positions([positions[i] for i in order], slices[0])
    voxels = np.stack([_pixels(read[i], headers[i].size, slices[i]) for i in order], axis=-1)
    return Raw(voxels, _affine(headers[order[0]], gap))


def read_modality(slices: Sequence[Path]) -> str | None:
    """The modality that the series' first file names, such as "MR"; None where it names none."""
    with _private(slices[0]):
        found = pydicom.dcmread(slices[0], stop_before_pixels=True, specific_tags=["Modality"]).get("Modality")
    return None if not found else str(found)


def source_images(slices: Sequence[Path]) -> list[Dataset]:
    """The images of one frame as pydicom has them, in the order in which `read_series` stacks them, for an object that
    refers to them. They hold the patient's name: for the hospital's own files alone. Raises DataError."""
    read = [_read(file) for file in slices]
    positions = [_header(dataset, file).along_normal for dataset, file in zip(read, slices, strict=True)]
    return [read[i] for i in np.argsort(positions, kind="stable")]


@contextmanager
def _private(file: Path, reason: str = _DAMAGED) -> Iterator[None]:
    """Everything of pydicom happens in here. Raises DataError for whatever goes wrong, without a word of the header.

    Reading an attribute converts its value, so any access may fail; damage shows as exceptions of many types.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or 'it is damaged'}", file) from None
    except Exception:  # noqa: BLE001  # see above
        raise DataError(reason, file) from None


def _slices(folder: Path) -> Iterator[_Slice]:
    for path in children(folder):
        if path.is_dir():
            yield from _slices(path)
        elif (found := _slice(path)) is not None:
            yield found


def _slice(file: Path) -> _Slice | None:
    """None for what is not DICOM (readme files, viewers) or not an image (structured reports, contours)."""
    patient = series = ""
    try:
        with _private(file):
            if not _has_magic(file):
                return None
            dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
            if not _is_image(dataset):
                return None
            patient, series = str(dataset.get("PatientID") or ""), str(dataset.get("SeriesInstanceUID") or "")
        header = _header(dataset, file)
    except DataError:
        return _Slice(file, patient, series)
    return _Slice(file, patient, series, header.along_normal, header.time, whole=True)


def _has_magic(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def _is_image(dataset: Dataset) -> bool:
    """Whether the file holds an image, or held one before it was cut."""
    kind = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    return "Rows" in dataset or not kind or "Image Storage" in UID(kind).name


def _patient(name: str, by_uid: dict[str, list[_Slice]]) -> Patient:
    stacks = [stack for _, found in sorted(by_uid.items()) for stack in _frames(found)]
    frames = (FrameFiles(stack[0].parent, None, None, number, stack) for number, stack in enumerate(stacks, start=1))
    return Patient(name, None, tuple(frames))


def _frames(series: Iterable[_Slice]) -> list[tuple[Path, ...]]:
    """The files of each frame of a series: the k-th time at every position makes frame k.

    Trigger times differ a little from slice to slice, so they order the files of one position and are not compared
    across positions. Where times do not tell the files of a position apart, or positions have different numbers of
    files, or a file is damaged, all stay together in one frame, which is then refused when it is read.
    """
    found = sorted(series, key=lambda item: (item.position, item.time, item.file))
    by_position: defaultdict[int, list[tuple[tuple[float, float], Path]]] = defaultdict(list)
    for item in found:
        by_position[round(item.position / _SAME_POSITION_MM)].append((item.time, item.file))
    stacks = [sorted(files) for _, files in sorted(by_position.items())]
    uneven = len({len(files) for files in stacks}) > 1
    alike = any(len({time for time, _ in files}) < len(files) for files in stacks)
    if uneven or alike or not all(item.whole for item in found):
        return [tuple(item.file for item in found)]
    return [tuple(file for _, file in frame) for frame in zip(*stacks, strict=True)]


def _read(file: Path) -> Dataset:
    with _private(file):
        if not _has_magic(file):
            raise DataError("not a DICOM file", file)
        return pydicom.dcmread(file)


def _header(dataset: Dataset, file: Path) -> _Header:
    with _private(file):
        if not dataset.get("PatientID") or not dataset.get("SeriesInstanceUID"):
            raise DataError("the image has no PatientID or no SeriesInstanceUID: patients cannot be told apart", file)
        if dataset.get("Rows") is None or dataset.get("Columns") is None:
            raise DataError("the image has no size: the file is cut off, export or copy it again", file)
        header = _Header(
            size=(int(dataset.Rows), int(dataset.Columns)),
            frames=int(dataset.get("NumberOfFrames") or 1),
            samples=int(dataset.get("SamplesPerPixel") or 1),
            position=_vector(dataset, "ImagePositionPatient", 3),
            orientation=_vector(dataset, "ImageOrientationPatient", 6),
            spacing=_vector(dataset, "PixelSpacing", 2),
            time=(_number(dataset, "TemporalPositionIdentifier", 0.0), _number(dataset, "TriggerTime", 0.0)),
        )
        if min(header.size) < 1 or not abs(header.along_normal) < _FARTHEST_MM:
            raise ValueError
        return header


def _vector(dataset: Dataset, tag: str, length: int) -> _Vector | None:
    if dataset.get(tag) is None:
        return None
    vector = np.asarray(dataset.get(tag), dtype=np.float64)
    if vector.shape != (length,) or not (np.abs(vector) < _FARTHEST_MM).all():
        raise ValueError
    return vector


def _number(dataset: Dataset, tag: str, default: float) -> float:
    value = dataset.get(tag)
    number = default if value is None or value == "" else float(value)
    if not np.isfinite(number):
        raise ValueError
    return number


def _check_slice(header: _Header, first: _Header, file: Path) -> None:
    if header.frames > 1:
        raise DataError("enhanced multi-frame DICOM is not read: convert it to NIfTI and use folder:PATH", file)
    if header.samples != 1:
        raise DataError("the image is in colour; one value per pixel is needed", file)
    needed = {
        "ImagePositionPatient": header.position,
        "ImageOrientationPatient": header.orientation,
        "PixelSpacing": header.spacing,
    }
    for tag, value in needed.items():
        if value is None:
            raise DataError(f"the image has no {tag}: slices cannot be put in order", file)
    if header.size != first.size:
        raise DataError("slices of one series have different sizes", file)
    if not _close(header.orientation, first.orientation):
        raise DataError("slices of one series have different orientations", file)
    if not _close(header.spacing, first.spacing):
        raise DataError("slices of one series have different pixel spacings", file)
    if header.spacing is not None and header.spacing.min() <= _SMALLEST_MM:
        raise DataError("the image's pixel spacing is not positive", file)
    if header.orientation is not None and not _right_angled(header.orientation.reshape(2, 3)):
        raise DataError("the directions of rows and columns are not unit vectors at right angles", file)


def _right_angled(directions: _Vector) -> bool:
    return np.allclose(directions @ directions.T, np.eye(2), atol=1e-2)


def _close(one: _Vector | None, other: _Vector | None) -> bool:
    return one is not None and other is not None and np.allclose(one, other, atol=1e-3)


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


def _pixels(dataset: Dataset, size: tuple[int, int], file: Path) -> FloatArray:
    """[columns, rows] in the modality's units; MONOCHROME1 (small is bright) is negated so that large is bright."""
    with _private(file):
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
        slope, intercept = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
        negate = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    reason = (
        "the compressed pixel data cannot be decoded here: store the series uncompressed, or install pylibjpeg"
        if compressed
        else "the pixel data is incomplete or damaged"
    )
    with _private(file, reason):
        stored = dataset.pixel_array
        if stored.shape != size:
            raise ValueError
        with np.errstate(all="ignore"):  # what becomes infinite is refused as such by whoever looks at the voxels
            scaled = stored.T.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return -scaled if negate else scaled


def _affine(first: _Header, gap: float) -> _Vector:
    """Voxel (column, row, slice) -> RAS+ mm. DICOM's patient axes are LPS+."""
    assert first.orientation is not None  # noqa: S101  # `_check_slice` has looked
    assert first.spacing is not None  # noqa: S101
    between_rows, between_columns = first.spacing
    rows, columns = first.orientation[:3], first.orientation[3:]
    steps = np.stack([rows * between_columns, columns * between_rows, first.normal * gap], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ steps
    affine[:3, 3] = _LPS_TO_RAS @ first.position
    return affine
