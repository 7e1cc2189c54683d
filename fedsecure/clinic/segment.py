"""One image in, labels on its own grid out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedsecure.clinic.geometry import lying, on_stored_grid, standing
from fedsecure.config import DataSettings
from fedsecure.data.layout import Raw
from fedsecure.data.volume import prepare_image
from fedsecure.learning.model import Segmenter
from fedsecure.types import FloatArray, LabelArray

CHUNK = 32  # slices predicted at once: bounds memory however long a volume is

Network = Callable[[torch.Tensor], torch.Tensor]  # slices [N, 1, S, S] -> logits [N, C, S, S]
Look = Callable[[int, FloatArray], None]  # number of a slice, probabilities [C, X, Y]


@dataclass(frozen=True, slots=True)
class Segmenting:
    """A network with the settings under which it was trained."""

    network: Network
    data: DataSettings
    device: str = "cpu"

    @classmethod
    def of(cls, segmenter: Segmenter, data: DataSettings) -> Segmenting:
        return cls(segmenter.eval(), data, str(next(segmenter.parameters()).device))

    def labels(self, raw: Raw, file: Path, look: Look | None = None) -> LabelArray:
        """The class of each voxel as stored, uint8 [X, Y, Z] like `raw.voxels`.

        `look` is handed each slice's probabilities, with axes in the order that `geometry.standing` puts them in.
        Raises DataError, which names `file`, for a volume that the model cannot be used on.
        """
        upright, order = standing(raw, self.data, file)
        seen = prepare_image(upright, self.data, file)
        labels = np.zeros(upright.voxels.shape, np.uint8)
        pages = on_stored_grid(probabilities(self.network, seen.image, self.device), seen, upright, file)
        for k, page in enumerate(pages):
            labels[:, :, k] = page.argmax(0)
            if look is not None:
                look(k, page)
        return lying(labels, order)


def probabilities(network: Network, image: FloatArray, device: str = "cpu") -> FloatArray:
    """Softmax over classes for slices [Z, S, S]: float32 [Z, C, S, S]."""
    pages = []
    with torch.inference_mode():
        for start in range(0, len(image), CHUNK):
            slices = torch.from_numpy(np.array(image[start : start + CHUNK]))[:, None]
            pages.append(network(slices.to(device)).softmax(1).float().cpu().numpy())
    return np.concatenate(pages)
