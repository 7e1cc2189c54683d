"""DICOM Segmentation objects (PS3.3 A.51) that refer to the series they were made from: the only module that knows
highdicom. Patient and study come over from the series, so the object belongs to the hospital's own archive."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fedsecure.data.dicom import source_images
from fedsecure.errors import DataError, SettingsError
from fedsecure.types import LabelArray

_SCHEME = "99FEDSECURE"  # a private coding scheme: 99 says so (PS3.3 8.2)

# (code, scheme, meaning) of PS3.16 CID 7162 and CID 7150
_INTELLIGENCE = ("123110", "DCM", "Artificial Intelligence")
_ANATOMY = ("91723000", "SCT", "Anatomical Structure")


def require_highdicom() -> None:
    """Raises SettingsError, with what to install, if highdicom is missing."""
    if importlib.util.find_spec("highdicom") is None:
        raise SettingsError("DICOM-SEG needs highdicom, which is not installed: pip install 'fedsecure[dicom]'")


def seg_bytes(slices: Sequence[Path], labels: LabelArray, structures: Sequence[str], model_id: str) -> bytes:
    """A binary segmentation with one segment for each structure that was found. labels: [columns, rows, slices], as
    `data.dicom.read_series` stacks them.

    Structures are coded under a private scheme by the study's own names: which SNOMED code a study meant, nobody told
    us. Raises DataError when nothing was found, or the series lacks what such an object must repeat.
    """
    require_highdicom()
    import highdicom as hd

    found = [value for value in range(1, len(structures) + 1) if (labels == value).any()]
    if not found:
        raise DataError(
            "no structure was found: labels in NIfTI are there, a segmentation object cannot be empty", slices[0].parent
        )
    algorithm = hd.AlgorithmIdentificationSequence(
        name="fedsecure", version=version("fedsecure"), family=hd.sr.CodedConcept(*_INTELLIGENCE),
        parameters={"model": model_id},
    )  # fmt: skip
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=structures[value - 1][:64],
            segmented_property_category=hd.sr.CodedConcept(*_ANATOMY),
            segmented_property_type=hd.sr.CodedConcept(f"structure-{value}", _SCHEME, structures[value - 1][:64]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, value in enumerate(found, start=1)
    ]
    planes = np.stack([labels.transpose(2, 1, 0) == value for value in found], axis=-1)
    images = source_images(slices)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote the patient's header
            made = hd.seg.Segmentation(
                source_images=images,
                pixel_array=planes,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=segments,
                series_instance_uid=hd.UID(),
                series_number=900,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="fedsecure",
                manufacturer_model_name=model_id[:64],
                software_versions=version("fedsecure"),
                device_serial_number="0",
                series_description="fedsecure segmentation, research only",
            )
            buffer = io.BytesIO()
            made.save_as(buffer)
    except (AttributeError, ValueError, TypeError, KeyError):
        raise DataError(
            "the series lacks attributes that a segmentation object must repeat (patient, study, frame of reference): "
            "the labels in NIfTI, which need none of them, are there",
            slices[0].parent,
        ) from None
    return buffer.getvalue()
