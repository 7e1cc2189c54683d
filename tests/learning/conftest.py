"""Toy patients whose slices show their place along z (a disc that shrinks), and a toy study, as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from fedsecure.config import Member, ModelSettings, PretrainSettings, SecuritySettings, Study
from fedsecure.types import Cohort, FloatArray, Subject, Volume


def image(slices: int, size: int, rng: np.random.Generator) -> FloatArray:
    y, x = np.mgrid[:size, :size] - size / 2
    radius = np.linspace(0.45, 0.1, slices)[:, None, None] * size * rng.uniform(0.9, 1.1)
    disc = (np.hypot(y, x) < radius).astype(np.float32)
    return (disc + 0.1 * rng.standard_normal(disc.shape)).astype(np.float32)


def subjects(count: int, slices: int = 8, size: int = 32) -> tuple[Subject, ...]:
    rng = np.random.default_rng(0)
    return tuple(
        Subject(f"s{i}", None, (Volume(f"s{i}", 0, image(slices, size, rng), None, (10.0, 1.5, 1.5)),))
        for i in range(count)
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cohort() -> Cohort:
    """Four patients to train on, two held out."""
    everyone = subjects(6)
    return Cohort(everyone[:4], everyone[4:])


@pytest.fixture
def toy_study() -> Callable[..., Study]:
    return _study


def _study(framework: str = "fcl", *, release_metrics: bool = False, **pretrain: object) -> Study:
    settings: dict[str, object] = {"rounds": 2, "local_steps": 3, "batch": 8, "bank": 32, "negatives": 16} | pretrain
    return Study(
        framework=framework,
        sites=(Member(name="a", weight=4), Member(name="b", weight=4)),
        release_metrics=release_metrics,
        neighbours=5,
        model=ModelSettings(filters=4, hidden=16, features=8),
        pretrain=PretrainSettings(**settings),
        security=SecuritySettings(secagg=False),
    )
