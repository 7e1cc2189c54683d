"""A small DICOM series with all that an archive's own has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

SPACING = (1.4, 1.1, 6.0)  # columns, rows, slices in mm
_COMMON = {
    "PatientID": "MRN-0042", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101", "PatientSex": "F",
    "StudyDate": "20260101", "StudyTime": "120000", "AccessionNumber": "1", "StudyID": "1", "SeriesNumber": 1,
    "ReferringPhysicianName": "", "PositionReferenceIndicator": "", "Modality": "MR", "Manufacturer": "maker",
}  # fmt: skip


def write_series(folder: Path, voxels: np.ndarray, **changes: object) -> None:
    """`voxels` [columns, rows, slices] as axial slices, one file each, whose names do not follow their places."""
    folder.mkdir(parents=True, exist_ok=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{(k * 7) % 10}{k}"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID, data.FrameOfReferenceUID = series, study, frame
        pixels = np.ascontiguousarray(voxels[:, :, k].T).astype(np.uint16)
        data.Rows, data.Columns = pixels.shape
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
        data.PhotometricInterpretation, data.InstanceNumber = "MONOCHROME2", k + 1
        data.PixelSpacing, data.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        data.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        data.ImagePositionPatient = [-30.0, -40.0, 5.0 + SPACING[2] * k]
        data.PixelData = pixels.tobytes()
        for tag, value in {**_COMMON, **changes}.items():
            setattr(data, tag, value)
        data.save_as(path, enforce_file_format=True)
