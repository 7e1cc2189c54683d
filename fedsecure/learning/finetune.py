"""Supervised fine-tuning of the whole segmenter with N labelled patients a site, alone or federated.

AdamW with a one-cycle learning rate, a share of it for what was pre-trained (`pretrained_rate`), cross-entropy + soft
Dice, fp32. A training round starts from the released model with fresh optimiser moments: its update is then a function
of that model, the labelled patients and the study's seed, and of nothing kept on the site. Only the place in the
learning-rate cycle depends on the round. With `consistency` the unlabelled slices of the site's training patients take
part too (consistency.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn import functional as F

from fedsecure.config import FinetuneSettings, Study
from fedsecure.errors import SettingsError
from fedsecure.learning.consistency import Consistency
from fedsecure.learning.evaluate import score
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.labelled import Slices, choose
from fedsecure.learning.model import Segmenter, load_tensors, tensors_of
from fedsecure.learning.parts import DECODER, ENCODER
from fedsecure.learning.transforms import augment
from fedsecure.plan import Init, StageKind, keeps_decoder, pretrains_alone
from fedsecure.progress import Observe, Step
from fedsecure.seeds import derive_seed
from fedsecure.types import Cohort, Flow, Subject, Tensors, Update

WARM_UP = 0.1  # share of the steps
FIRST, LAST = 1 / 25, 1e-4 / 25  # learning rate at both ends, as a share of the highest


def initial(study: Study, init: Init, encoder: Tensors | None) -> Tensors:
    """The segmenter that a fine-tuning stage starts from: names "encoder.*" and "decoder.*".

    Both inits have the same decoder, so that their runs pair; a decoder that was pre-trained takes its place, but for
    the last layer. `encoder` (`parts.start_of`) is used by PRETRAINED alone. Raises RuntimeError where it is missing or
    does not fit the study's model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(study.seed, "segmenter"))
        segmenter = Segmenter(study.model, len(study.data.structures))
    if init is Init.PRETRAINED:
        if encoder is None:
            raise RuntimeError("a pre-trained start needs the encoder that the pre-training stage ended with")
        load_tensors(segmenter.encoder, {n: value for n, value in encoder.items() if not n.startswith(DECODER)})
        decoder = {n.removeprefix(DECODER): value for n, value in encoder.items() if n.startswith(DECODER)}
        if decoder:
            load_tensors(segmenter.decoder.levels, decoder)
    return tensors_of(segmenter)


