"""FedCA (reconstructed): SimCLR with a dictionary of all sites' projections, aligned to a common model.

Source: Zhang et al., "Federated unsupervised representation learning", arXiv 2010.08982, of which the abstract was
read: a dictionary module shares the representations of each client's samples with all clients, an alignment module
aligns each client's representation to a base model trained on public data, and local training is contrastive.

Reconstructed here:
- Dictionary: the site's newest `bank` projections leave with its update, sealed from site to site like FCL's features,
  and without their partition, which this method does not need (0 in its place). `negatives` of the others' are drawn
  in each step and are further negatives of NT-Xent.
- Alignment: alignment x mean ||z - z0||^2 over the batch's views, z and z0 the normalised projections by the local
  model and by the model the round was released with; not in the first round, whose model knows nothing. There is no
  public data here, so neither a base model trained on it nor its pictures: the released model is what sites share.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.config import Study
from fedsecure.learning import bank
from fedsecure.learning.bank import Features
from fedsecure.learning.baselines.averaged import Averaged
from fedsecure.learning.baselines.simclr import nt_xent
from fedsecure.learning.job import Job
from fedsecure.learning.model import Branch, load_tensors
from fedsecure.learning.slices import Batch
from fedsecure.types import Flow, Update


class FedcaTraining(Averaged[Branch]):
    @staticmethod
    def build(study: Study) -> Branch:
        return Branch(study.model)

    def __init__(self, job: Job, device: str, seed: int) -> None:
        """Raises ValueError if a dictionary does not fit the study."""
        super().__init__(job, device, seed)
        self._alignment = job.study.fedca.alignment if job.round > 0 else 0.0
        self._common = Branch(job.study.model).to(device).requires_grad_(False)
        load_tensors(self._common, job.model)
        width = job.study.model.features
        heard = job.banks if self._settings.exchange == "vectors" else {}
        self._dictionary = bank.remote(heard, width, self._settings.partitions, device)
        self._own = bank.empty(width, device)

    def loss(self, batch: Batch) -> Tensor:
        views = self._views(batch)
        with torch.no_grad():
            common = F.normalize(self._common(views), dim=1)
        z = F.normalize(self.network(views), dim=1)
        self._newest = Features(z.detach(), torch.zeros(len(z), dtype=torch.int64, device=z.device))
        rows = bank.uniform(self._dictionary, self._settings.negatives, self._generator)
        contrast = nt_xent(z, self._dictionary.vectors[rows], self._settings.temperature)
        return contrast + self._alignment * misalignment(z, common)

    def finish(self) -> None:
        """The batch's projections enter the site's part of the dictionary."""
        self._own = bank.enqueue(self._own, self._newest, self._settings.bank)

    def updates(self) -> tuple[Update, ...]:
        if self._settings.exchange == "none":
            return super().updates()
        shared = bank.to_bank(self._own)
        return *super().updates(), Update(Flow.FEATURES, {"features": shared.features, "partitions": shared.partitions})


def misalignment(z: Tensor, common: Tensor) -> Tensor:
    """Mean ||z - z0||^2 of normalised projections [N, d]: 2 - 2 cos. Between 0 and 4."""
    return (z.float() - common.float()).square().sum(1).mean()
