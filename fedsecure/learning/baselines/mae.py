"""FedMAE: fill in what was masked, encoder and decoder averaged by FedAvg.

Source: He et al., "Masked autoencoders are scalable vision learners", arXiv 2111.06377, in the form that Xie et al.,
"SimMIM", arXiv 2111.09886, show to work for encoders that see masked patches too, which a convolutional one must.

    L = mean over the masked pixels of (prediction - view)^2

Fine-tuning takes the encoder alone, as there, or, with `keep_decoder`, all but the last layer: in restoration for
medical images (Zhou et al., "Models Genesis", arXiv 1908.06912) the whole U-Net is carried over.

Departures: the network is the segmenter's U-Net with one output channel; masked patches are 0, the volume's mean, not
a learnt value; pixels are not normalised by patch, as volumes are already.
There is no projector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedsecure.config import Study
from fedsecure.learning.baselines.averaged import Averaged
from fedsecure.learning.job import Job
from fedsecure.learning.model import Segmenter
from fedsecure.learning.slices import Batch


class MaeTraining(Averaged[Segmenter]):
    @staticmethod
    def build(study: Study) -> Segmenter:
        return Segmenter(study.model, structures=0)

    def __init__(self, job: Job, device: str, seed: int) -> None:
        super().__init__(job, device, seed)
        self._own = job.study.mae

    def loss(self, batch: Batch) -> Tensor:
        views = self._views(batch)
        masked = draw_mask(views.shape, self._own.patch, self._own.masked, self._generator)
        return masked_error(self.network(views.masked_fill(masked, 0)), views, masked)


def draw_mask(shape: torch.Size, patch: int, share: float, generator: torch.Generator) -> Tensor:
    """[N, 1, H, W] bool: in each picture the same number of whole patches, `share` of all, but neither none nor all."""
    n, _, height, width = shape
    rows, columns = height // patch, width // patch
    count = min(max(round(share * rows * columns), 1), rows * columns - 1)
    order = torch.rand((n, rows * columns), generator=generator, device=generator.device).argsort(1)
    mask = (order < count).reshape(n, 1, rows, columns)
    return mask.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def masked_error(prediction: Tensor, views: Tensor, masked: Tensor) -> Tensor:
    """L of predictions and views [N, 1, H, W] over the pixels where `masked`."""
    return ((prediction.float() - views).square() * masked).sum() / masked.sum()
