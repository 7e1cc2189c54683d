"""Framework 2, FCLOpt: local training without negatives, and so without features to exchange.

Reconstructed in the form of BYOL (docs/method.md 4.1): the abstract of arXiv 2208.03808 names a target network and no
negatives; its loss could not be read.

    L(x, x') = 2 - 2 cos( p(g(f(x; theta))), sg[ g(f(x'; xi)) - c ] ), symmetrised over the two views
    after each step: xi <- m xi + (1 - m) theta

Two parts are ours, in place of the BatchNorm in BYOL's heads, without which it agreed on one constant vector within 20
steps (measured). c is the batch's mean target projection: a centred target has no constant part to agree on. That
leaves the constant part of the projections free to grow, so the projector's bias follows it down (`recentre`). And an
untrained encoder's features are nearly one vector for all slices, so the projector's input is standardised by constants
from pictures of noise, drawn with the first model: no patient has a part in them (`standardise`).

With `dense` a contrast of pixels trains a decoder beside the encoder (dense.py). No target follows it, as none follows
the predictor.

Where the target network starts a round is the setting `target`: from the average of the sites' own ("naive"), from its
prediction (target.py), or, as an ablation, where the site's own ended the round before ("local").
"""

from __future__ import annotations

import copy
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedsecure.config import ModelSettings, Study
from fedsecure.learning.dense import LocalContrast
from fedsecure.learning.distance import own_error
from fedsecure.learning.job import Job
from fedsecure.learning.method import weights
from fedsecure.learning.model import Branch, Head, Standardise, follow_branch, load_tensors, pooled, tensors_of
from fedsecure.learning.slices import Batch
from fedsecure.learning.target import TARGET, copied, mix_of, parted
from fedsecure.learning.transforms import VIEWS, located_views
from fedsecure.plan import makes_target, trains_pixels
from fedsecure.seeds import derive_seed
from fedsecure.types import Flow, State, Tensors, Update


class Online(Branch):
    """Encoder, projector and predictor; forward gives projections [N, d]."""

    def __init__(self, settings: ModelSettings, dense: bool = False) -> None:
        super().__init__(settings, standardised=True, dense=dense)
        self.predictor = Head(settings.features, settings.hidden, settings.features)

    def standardise(self, size: int) -> None:
        """Fit the projector's input to the encoder as it is, on pictures of noise of `size` pixels a side.

        In float64 and rounded once: sites compare first models bit for bit, and each kind of CPU adds up in an order of
        its own, which moves the last bits.
        """
        levels = copy.deepcopy(self.encoder.levels).double()
        features = []
        with torch.no_grad():
            for few in torch.split(noise_pictures(128, size), 8):  # in float64 the maps are large
                maps = few
                for level in levels:
                    maps = level(maps)
                features.append(pooled([maps]))
        cast(Standardise, self.projector.standardise).fit(torch.cat(features))

    def recentre(self, mean: Tensor, rate: float) -> None:
        """b <- b - rate mean: the projector's last bias b [d] against the mean projection [d] of a batch.

        No gradient: as a term of the loss the same end kept the encoder from learning under most seeds.
        """
        with torch.no_grad():
            cast(nn.Linear, self.projector.layers[-1]).bias.sub_(rate * mean)


class Both(Online):
    """The online network with the target branch beside it, so that both are averaged: the naive form."""

    def __init__(self, settings: ModelSettings, dense: bool = False) -> None:
        super().__init__(settings, dense)
        self.target = Branch(settings, standardised=True).requires_grad_(False)


