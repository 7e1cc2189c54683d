"""Prepared volumes on the site's own disk, so that they are prepared once and memory never grows with the data set.

An entry is KEY.image.npy, KEY.label.npy where there is a label, and KEY.json, written last: without it there is no
entry. Files appear by rename, so processes that prepare the same volume at once write the same bytes and do not disturb
each other. What is read is checked against the digests in KEY.json; anything that does not hold is prepared anew.
Volumes are patients' data: the folder and its files are their owner's alone (modes 0700 and 0600).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from fedsecure.config import DataSettings
from fedsecure.data.layout import FrameFiles
from fedsecure.data.volume import FrameReader, Grid, prepare_frame
from fedsecure.errors import DataError, SettingsError

FORMAT = 1  # raise it when the same file and settings give other arrays than before


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spacing_mm: tuple[float, float, float]
    image: str  # SHA-256 of the .npy file
    label: str | None


class Store:
    """Prepared volumes of one source under one `DataSettings`. For one pass over the source: file digests are kept."""

    def __init__(self, folder: Path, settings: DataSettings) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"the cache folder cannot be made: {error.strerror}") from None
        self._folder = folder
        self._settings = settings
        self._reader = FrameReader()
        self._digests: dict[Path, bytes] = {}

    def volume(self, frame: FrameFiles) -> Grid:
        """The prepared frame, mapped from disk, read-only. Raises DataError when the frame cannot be used."""
        key = self._key(frame)
        found = self._find(key)
        if found is None:
            self._write(key, prepare_frame(frame, self._settings, self._reader))
            found = self._find(key)
        if found is None:
            raise SettingsError("the cache folder does not keep what is written to it; is its disk full?")
        return found

    def _key(self, frame: FrameFiles) -> str:
        """SHA-256 over everything that decides the arrays: format, settings, frame, the bytes of every file."""
        settings = self._settings
        # Of the structures only their number matters, which decides whether a label is accepted.
        decisive = (settings.orientation, settings.spacing_mm, settings.crop, settings.size, len(settings.structures))
        head = msgspec.json.encode([FORMAT, *decisive, frame.index, len(frame.slices), frame.label is not None])
        digest = hashlib.sha256(b"fedsecure/prepared/v1\0" + head)
        for file in frame.files:
            digest.update(self._file_digest(file))
        return digest.hexdigest()

    def _file_digest(self, file: Path) -> bytes:
        if file not in self._digests:
            try:
                with file.open("rb") as opened:
                    self._digests[file] = hashlib.file_digest(opened, "sha256").digest()
            except OSError as error:
                raise DataError(f"the file cannot be read: {error.strerror}", file) from None
        return self._digests[file]

    def _path(self, key: str, part: str) -> Path:
        return self._folder / f"{key}.{part}"

    def _find(self, key: str) -> Grid | None:
        """The entry, or None when it is absent or damaged."""
        try:
            record = msgspec.json.decode(self._path(key, "json").read_bytes(), type=_Record)
            image = _map(self._path(key, "image.npy"), record.image)
            label = None if record.label is None else _map(self._path(key, "label.npy"), record.label)
        except (OSError, ValueError):  # msgspec's errors are ValueErrors
            return None
        return Grid(image, label, record.spacing_mm)

    def _write(self, key: str, grid: Grid) -> None:
        image = _replace(self._path(key, "image.npy"), lambda file: np.save(file, grid.image, allow_pickle=False))
        label = None
        if (array := grid.label) is not None:
            label = _replace(self._path(key, "label.npy"), lambda file: np.save(file, array, allow_pickle=False))
        record = msgspec.json.encode(_Record(grid.spacing_mm, image, label))
        _replace(self._path(key, "json"), lambda file: file.write(record))


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> str:
    """Write a file of mode 0600 beside `path`, then rename it; gives the SHA-256 of what was written."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            temporary = Path(file.name)
            try:
                write(file)
                file.flush()  # no fsync: what a power cut damages, its digest gives away, and it is prepared anew
                digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise SettingsError(f"the cache folder cannot be written: {error.strerror}") from None
    return digest


def _map(path: Path, digest: str) -> npt.NDArray[Any]:
    """A .npy file as a read-only array on its mapped pages. Raises ValueError when it is not what was written.

    numpy.memmap holds a file descriptor for each array, and a cine data set has thousands of volumes; torch's mapping
    holds none.
    """
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError("a prepared volume is damaged")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError("a prepared volume has another format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    mapped = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
    array = mapped[start:].view(dtype).reshape(shape)
    array.flags.writeable = False
    return array
