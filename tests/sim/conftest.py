"""A world small enough to run whole in a test: phantom hospitals, a tiny network, a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsecure.config import Study, parse_study
from sim.world import World, build

TINY: dict[str, Any] = {
    "model": {"filters": 4, "hidden": 16, "features": 8},
    "data": {"size": 32},
    "pretrain": {"rounds": 2, "local_steps": 2, "batch": 8, "bank": 32, "negatives": 16},
    "finetune": {"labelled": [1], "steps": 4, "rounds": 2, "batch": 2},
    "security": {"secagg": False},  # two sites
}
WORLD = World(source=None, sites=2, scheme="random", phantom_patients=3, phantom_size=48)

LayOut = Callable[..., tuple[Path, Study]]


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lay_out_world(tmp_path: Path, shared_cache: Path) -> LayOut:
    """Lay out a run of the tiny world; returns its folder and its resolved study."""

    def lay_out(name: str = "run", **settings: Any) -> tuple[Path, Study]:
        run = tmp_path / name
        study = build(WORLD, parse_study({**TINY, **settings}), run, shared_cache, lambda _: None)
        return run, study

    return lay_out
