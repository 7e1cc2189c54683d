"""Real labels, taken in through the data door and back out, are where they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsecure.clinic.geometry import on_stored_grid, standing
from fedsecure.config import DataSettings
from fedsecure.data.source import open_source
from fedsecure.data.volume import FrameReader, prepare_frame, prepare_image, read_frame
from fedsecure.learning.evaluate import dice


@pytest.mark.parametrize(
    ("source", "name", "settings", "least"),
    [
        ("acdc", "acdc", {"crop": 160, "size": 128}, 0.93),
        ("acdc", "acdc", {"spacing_mm": (1.4, 1.4), "crop": 128, "size": 128}, 0.88),
        ("msd", "hippocampus", {"size": 64, "structures": ("anterior", "posterior")}, 0.97),
    ],
)
def test_labels_survive_the_way_in_and_back(
    request: pytest.FixtureRequest, source: str, name: str, settings: dict[str, object], least: float
) -> None:
    folder: Path = request.getfixturevalue(name)
    data = DataSettings(**settings)  # type: ignore[arg-type]
    classes = 1 + len(data.structures)
    reader = FrameReader()
    for patient in open_source(f"{source}:{folder}").patients[:3]:
        frame = next(frame for frame in patient.frames if frame.label is not None)
        raw, label = read_frame(frame, data, reader)
        grid = prepare_frame(frame, data, reader)
        assert grid.label is not None
        assert label is not None
        upright, _ = standing(raw, data, frame.image)
        sure = np.eye(classes, dtype=np.float32)[grid.label].transpose(0, 3, 1, 2)
        pages = on_stored_grid(
            np.ascontiguousarray(sure), prepare_image(upright, data, frame.image), upright, frame.image
        )
        again = np.stack([page.argmax(0).astype(np.uint8) for page in pages], axis=-1)
        overlap = dice(again, label.voxels.round().astype(np.uint8), classes - 1)
        assert np.nanmin(overlap) > least
