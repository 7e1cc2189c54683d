"""Framework 1, FCL: local training of one site in one round (arXiv 2204.10983; docs/method.md 2).

Decided where the paper leaves it open:
- Both views are queries, and the momentum features of both views are the batch's keys: P(q) holds the keys of q's
  partition, of every patient in the batch. Both are enqueued after the step, so Q' never holds the current batch.
- The momentum encoder starts a round as `momentum_start` says; in round 1 it is the global model.
- Round 1 has no remote features: Q is the local bank. The very first step has no bank at all, and no L_remote. A site
  alone, and one that nothing came to in a round, stays in that state.
- The negatives of L_local are the batch's keys, not Q' (`local_negatives`; contrastive.fcl_terms says why).
- With `exchange = "none"`, Q is the local bank in every round; nothing else differs.
- Prototypes (prototypes.py) are members of Q like vectors: drawn into Q', and into Lambda(q), by their partition.
- With `dense` a contrast of pixels trains the decoder beside the encoder (dense.py), a further term of the same loss.
- With `loss = "separable"`, Q is what came from outside alone, not the site's own bank: its newest features are of
  patients whom the query is not of, and were not released. Without remote features L_local is all there is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from fedsecure.config import Study
from fedsecure.learning import bank
from fedsecure.learning.bank import Features
from fedsecure.learning.contrastive import fcl_terms
from fedsecure.learning.dense import LocalContrast
from fedsecure.learning.job import Job
from fedsecure.learning.method import weights
from fedsecure.learning.model import Branch, load_tensors, pooled
from fedsecure.learning.momentum import MomentumKeys
from fedsecure.learning.slices import Batch
from fedsecure.learning.transforms import VIEWS, located_views
from fedsecure.plan import trains_pixels
from fedsecure.seeds import derive_seed
from fedsecure.types import Bank, Flow, State, Update


class FclTraining:
    """One site's local training in one round. Only `network` (by its tensors) and `bank()` are ever shared."""

    @staticmethod
    def build(study: Study) -> Branch:
        """Names: where the study has a local contrast also "decoder.*" and "pixels.*"."""
        return Branch(study.model, dense=trains_pixels(study))

    def __init__(self, job: Job, device: str, seed: int) -> None:
        """Raises ValueError if a bank does not fit the study."""
        study = job.study
        self._settings = study.pretrain
        self._released = job.model
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        self.network = self.build(study).to(device)
        load_tensors(self.network, job.model)
        self._momentum = MomentumKeys(job, device)
        heard = job.banks if self._settings.exchange != "none" else {}
        self._remote = bank.remote(heard, study.model.features, study.pretrain.partitions, device)
        self._dense: LocalContrast | None = None
        if trains_pixels(study):
            self._dense = LocalContrast(self.network, study.pretrain.dense, device, derive_seed(seed, "dense"))

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean L_q of the batch, and the local contrast's L, for `backward`; `finish` takes the keys into the bank.

        The separable form divides by the study's batch, not by what the batch holds: a constant.
        """
        images = torch.from_numpy(batch.images).to(self._device)
        partitions = torch.from_numpy(batch.partitions.astype(np.int64)).to(self._device).repeat(2)
        strength = VIEWS[self._settings.views]
        views, places = located_views(images.repeat(2, 1, 1, 1), self._generator, strength)  # [2N, 1, H, W]
        # Before the main pass: its freed activations are memory the other one takes up warm.
        self._keys = Features(self._momentum.of(views), partitions)
        maps = self.network.encoder(views)
        q = F.normalize(self.network.projector(pooled(maps)), dim=1)
        settings, separable = self._settings, self._settings.loss == "separable"
        subjects = torch.from_numpy(batch.subjects).to(self._device).repeat(2)
        local = bank.empty(q.shape[1], self._device) if separable else self._momentum.queue
        pool = bank.join(local, self._remote)
        rows = self._rows(pool)
        terms = fcl_terms(
            q,
            partitions,
            self._keys,
            bank.take(pool, rows),
            temperature=settings.temperature,
            denominator=settings.denominator,
            local_negatives=settings.local_negatives,
            matchable=rows >= len(local) if settings.remote_only else None,
            own=subjects[:, None] == subjects[None, :] if separable else None,
        )
        loss = terms.sum() / (2 * settings.batch) if separable else terms.mean()
        if self._dense is None:
            return loss
        pixels = self._dense.terms(maps, places)
        return loss + (pixels.sum() / settings.batch if separable else pixels.mean())

    def _rows(self, pool: Features) -> torch.Tensor:
        """Q', as rows of Q."""
        settings = self._settings
        if settings.draw == "stratified":
            return bank.stratified(pool, settings.negatives, settings.partitions, self._generator)
        return bank.uniform(pool, settings.negatives, self._generator)

    def finish(self) -> None:
        self._momentum.advance(self.network, self._keys)

    def bank(self) -> Bank:
        """Momentum features with their partitions, the only thing shared beside weights."""
        return self._momentum.bank()

    def state(self) -> State:
        return self._momentum.state()

    def updates(self) -> tuple[Update, ...]:
        """WEIGHTS and, where vectors are exchanged, FEATURES: the bank."""
        own = weights(self.network, self._released)
        if self._settings.exchange != "vectors":
            return (own,)
        shared = self.bank()
        return own, Update(Flow.FEATURES, {"features": shared.features, "partitions": shared.partitions})
