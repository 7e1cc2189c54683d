"""What most baselines share: all of the network is averaged, and nothing is kept on a site between rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from fedsecure.config import Study
from fedsecure.learning.job import Job
from fedsecure.learning.method import weights
from fedsecure.learning.model import load_tensors
from fedsecure.learning.slices import Batch
from fedsecure.learning.transforms import VIEWS, two_views
from fedsecure.types import State, Update

N = TypeVar("N", bound=nn.Module)


class Averaged(ABC, Generic[N]):
    """A `Method` but for its network and its loss."""

    @staticmethod
    @abstractmethod
    def build(study: Study) -> N: ...

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor: ...

    def __init__(self, job: Job, device: str, seed: int) -> None:
        self._settings = job.study.pretrain
        self._released = job.model
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)
        self.network = self.build(job.study).to(device)
        load_tensors(self.network, job.model)

    def finish(self) -> None:
        """Nothing follows the optimiser's step."""

    def state(self) -> State:
        return {}

    def updates(self) -> tuple[Update, ...]:
        return (weights(self.network, self._released),)

    def _views(self, batch: Batch) -> Tensor:
        """[2N, 1, H, W]: all slices' first views, then their second ones. Drawn before anything else in a step, so that
        the first step of every method sees the same pictures."""
        images = torch.from_numpy(batch.images).to(self._device)
        return torch.cat(two_views(images, self._generator, VIEWS[self._settings.views]))
