"""From a job to the code that does it: the one entry a node's trainer calls."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fedsecure.config import Study
from fedsecure.learning import finetune, pretrain, sparse
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.parts import encoder_of
from fedsecure.plan import StageKind, pretrains_alone, schedule
from fedsecure.progress import Observe
from fedsecure.types import Cohort, Flow, Tensors, Update, schema_of

Work = Callable[[Job, Cohort, str, Observe], JobResult]


def run(job: Job, cohort: Cohort, device: str, observe: Observe) -> JobResult:
    """Does one round of one stage: training, or the stage's evaluation where `job.round == stage.rounds`.

    A pure function of its arguments on one type of machine: sets the process's torch threads to the study's, and
    deterministic kernels. `observe` is told of each step. `device` is torch's name of it, e.g. "cpu" or "cuda:0".
    """
    _prepare(job.study.threads, device)
    ends = job.round == job.stage.rounds
    if job.stage.kind is StageKind.PRETRAIN:
        work = pretrain.evaluate if ends else pretrain.train_round
    else:
        work = finetune.evaluate if ends else finetune.train_round
    if job.study.sparse.period == 1:
        return work(job, cohort, device, observe)
    return _sparse(job, work, cohort, device, observe)


def _sparse(job: Job, work: Work, cohort: Cohort, device: str, observe: Observe) -> JobResult:
    """The same work; of the weights that it would release the round's coordinates leave, and the rest is kept."""
    inner = {name: value for name, value in job.state.items() if name != sparse.MEMORY}
    result = work(replace(job, state=inner), cohort, device, observe)
    full = next((update.arrays for update in result.updates if update.flow is Flow.WEIGHTS), None)
    if full is None:
        return result
    where = sparse.places(job.study, job.stage_index, job.round, schema_of(full))
    update = sparse.flat(full)
    memory = np.asarray(job.state.get(sparse.MEMORY, np.zeros_like(update)), np.float32)
    sent, kept = sparse.compress(update, memory, where)
    rest = (update for update in result.updates if update.flow is not Flow.WEIGHTS)
    sparser = (Update(Flow.WEIGHTS, {sparse.VALUES: sent}), *rest)
    return replace(result, updates=sparser, state={**result.state, sparse.MEMORY: kept})


def initial_model(study: Study, stage_index: int, encoder: Tensors | None) -> Tensors:
    """The model a stage starts from. `encoder` is `parts.start_of` the model that pre-training ended with; None
    where no stage so far has one. After pre-training alone nobody here has one: the untrained one keeps the place that
    each site fills with its own."""
    stage = schedule(study)[stage_index]
    if stage.kind is StageKind.PRETRAIN:
        return pretrain.initial(study)
    if pretrains_alone(study):
        encoder = encoder_of(pretrain.initial(study))
    return finetune.initial(study, stage.init, encoder)


def _prepare(threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        # cuBLAS reads this when it starts; without it its sums may be taken in another order each time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Warn rather than fail: an operation without a deterministic kernel on some device costs equal bytes, not results.
    torch.use_deterministic_algorithms(True, warn_only=True)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tells glibc to keep what a step frees: the next one asks for the same again, and fresh pages cost it a fifth of
    its time (measured: 105 ms against 80). Changes no result; elsewhere than on Linux there is nothing to do."""
    if sys.platform != "linux":
        return
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
