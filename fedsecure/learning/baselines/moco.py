"""FedMoCo: momentum contrast against the site's own queue, averaged by FedAvg; FCL without structure and exchange.

Source: He et al., "Momentum contrast for unsupervised visual representation learning", arXiv 1911.05722:

    L = - log( exp(q.k+/tau) / ( exp(q.k+/tau) + sum_{n} exp(q.n/tau) ) ),  k+ the key of the slice's other view

Departures:
- The negatives are the queue and the batch's other keys; there the queue alone, from which fresh keys are told by
  their age, and without BatchNorm everything collapses (contrastive.fcl_terms).
- Both views are queries, and the keys of both enter the queue; there one of each.
- The queue starts empty, not with random vectors. Queue and momentum encoder stay on the site, and the latter starts
  a round as `momentum_start` says.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.config import Study
from fedsecure.learning.bank import Features
from fedsecure.learning.baselines.averaged import Averaged
from fedsecure.learning.contrastive import info_nce
from fedsecure.learning.job import Job
from fedsecure.learning.model import Branch
from fedsecure.learning.momentum import MomentumKeys
from fedsecure.learning.slices import Batch
from fedsecure.types import State


class MocoTraining(Averaged[Branch]):
    @staticmethod
    def build(study: Study) -> Branch:
        return Branch(study.model)

    def __init__(self, job: Job, device: str, seed: int) -> None:
        super().__init__(job, device, seed)
        self._momentum = MomentumKeys(job, device)

    def loss(self, batch: Batch) -> Tensor:
        views = self._views(batch)
        keys = self._momentum.of(views)
        partitions = torch.from_numpy(batch.partitions.astype(np.int64)).to(self._device).repeat(2)
        self._keys = Features(keys, partitions)  # the queue's form; the loss does not look at partitions
        q = F.normalize(self.network(views), dim=1)
        return moco_loss(q, keys, self._momentum.queue.vectors, self._settings.temperature)

    def finish(self) -> None:
        self._momentum.advance(self.network, self._keys)

    def state(self) -> State:
        return self._momentum.state()


def moco_loss(q: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Mean L of queries q [2N, d] with the keys [2N, d] of the same views, first all first views; queue [K, d].

    The key of the very view that q is of is neither positive nor negative.
    """
    itself = torch.eye(len(q), dtype=torch.bool, device=q.device)
    other = itself.roll(len(q) // 2, 0)
    is_negative = torch.cat([~(itself | other), torch.ones(len(q), len(queue), dtype=torch.bool, device=q.device)], 1)
    return info_nce(
        q,
        keys,
        torch.cat([keys, queue]),
        is_positive=other,
        is_negative=is_negative,
        temperature=temperature,
    ).mean()