class FcloptTraining:
    """One site's local training in one round. It keeps nothing between rounds but a target network of its own."""

    @staticmethod
    def build(study: Study) -> Online:
        """Names: also "predictor.*"; with a local contrast "decoder.*" and "pixels.*"; in the naive form "target.*"
        too, a copy of the online encoder and projector.

        Constants that the projectors have are drawn alike for all forms of the target, which so can be compared.
        """
        dense = trains_pixels(study)
        network = Both(study.model, dense)
        network.standardise(study.data.size)
        online, _ = parted(tensors_of(network))
        if study.pretrain.target == "naive":
            load_tensors(network, {**online, **copied(online)})
            return network
        alone = Online(study.model, dense)
        load_tensors(alone, online)
        return alone

    def __init__(self, job: Job, device: str, seed: int) -> None:
        """Raises RuntimeError for a job without the target network that the study has all sites begin with."""
        self._job = job
        self._settings = job.study.pretrain
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        averaged = self._settings.target == "naive"
        dense = trains_pixels(job.study)
        self.network = (Both if averaged else Online)(job.study.model, dense).to(device)
        self._released, self._held = (job.model, {}) if averaged else parted(job.model)
        load_tensors(self.network, self._released)
        self._target = self._first_target()
        self._dense: LocalContrast | None = None
        if dense:
            self._dense = LocalContrast(self.network, self._settings.dense, device, derive_seed(seed, "dense"))

    def loss(self, batch: Batch) -> Tensor:
        """Mean symmetrised loss of the batch, and the local contrast's L, for `backward`."""
        images = torch.from_numpy(batch.images).to(self._device)
        strength = VIEWS[self._settings.views]
        views, places = located_views(images.repeat(2, 1, 1, 1), self._generator, strength)  # [2N, 1, H, W]
        with torch.no_grad():  # before the online pass: its freed activations are memory the other one takes up warm
            target = centred(self._target(views))
        maps = self.network.encoder(views)
        z = self.network.projector(pooled(maps))
        self._mean = z.detach().mean(0)
        loss = byol_loss(self.network.predictor(z), target, self._pairs(batch).to(self._device))
        return loss if self._dense is None else loss + self._dense.terms(maps, places).mean()

    def finish(self) -> None:
        """After the optimiser's step: the projections are centred anew, and the target network follows."""
        self.network.recentre(self._mean, self._settings.recentre)
        follow_branch(self._target, self.network, self._settings.momentum)

    def state(self) -> State:
        """The target network, if each site keeps its own."""
        return self._target_tensors() if self._settings.target == "local" else {}

    def updates(self) -> tuple[Update, ...]:
        """WEIGHTS; where the target is predicted for the next round TARGET, which leaves only if it is asked for, and
        with `distance = "r2"` DISTANCE. A naive target is part of the weights."""
        own = weights(self.network, self._released)
        if not makes_target(self._job.study, self._job.stage_index, self._job.round):
            return (own,)
        ended = self._target_tensors()
        target = Update(Flow.TARGET, {name: ended[name] - start for name, start in self._held.items()})
        if self._settings.distance != "r2":
            return own, target
        error = own_error(mix_of(self._settings), self._held, self._released, tensors_of(self.network), ended)
        # Rounded up: it bounds a distance from above.
        rounded = np.nextafter(np.array([error], np.float32), np.float32(np.inf))
        return own, target, Update(Flow.DISTANCE, {"distance": rounded})

    def _target_tensors(self) -> Tensors:
        return {TARGET + name: value for name, value in tensors_of(self._target).items()}

    def _first_target(self) -> Branch:
        if isinstance(self.network, Both):
            return self.network.target
        start: State = self._held
        if self._settings.target == "local":
            start = self._job.state or copied(self._released)
        target = Branch(self._job.study.model, standardised=True).to(self._device).requires_grad_(False)
        load_tensors(target, {name.removeprefix(TARGET): value for name, value in start.items()})
        return target

    def _pairs(self, batch: Batch) -> Tensor:
        if self._settings.positives == "view":
            return torch.eye(len(batch.partitions), dtype=torch.bool)
        return partition_pairs(torch.from_numpy(batch.partitions), torch.from_numpy(batch.subjects))


def partition_pairs(partitions: Tensor, subjects: Tensor) -> Tensor:
    """[N, N] bool: a slice's positives are those of its partition from other patients; itself where there is none."""
    others = (partitions[:, None] == partitions[None, :]) & (subjects[:, None] != subjects[None, :])
    alone = ~others.any(1)
    return others | torch.diag(alone)


def noise_pictures(count: int, size: int) -> Tensor:
    """Smooth noise with a little grain, each picture of mean 0 and standard deviation 1: [count, 1, size, size],
    float64.

    From torch's global generator.
    """
    smooth = F.interpolate(torch.randn(count, 1, 8, 8, dtype=torch.float64), (size, size), mode="bicubic")
    noise = smooth + 0.3 * torch.randn(count, 1, size, size, dtype=torch.float64)
    return (noise - noise.mean((2, 3), keepdim=True)) / noise.std((2, 3), keepdim=True)


def centred(z: Tensor) -> Tensor:
    """Target projections [N, d] less their mean over the batch."""
    return z - z.mean(0)


def byol_loss(p: Tensor, z: Tensor, pairs: Tensor) -> Tensor:
    """Symmetrised 2 - 2 cos, mean over each slice's positives, then over slices. Between 0 and 8.

    p: predictions [2N, d], z: target projections [2N, d], first all slices' first views, then their second ones;
    pairs [N, N] bool. A view is compared with the other view of its positives, never with the same view of itself.
    """
    cosine = F.normalize(p.float(), dim=1) @ F.normalize(z.float(), dim=1).T  # [2N, 2N]
    n = len(pairs)
    distance = (2 - 2 * cosine[:n, n:]) + (2 - 2 * cosine[n:, :n])  # [N, N]: first with second, second with first
    return ((distance * pairs).sum(1) / pairs.sum(1)).mean()