def train_round(job: Job, cohort: Cohort, device: str, observe: Observe) -> JobResult:
    """The site's share of `finetune.steps` in this round of FedAvg: WEIGHTS update, local minus global.

    A site without a labelled patient sends zeros: FedAvg's weights are constants of the study, so it takes part. With
    consistency it sends what its unlabelled slices teach.
    """
    settings = job.study.finetune
    steps = range(*(settings.steps * position // settings.rounds for position in (job.round, job.round + 1)))
    segmenter = _load(job, device)
    tune(segmenter, job, labelled_of(job, cohort), cohort.train, steps, _Counter(job, len(steps), observe))
    local = tensors_of(segmenter)
    return JobResult((Update(Flow.WEIGHTS, {name: local[name] - job.model[name] for name in job.model}),), {})


def evaluate(job: Job, cohort: Cohort, device: str, observe: Observe) -> JobResult:
    """The stage's Dice on the held-out patients: of the received model, or, in a local stage, of that model fine-tuned
    here with all `finetune.steps`. Without a labelled patient the received model itself is scored: its pseudo-labels
    would be those of a decoder that nobody has trained."""
    segmenter = _load(job, device)
    steps = range(job.study.finetune.steps if job.stage.kind is StageKind.LOCAL else 0)
    labelled = labelled_of(job, cohort) if steps else ()
    count = _Counter(job, (len(steps) if labelled else 0) + len(cohort.held_out), observe)
    tune(segmenter, job, labelled, cohort.train if labelled else (), steps, count)
    updates, pictures = score(segmenter, job, cohort.held_out, observe, count)
    return JobResult(updates, {}, pictures)


def labelled_of(job: Job, cohort: Cohort) -> tuple[Subject, ...]:
    """The N labelled patients of this job's stage: the same for both inits, local and federated."""
    return choose(cohort.train, job.stage.labelled, derive_seed(job.study.seed, "labelled", job.site))


def learning_rate(settings: FinetuneSettings, step: int) -> float:
    """One cycle over all steps: cosine up from 1/25 of the highest rate, then cosine down to nothing.

    The values of torch's OneCycleLR, as a function of the step alone: a round finds its place in the cycle without
    kept state.
    """
    last, top = settings.steps - 1, WARM_UP * settings.steps - 1
    rising = step <= top
    done = step / top if rising and top > 0 else (step - top) / max(last - top, 1)
    start, end = (FIRST, 1.0) if rising else (1.0, LAST)
    return settings.learning_rate * (end + (start - end) * (1 + math.cos(math.pi * done)) / 2)


def tune(
    segmenter: Segmenter,
    job: Job,
    labelled: Sequence[Subject],
    unlabelled: Sequence[Subject],
    steps: range,
    count: Callable[[float], None],
) -> None:
    """Trains in place for these steps of the cycle, on the slices of the labelled patients and, with consistency, of
    the unlabelled ones; without steps, or any patient to use, nothing.

    Draws depend on site, N, mode and round, and not on the init: two runs that pair see the same batches.
    """
    settings = job.study.finetune
    consistency = _consistency(segmenter, job, unlabelled, len(steps))
    if not steps or not (labelled or consistency):
        return
    generator = torch.Generator().manual_seed(derive_seed(job.study.seed, *_labels(job)))
    supervision = Supervision(segmenter, labelled, settings.batch, generator) if labelled else None
    optimiser = torch.optim.AdamW(_groups(segmenter, job), weight_decay=settings.weight_decay, fused=True)
    segmenter.train()
    for step in steps:
        rate = learning_rate(settings, step)
        losses = [supervision.loss()] if supervision else []
        if consistency:
            weight = consistency.weight(step)
            losses.append(weight * consistency.loss())
            rate *= 1 if supervision else min(weight, 1)  # AdamW does not see the size of a loss that is alone
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        optimiser.zero_grad()
        loss = sum(losses[1:], losses[0])
        if loss.requires_grad:  # else no slice is labelled, and no pixel sure
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
        if consistency:
            consistency.finish()
        count(float(loss.detach()))


def _groups(segmenter: Segmenter, job: Job) -> list[dict[str, Any]]:
    """The segmenter's parameters, each with its share of the learning rate: less for what was pre-trained."""
    known: tuple[str, ...] = ()
    if job.stage.init is Init.PRETRAINED:
        known = (ENCODER, DECODER) if keeps_decoder(job.study) else (ENCODER,)
    held: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in segmenter.named_parameters():
        held[name.startswith(known)].append(parameter)
    shares = {True: job.study.finetune.pretrained_rate, False: 1.0}
    return [{"params": held[before], "share": shares[before]} for before in (True, False) if held[before]]


def _consistency(segmenter: Segmenter, job: Job, subjects: Sequence[Subject], steps: int) -> Consistency | None:
    if not job.study.finetune.consistency.weight or not any(subject.volumes for subject in subjects):
        return None
    seed = derive_seed(job.study.seed, *_labels(job), "consistency")
    return Consistency(job.study, segmenter, subjects, steps, seed)


def _labels(job: Job) -> tuple[str | int, ...]:
    return ("finetune", job.site, str(job.stage.kind), job.stage.labelled, job.round)


class Supervision:
    """The labelled loss, of batches of the subjects' slices that `generator` draws."""

    def __init__(
        self, segmenter: Segmenter, subjects: Sequence[Subject], batch: int, generator: torch.Generator
    ) -> None:
        """Raises ValueError where no subject has a label."""
        self._segmenter, self._slices = segmenter, Slices.of(subjects)
        self._batch, self._device = batch, next(segmenter.parameters()).device
        self._generator = generator
        # Dice over the batch: most slices lack some structure, whose own Dice says nothing of the others.
        self._loss_of = DiceCELoss(softmax=True, include_background=False, batch=True)

    def loss(self) -> Tensor:
        image, label = self._slices.draw(self._batch, self._generator)
        image, label = augment(image.to(self._device), label.to(self._device), self._generator)
        logits = self._segmenter(image)
        # One-hot rather than indices: cross-entropy over indices has no deterministic kernel on CUDA.
        loss: Tensor = self._loss_of(logits, F.one_hot(label.long(), logits.shape[1]).movedim(-1, 1).float())
        return loss


class _Counter:
    """Tells the observer of each step, and of each patient scored, out of all in this round."""

    def __init__(self, job: Job, total: int, observe: Observe) -> None:
        self._job, self._total, self._observe, self._done = job, total, observe, 0

    def __call__(self, loss: float | None = None) -> None:
        self._done += 1
        stage, round_ = self._job.stage_index, self._job.round
        self._observe(Step(stage=stage, round=round_, done=self._done, total=self._total, loss=loss))


def _load(job: Job, device: str) -> Segmenter:
    """The round's model; where the site pre-trained alone, a pre-trained stage begins with its own encoder in it."""
    begins = job.round == 0 and job.stage.init is Init.PRETRAINED
    if begins and pretrains_alone(job.study) and not job.state:
        raise SettingsError("this site has no encoder of its own to start from: it was not there for pre-training")
    segmenter = Segmenter(job.study.model, len(job.study.data.structures))
    load_tensors(segmenter, {**job.model, **job.state})
    return segmenter.to(device)
