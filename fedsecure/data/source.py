"""From a source's address to its patients: the one place that knows which layouts there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedsecure.data.layout import FrameFiles, Patient, Source
from fedsecure.errors import SettingsError

__all__ = ["FrameFiles", "Patient", "Source", "open_source"]


def open_source(uri: str) -> Source:
    """List the patients of `acdc:PATH`, `msd:PATH`, `folder:PATH`, `dicom:PATH` or `hvsmr:PATH`.

    Reads headers at most, no voxel.

    Raises SettingsError for another scheme, DataError when the path cannot be listed or holds no patient. What is wrong
    with a single file is found when it is read, so that `on_error` can decide.
    """
    scheme, colon, path = uri.partition(":")
    reader = _reader(scheme)
    if reader is None or not colon or not path:
        raise SettingsError("a data source is written acdc:PATH, msd:PATH, folder:PATH, dicom:PATH or hvsmr:PATH")
    return reader(Path(path).expanduser())


def _reader(scheme: str) -> Callable[[Path], Source] | None:
    match scheme:
        case "acdc":
            from fedsecure.data.acdc import open_acdc

            return open_acdc
        case "msd":
            from fedsecure.data.msd import open_msd

            return open_msd
        case "hvsmr":
            from fedsecure.data.hvsmr import open_hvsmr

            return open_hvsmr
        case "folder":
            from fedsecure.data.folder import open_folder

            return open_folder
        case "dicom":
            from fedsecure.data.dicom import open_dicom

            return open_dicom
        case _:
            return None
