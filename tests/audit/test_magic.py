"""Formats by their first bytes, each written by the library that everybody writes it with; and no chance hits."""

from __future__ import annotations

import gzip
import io
import pickle

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from fedsecure.audit.magic import found_in, inflated


def nifti() -> bytes:
    return nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_bytes()


def dicom() -> bytes:
    dataset = Dataset()
    dataset.PatientName = "Somebody"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("NIfTI", nifti()),
        ("DICOM", dicom()),
        ("npy", npy()),
        ("pickle", pickle.dumps(list(range(100)), 4)),
        ("pickle, protocol 5", pickle.dumps(list(range(100)), 5)),
        ("gzip", gzip.compress(bytes(1000), mtime=0)),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_file_is_found_wherever_it_begins(name: str, raw: bytes) -> None:
    before = np.random.default_rng(0).bytes(333)
    assert name in [found for found, _ in found_in(before + raw + before)]


@pytest.mark.parametrize("magic", [b"DICM", b"n+1\0", b"\x93NUMPY", b"\x80\x04\x95", b"\x1f\x8b\x08"])
def test_magic_alone_is_no_file(magic: bytes) -> None:
    assert list(found_in(bytes(range(7, 200)) + magic + b"\xff" * 400)) == []


def test_random_bytes_hold_no_file() -> None:
    assert list(found_in(np.random.default_rng(1).bytes(1 << 24))) == []


def test_a_gzip_stream_is_read_to_where_it_breaks_off() -> None:
    said = np.random.default_rng(2).integers(0, 4, 100_000, np.uint8).tobytes()
    raw = b"xx" + gzip.compress(said)
    assert inflated(raw, 2, 1 << 20) == said
    assert inflated(raw, 2, 50) == said[:50]
    assert said.startswith(inflated(raw[: len(raw) // 2], 2, 1 << 20))
