"""What a person names to be segmented: a NIfTI file, a folder of them, a folder of DICOM series."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from fedsecure.data.layout import FrameFiles, is_nifti, stem
from fedsecure.data.nifti import frame_indices
from fedsecure.data.source import open_source
from fedsecure.errors import DataError, SettingsError

SCHEMES = ("acdc", "msd", "folder", "dicom", "hvsmr")


@dataclass(frozen=True, slots=True)
class Item:
    """One file or series. `frames` are its volumes, several of a cine; `name` is where its result goes, without an
    ending; `nifti` is its file, None for a DICOM series."""

    name: Path
    frames: tuple[FrameFiles, ...]
    nifti: Path | None

    def __repr__(self) -> str:
        return f"Item(frames={len(self.frames)})"


def items(given: str) -> tuple[Item, ...]:
    """Everything to segment under PATH or KIND:PATH, in order. Reads headers at most.

    Raises DataError where there is nothing, SettingsError for a path that does not exist.
    """
    path = place_of(given)
    if _has_scheme(given):
        return _of_source(given, path)
    if path.is_file():
        if not is_nifti(path):
            raise DataError("not a NIfTI file by its name: name a .nii or .nii.gz file, or a folder", path)
        return (_nifti_item(path, path.parent),)
    if not path.is_dir():
        raise SettingsError("IN does not exist: name a NIfTI file, a folder of them, or a folder of DICOM series")
    nifti = any(is_nifti(found) for found in path.rglob("*.nii*"))
    return _of_source(f"{'folder' if nifti else 'dicom'}:{path}", path)


def place_of(given: str) -> Path:
    """The PATH of PATH or KIND:PATH."""
    return Path(given.partition(":")[2] if _has_scheme(given) else given).expanduser()


def _has_scheme(given: str) -> bool:
    scheme, colon, _ = given.partition(":")
    return bool(colon) and scheme in SCHEMES


def _nifti_item(path: Path, root: Path) -> Item:
    frames = (FrameFiles(path, None, index, number) for number, index in enumerate(frame_indices(path), start=1))
    return Item(path.relative_to(root).parent / stem(path), tuple(frames), path)


def _of_source(address: str, root: Path) -> tuple[Item, ...]:
    files: dict[Path, None] = {}
    series: defaultdict[Path, list[FrameFiles]] = defaultdict(list)
    for patient in open_source(address).patients:
        for frame in patient.frames:
            if frame.slices:
                series[frame.image].append(frame)
            else:
                files[frame.image] = None
    found = [_nifti_item(path, root) for path in files]
    for folder, frames in series.items():
        place = folder.relative_to(root) if folder != root else Path("series")
        for number, frame in enumerate(frames, start=1):
            name = place if len(frames) == 1 else place.with_name(f"{place.name}-{number}")
            found.append(Item(name, (frame,), None))
    twice = [name for name, count in Counter(item.name for item in found).items() if count > 1]
    if twice:
        raise DataError("two inputs have one name, such as a.nii beside a.nii.gz: move one of them away", root)
    return tuple(sorted(found, key=lambda item: item.name))
