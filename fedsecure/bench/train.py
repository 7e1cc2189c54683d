"""How fast training is beside a loop that does nothing but train.

The bare loop has the same network, views, batch and loss terms, written plainly and fed from memory. Ours goes through
`pretrain.train_round`: slices read from memory-mapped volumes, events, bank, average. Both are run in turns, so that
whatever else the machine does falls on both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from fedsecure.config import Framework, Member, PretrainSettings, SecuritySettings, Study
from fedsecure.learning.fclopt import Online
from fedsecure.learning.job import Job
from fedsecure.learning.model import Branch
from fedsecure.learning.pretrain import initial, train_round
from fedsecure.learning.transforms import two_views
from fedsecure.progress import Progress
from fedsecure.types import Cohort, Subject, Volume

_STEPS = 6  # of each kind in a turn; the first of ours is not counted, as it waits for the round to be set up


def bench_train(seconds: float = 60.0) -> dict[str, float]:
    """Slices per second on the CPU with torch's present number of threads, medians over about `seconds` in all.

    Keys: fcl_slices_per_s, fcl_bare_slices_per_s, fclopt_slices_per_s, fclopt_bare_slices_per_s.
    """
    result = {}
    frameworks: tuple[Framework, ...] = ("fcl", "fclopt")
    with TemporaryDirectory() as folder:
        for framework in frameworks:
            study = _study(framework)
            cohort = _cohort(Path(folder) / framework, study.data.size)
            ours, bare = _in_turns(study, cohort, seconds / len(frameworks))
            result[f"{framework}_slices_per_s"] = study.pretrain.batch / ours
            result[f"{framework}_bare_slices_per_s"] = study.pretrain.batch / bare
    return result


def _study(framework: Framework) -> Study:
    """With a naive target, which is in the model: here are no nodes that would predict one."""
    settings = PretrainSettings(local_steps=_STEPS + 1, target="naive", distance="none")
    alone = SecuritySettings(secagg=False)
    return Study(framework=framework, sites=(Member(name="bench", weight=1),), pretrain=settings, security=alone)


def _cohort(folder: Path, size: int) -> Cohort:
    """Eight patients of noise, 10 slices each, memory-mapped like prepared ones: speed does not look at the picture."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    subjects = []
    for i in range(8):
        file = folder / f"{i}.npy"
        np.save(file, rng.standard_normal((10, size, size)).astype(np.float32))
        subjects.append(
            Subject(str(i), None, (Volume(str(i), 0, np.load(file, mmap_mode="r"), None, (1.0, 1.0, 1.0)),))
        )
    return Cohort(tuple(subjects), ())


def _in_turns(study: Study, cohort: Cohort, seconds: float) -> tuple[float, float]:
    """Median seconds of a step: ours, bare."""
    bare_step = _bare_fcl(study) if study.framework == "fcl" else _bare_fclopt(study)
    bare_step()  # allocators and kernels warm up
    ours: list[float] = []
    bare: list[float] = []
    end = time.perf_counter() + seconds
    while not bare or time.perf_counter() < end:
        ours += _our_steps(study, cohort)
        for _ in range(_STEPS):
            start = time.perf_counter()
            bare_step()
            bare.append(time.perf_counter() - start)
    return median(ours), median(bare)


def _our_steps(study: Study, cohort: Cohort) -> list[float]:
    stamps: list[float] = []

    def stamp(_: Progress) -> None:
        stamps.append(time.perf_counter())

    train_round(Job(study, "bench", 0, 0, initial(study), {}, {}), cohort, "cpu", stamp)
    return [later - earlier for earlier, later in pairwise(stamps)]


def _bare_fcl(study: Study) -> Callable[[], None]:
    settings = study.pretrain
    images, generator = torch.randn(settings.batch, 1, study.data.size, study.data.size), torch.Generator()
    labels = torch.arange(2 * settings.batch) % settings.partitions
    main, slow = Branch(study.model), Branch(study.model).requires_grad_(False)
    optimiser = torch.optim.AdamW(main.parameters(), settings.learning_rate, fused=True)
    bank = normalize(torch.randn(settings.bank, study.model.features), dim=1)
    bank_labels = torch.arange(settings.bank) % settings.partitions

    def nce(logits: Tensor, positive: Tensor) -> Tensor:
        rest = logits.masked_fill(positive, -1e9).logsumexp(1, keepdim=True)
        return (softplus(rest - logits) * positive).sum(1) / positive.sum(1)

    def step() -> None:
        nonlocal bank, bank_labels
        views = torch.cat(two_views(images, generator))
        with torch.no_grad():
            k = normalize(slow(views), dim=1)
        q = normalize(main(views), dim=1)
        rows = torch.randperm(len(bank))[: settings.negatives]
        near, far = q @ k.T / settings.temperature, q @ bank[rows].T / settings.temperature
        same, matching = labels[:, None] == labels[None], labels[:, None] == bank_labels[rows][None]
        loss = (nce(near, same) + nce(far, matching)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        _average(slow, main, settings.momentum)
        bank = torch.cat([bank, k])[-settings.bank :]
        bank_labels = torch.cat([bank_labels, labels])[-settings.bank :]

    return step


def _bare_fclopt(study: Study) -> Callable[[], None]:
    settings = study.pretrain
    images, generator = torch.randn(settings.batch, 1, study.data.size, study.data.size), torch.Generator()
    network, target = Online(study.model), Branch(study.model, standardised=True).requires_grad_(False)
    labels = torch.arange(2 * settings.batch) % settings.partitions
    pairs = labels[:, None] == labels[None]
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, fused=True)

    def step() -> None:
        first, second = two_views(images, generator)
        with torch.no_grad():
            targets = target(torch.cat([second, first]))
        projections = network(torch.cat([first, second]))
        predictions = network.predictor(projections)
        cosine = normalize(predictions, dim=1) @ normalize(targets - targets.mean(0), dim=1).T
        loss = 2 * (2 - 2 * cosine[pairs]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        _average(target.encoder, network.encoder, settings.momentum)
        _average(target.projector, network.projector, settings.momentum)

    return step


@torch.no_grad()
def _average(slow: torch.nn.Module, fast: torch.nn.Module, momentum: float) -> None:
    for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
        a.mul_(momentum).add_(b, alpha=1 - momentum)
