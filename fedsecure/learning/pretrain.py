"""Pre-training as a node sees it: a first model, one job per round, one evaluation at the end.

Whatever the method, the batches, their views, the optimiser and its rates are the same for one study and seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import nn

from fedsecure.config import Framework, PretrainSettings, Study
from fedsecure.learning import entries
from fedsecure.learning.baselines.byol import ByolTraining
from fedsecure.learning.baselines.fedca import FedcaTraining
from fedsecure.learning.baselines.fedema import FedemaTraining
from fedsecure.learning.baselines.local import LocalTraining
from fedsecure.learning.baselines.mae import MaeTraining
from fedsecure.learning.baselines.moco import MocoTraining
from fedsecure.learning.baselines.rotation import RotationTraining
from fedsecure.learning.baselines.simclr import SimclrTraining
from fedsecure.learning.baselines.swav import SwavTraining
from fedsecure.learning.fcl import FclTraining
from fedsecure.learning.fclopt import FcloptTraining
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.method import Method
from fedsecure.learning.model import Branch, load_tensors, pooled, tensors_of
from fedsecure.learning.parts import ENCODER, PROJECTOR, encoder_of
from fedsecure.learning.portable import PortableDraws
from fedsecure.learning.probe import ProbeResult, partition_probe
from fedsecure.learning.slices import SliceIndex
from fedsecure.plan import made, pretrains_alone
from fedsecure.progress import Measured, Observe, Step
from fedsecure.seeds import derive_seed
from fedsecure.types import Cohort, Flow, State, Tensors, Update

METHODS: Final[Mapping[Framework, type[Method]]] = {
    "fcl": FclTraining,
    "fclopt": FcloptTraining,
    "local": LocalTraining,
    "rotation": RotationTraining,
    "simclr": SimclrTraining,
    "swav": SwavTraining,
    "fedca": FedcaTraining,
    "byol": ByolTraining,
    "fedema": FedemaTraining,
    "moco": MocoTraining,
    "mae": MaeTraining,
}


def initial(study: Study) -> Tensors:
    """The model all sites start from, drawn from the study's seed: the same encoder for every method, and the same
    bytes on every CPU (portable.py)."""
    with torch.random.fork_rng(devices=[]), PortableDraws():
        torch.manual_seed(derive_seed(study.seed, "pretrain", "initial"))
        return tensors_of(METHODS[study.framework].build(study))


def learning_rate(settings: PretrainSettings, round_: int, step: int) -> float:
    """Cosine over all steps of all rounds, so that a replayed round finds its place by its number."""
    done = (round_ * settings.local_steps + step) / (settings.rounds * settings.local_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train_round(job: Job, cohort: Cohort, device: str, observe: Observe) -> JobResult:
    """Local training of one round. Updates: WEIGHTS (local minus global), what else the method's `updates` says and,
    where the round owes them, patients' entries for prototypes.

    A pure function of its arguments.
    """
    total = job.study.pretrain.local_steps

    def tell(done: int, loss: float) -> None:
        observe(Step(stage=job.stage_index, round=job.round, done=done, total=total, loss=loss))

    method = _trained(job, cohort, device, tell)
    summed = {Flow.PROTOTYPES, Flow.PROTOTYPE_SUM} & made(job.study, job.stage_index, job.round)
    shared = tuple(entries.update(job, cohort, device, flow) for flow in summed)
    return JobResult((*method.updates(), *shared), method.state())


def train_alone(job: Job, cohort: Cohort, device: str, observe: Observe) -> Tensors:
    """The model of a site that pre-trains alone: every round's steps, batches and rates, with no average between."""
    settings = job.study.pretrain
    total = settings.rounds * settings.local_steps
    model, state = job.model, job.state
    for round_ in range(settings.rounds):

        def tell(done: int, loss: float, before: int = round_ * settings.local_steps) -> None:
            observe(Step(stage=job.stage_index, round=job.round, done=before + done, total=total, loss=loss))

        method = _trained(replace(job, round=round_, model=model, state=state), cohort, device, tell)
        model, state = tensors_of(method.network), method.state()
    return model


def probe_model(study: Study, model: Tensors, cohort: Cohort, device: str) -> ProbeResult:
    """The partition probe of a pre-training model, of any method, on a cohort's held-out patients.

    Where a method has no projector, the norm of the mean is that of the features themselves.
    """
    projector = {name.removeprefix(PROJECTOR): value for name, value in model.items() if name.startswith(PROJECTOR)}
    branch = Branch(study.model, standardised="standardise.shift" in projector).to(device).eval()
    load_tensors(branch.encoder, encoder_of(model))
    project: nn.Module = nn.Identity()
    if projector:
        load_tensors(branch.projector, projector)
        project = branch.projector
    return partition_probe(
        lambda images: pooled(branch.encoder(images)),
        project,
        cohort.train,
        cohort.held_out,
        neighbours=study.neighbours,
        partitions=study.pretrain.partitions,
        device=device,
    )


def evaluate(job: Job, cohort: Cohort, device: str, observe: Observe) -> JobResult:
    """The probe on this site's held-out patients. A METRICS update leaves only where the study releases metrics.

    A site that pre-trains alone does all of it here first, and keeps the encoder as its state.
    """
    study = job.study
    alone = pretrains_alone(study)
    model = train_alone(job, cohort, device, observe) if alone else job.model
    own: State = {name: value for name, value in model.items() if alone and name.startswith(ENCODER)}
    result = probe_model(study, model, cohort, device)
    measured = {
        "knn_partition_accuracy": result.accuracy,
        "embedding_mean_norm": result.mean_norm,
        "chance": result.chance,
        "slices": result.slices,
    }
    for metric, value in measured.items():
        observe(Measured(stage=job.stage_index, round=job.round, metric=metric, value=value))
    if not study.release_metrics:
        return JobResult((), own)
    released = {"knn_partition_accuracy": np.array([result.accuracy], np.float32)}
    return JobResult((Update(Flow.METRICS, released),), own)


def _trained(job: Job, cohort: Cohort, device: str, tell: Callable[[int, float], None]) -> Method:
    """The round's steps; `tell` hears each one's number, from 1, and its loss.

    The optimiser starts anew each round, as its moments belong to a model that averaging has replaced.
    """
    settings = job.study.pretrain
    labels = ("pretrain", job.site, job.round)
    method = METHODS[job.study.framework](job, device, derive_seed(job.study.seed, *labels, "draws"))
    optimiser = torch.optim.AdamW(method.network.parameters(), weight_decay=settings.weight_decay, fused=True)
    index = SliceIndex(cohort.train, settings.partitions)
    batches = index.batches(
        settings.batch,
        settings.local_steps,
        settings.batches == "stratified",
        derive_seed(job.study.seed, *labels, "batches"),
    )
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, job.round, step)
        optimiser.zero_grad()
        loss = method.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        method.finish()
        tell(step + 1, float(loss.detach()))
    return method
