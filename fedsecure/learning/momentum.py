"""The momentum encoder and the queue of its newest features, which FCL and FedMoCo keep between rounds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.learning import bank
from fedsecure.learning.bank import Features
from fedsecure.learning.job import Job
from fedsecure.learning.model import Branch, follow_branch, load_tensors, tensors_of
from fedsecure.learning.parts import branch_of
from fedsecure.types import Bank, State

MOMENTUM = "momentum."
BANK_FEATURES = "bank.features"
BANK_PARTITIONS = "bank.partitions"


class MomentumKeys:
    """xi, which starts a round as `momentum_start` says (in the first, as the global model), and the queue."""

    def __init__(self, job: Job, device: str) -> None:
        """Raises ValueError if the kept queue does not fit the study."""
        study, state = job.study, job.state
        self._settings = study.pretrain
        self._encoder = Branch(study.model).to(device).requires_grad_(False)
        kept = {name.removeprefix(MOMENTUM): value for name, value in state.items() if name.startswith(MOMENTUM)}
        keep = kept and self._settings.momentum_start == "keep"
        load_tensors(self._encoder, kept if keep else branch_of(job.model))
        self.queue = bank.empty(study.model.features, device)
        if BANK_FEATURES in state:
            own = Bank(state[BANK_FEATURES].astype(np.float32), state[BANK_PARTITIONS].astype(np.uint8))
            self.queue = bank.from_bank(own, study.model.features, self._settings.partitions, device)

    @torch.no_grad()
    def of(self, views: Tensor) -> Tensor:
        """Keys [N, d] of views [N, 1, H, W]: normalised, without gradient."""
        return F.normalize(self._encoder(views), dim=1)

    def advance(self, network: Branch, keys: Features) -> None:
        """After the optimiser's step: the momentum encoder follows, the batch's keys enter the queue."""
        follow_branch(self._encoder, network, self._settings.momentum)
        self.queue = bank.enqueue(self.queue, keys, self._settings.bank)

    def bank(self) -> Bank:
        return bank.to_bank(self.queue)

    def state(self) -> State:
        """Momentum encoder and queue, for the site's own next round."""
        own = self.bank()
        momentum = {MOMENTUM + name: value for name, value in tensors_of(self._encoder).items()}
        return {**momentum, BANK_FEATURES: own.features, BANK_PARTITIONS: own.partitions}
