"""First bytes of the formats that volumes and arrays are kept in, each with what must follow: three or four bytes alone
turn up by chance in a few megabytes of ciphertext."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

_PREAMBLE: Final = 128  # bytes before DICM (DICOM PS3.10, 7.1)
_NIFTI_MAGIC_AT: Final = 344  # nifti1.h
_NIFTI_HEADER: Final = 348
_INFLATED: Final = 64  # bytes that a gzip stream gives before it is taken for one
_LOOK: Final = 1 << 16
GZIP: Final = b"\x1f\x8b\x08"  # RFC 1952, 2.3.1: ID1, ID2, CM = deflate


def found_in(raw: bytes) -> Iterator[tuple[str, int]]:
    """(format, offset) of every file that seems to begin in `raw`, or of its magic where that is not its first byte."""
    for name, (magic, holds) in _FORMATS.items():
        at = raw.find(magic)
        while at >= 0:
            if holds(raw, at):
                yield name, at
            at = raw.find(magic, at + 1)


def inflated(raw: bytes, at: int, most: int) -> bytes:
    """Up to `most` bytes of the gzip stream at an offset; fewer where it breaks off or is none."""
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    out = bytearray()
    piece = raw[at : at + _LOOK]
    try:
        while piece and len(out) < most and not decompressor.eof:
            out += decompressor.decompress(piece, most - len(out))
            at += _LOOK
            piece = decompressor.unconsumed_tail or raw[at : at + _LOOK]
    except zlib.error:
        pass  # what came before it is what there is
    return bytes(out)


def _gzip(raw: bytes, at: int) -> bool:
    return len(inflated(raw, at, _INFLATED)) == _INFLATED


def _dicom(raw: bytes, at: int) -> bool:
    return at >= _PREAMBLE and raw[at + 4 : at + 6] == b"\x02\x00"  # the first element's group: file meta information


def _nifti(raw: bytes, at: int) -> bool:
    start = at - _NIFTI_MAGIC_AT
    size = raw[start : start + 4] if start >= 0 else b""
    return _NIFTI_HEADER in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))


def _npy(raw: bytes, at: int) -> bool:
    return raw[at + 6 : at + 7] in (b"\x01", b"\x02", b"\x03")  # the format's major version


def _pickle(raw: bytes, at: int) -> bool:
    size = int.from_bytes(raw[at + 3 : at + 11], "little")  # of the first frame, PEP 3154
    return len(raw) >= at + 11 and 0 < size < 1 << 40


_FORMATS: Final[Mapping[str, tuple[bytes, Callable[[bytes, int], bool]]]] = {
    "DICOM": (b"DICM", _dicom),
    "NIfTI": (b"n+1\0", _nifti),
    "npy": (b"\x93NUMPY", _npy),
    "pickle": (b"\x80\x04\x95", _pickle),
    "pickle, protocol 5": (b"\x80\x05\x95", _pickle),
    "gzip": (GZIP, _gzip),
}
