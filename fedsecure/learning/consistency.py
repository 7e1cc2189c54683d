"""Weak-to-strong consistency: what a site's unlabelled slices add to fine-tuning.

    q = f'(weak(x)),  y = argmax q where max q >= threshold;   L_u = l(f(strong(weak(x), y)));   L = L_x + w(t) L_u

Sources: Sohn et al., "FixMatch", arXiv 2001.07685: pseudo-labels of the weak view where the network is sure, without
gradient, for the strong view, and the mean over all, so that what is left out counts 0. Yang et al., "UniMatch", arXiv
2208.09910, for segmentation: boxes of other slices in the strong view (CutMix, arXiv 1905.04899), and a second strong
view whose features are dropped, channel by channel. Tarvainen and Valpola, "Mean Teacher", arXiv 1703.01780: an EMA
network gives the pseudo-labels (`teacher`). Laine and Aila, arXiv 1610.02242: w(t) = weight exp(-5 (1 - t)^2) over the
`ramp`. The combination is ours, and so are these choices:

- The strong view moves: the weak view and its pseudo-label go through the same `augment` as labelled slices do.
- l is the labelled loss, cross-entropy + soft Dice, over pixels that have a pseudo-label and structures among those.
- Unlabelled are all training patients, the labelled ones too, as in FixMatch: their labels are not looked at.
- A site without a labelled patient takes part in federated fine-tuning with L_u alone. AdamW's steps do not see how
  large a loss is, so there w(t), up to 1, scales the learning rate; a step in which no pixel is sure changes nothing.
- The teacher begins each round as the released model: nothing is kept on a site between rounds.

All draws are of generators of their own: labelled batches and their augmentation are the same as without it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.config import ConsistencySettings, Study
from fedsecure.learning.model import Segmenter, follow
from fedsecure.learning.slices import SliceIndex
from fedsecure.learning.transforms import augment, located_views
from fedsecure.types import Subject

IGNORED: Final = 255  # pseudo-label of a pixel that has none; there are fewer structures
SMOOTH: Final = 1e-5  # of the soft Dice, as in MONAI's, which the labelled loss is
SMALLEST, LARGEST = 0.02, 0.4  # share of a slice that a box covers, and
ELONGATED = 1 / 0.3  # its largest ratio of sides: UniMatch's


class Consistency:
    """The unlabelled loss of one site in one round."""

    def __init__(self, study: Study, segmenter: Segmenter, subjects: Sequence[Subject], steps: int, seed: int) -> None:
        """subjects: whose slices are drawn, at least one; steps: of the round. Raises SettingsError without a slice."""
        self._settings, self._steps = study.finetune.consistency, study.finetune.steps
        self._segmenter = segmenter
        self._teacher = copy.deepcopy(segmenter).requires_grad_(False) if self._settings.teacher else segmenter
        self._device = next(segmenter.parameters()).device
        self._generator = torch.Generator().manual_seed(seed)
        index = SliceIndex(subjects, study.pretrain.partitions)
        self._batches = index.batches(self._settings.batch, steps, stratified=False, seed=seed)

    def weight(self, step: int) -> float:
        """w(t) at a step of the whole cycle, of all rounds."""
        return ramped(self._settings, step, self._steps)

    def loss(self) -> Tensor:
        """L_u of the next batch, for `backward`. Without a gradient, and 0, where no pixel is sure."""
        settings, generator = self._settings, self._generator
        images = torch.from_numpy(next(self._batches).images).to(self._device)
        weak, _ = located_views(images, generator)
        pseudo = self.pseudo_labels(weak)
        strong, moved = mixed(*augment(weak, pseudo, generator), settings.mixed, generator)
        views = [(strong, moved, 0.0)]
        if settings.dropped:
            views.append((weak, pseudo, settings.dropped))
        losses = [
            unlabelled_loss(self._logits(view, share), label)
            for view, label, share in views
            if (label != IGNORED).any()
        ]
        return torch.stack(losses).sum() / len(views) if losses else torch.zeros((), device=self._device)

    def _logits(self, view: Tensor, share: float) -> Tensor:
        maps = dropped(self._segmenter.encoder(view), share, self._generator)
        logits: Tensor = self._segmenter.decoder(maps)
        return logits

    def finish(self) -> None:
        """After the optimiser's step: the teacher follows."""
        if self._teacher is not self._segmenter:
            follow(self._teacher, self._segmenter, self._settings.teacher)

    @torch.no_grad()
    def pseudo_labels(self, weak: Tensor) -> Tensor:
        """[N, H, W] uint8 of weak views [N, 1, H, W]: a structure, 0, or IGNORED where the teacher is not sure."""
        logits: Tensor = self._teacher(weak)
        confidence, label = logits.float().softmax(1).max(1)
        return label.to(torch.uint8).masked_fill(confidence < self._settings.threshold, IGNORED)


def ramped(settings: ConsistencySettings, step: int, steps: int) -> float:
    """weight exp(-5 (1 - t)^2), t from 0 to 1 over the ramp's share of all steps."""
    over = settings.ramp * steps
    t = min(step / over, 1.0) if over else 1.0
    return settings.weight * math.exp(-5 * (1 - t) ** 2)


def unlabelled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy + soft Dice of logits [N, 1 + structures, H, W] against pseudo-labels [N, H, W].

    Cross-entropy is the mean over all pixels, those without a pseudo-label counting 0. Dice, over the batch, is of the
    pixels that have one, the mean over structures among their labels; 0 where there is none.
    """
    kept = labels != IGNORED
    # One-hot rather than indices: cross-entropy over indices has no deterministic kernel on CUDA.
    plain = F.one_hot(labels.masked_fill(~kept, 0).long(), logits.shape[1]).movedim(-1, 1).float()
    target = plain * kept[:, None]
    log_p = logits.float().log_softmax(1)
    cross_entropy = -(target * log_p).sum() / kept.numel()
    p = (log_p.exp() * kept[:, None])[:, 1:]
    inside, predicted, true = (p * target[:, 1:]).sum((0, 2, 3)), p.sum((0, 2, 3)), target[:, 1:].sum((0, 2, 3))
    dice_loss = 1 - (2 * inside + SMOOTH) / (predicted + true + SMOOTH)
    shown = true > 0
    return cross_entropy + (dice_loss * shown).sum() / shown.sum().clamp_min(1)


def mixed(images: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix: in `share` of the images [N, 1, H, W], with their labels [N, H, W], a box shows the next one's."""
    n, height, width = labels.shape
    draws = torch.rand((5, n), generator=generator)
    area = SMALLEST + (LARGEST - SMALLEST) * draws[1]
    ratio = torch.exp(math.log(ELONGATED) * (2 * draws[2] - 1))
    tall, wide = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    rows = _within((1 - tall) * draws[3], tall, height)
    columns = _within((1 - wide) * draws[4], wide, width)
    box = (rows[:, :, None] & columns[:, None, :] & (draws[0] < share)[:, None, None]).to(labels.device)
    return (
        torch.where(box[:, None], images.roll(1, 0), images),
        torch.where(box, labels.roll(1, 0), labels),
    )


def _within(start: Tensor, length: Tensor, pixels: int) -> Tensor:
    """[N, pixels] bool: whose centres lie in [start, start + length), in shares of the side."""
    centres = (torch.arange(pixels) + 0.5) / pixels
    return (centres >= start[:, None]) & (centres < (start + length)[:, None])


def dropped(maps: list[Tensor], share: float, generator: torch.Generator) -> list[Tensor]:
    """The encoder's maps with `share` of the channels of each picture 0 and the rest scaled up, as in dropout."""
    if not share:
        return maps
    kept = [torch.rand((*m.shape[:2], 1, 1), generator=generator) >= share for m in maps]
    return [m * keep.to(m) / (1 - share) for m, keep in zip(maps, kept, strict=True)]
