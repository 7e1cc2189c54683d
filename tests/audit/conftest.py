"""A small hospital for the content tests: phantom patients through the real data door, and honest updates from real
training of a small network on them."""

from __future__ import annotations

import pytest

from fedsecure.audit.tap import Reference, reference
from fedsecure.config import Study, parse_study
from fedsecure.data.cohort import divide, prepare
from fedsecure.data.phantom import write_phantom
from fedsecure.data.source import open_source
from fedsecure.types import Cohort, FloatArray, Flow, Update
from sim.leaks import honest_rounds

ROUNDS = 4


@pytest.fixture(scope="package")
def study() -> Study:
    return parse_study({
        "sites": [{"name": name, "weight": 3} for name in "ab"],
        "model": {"filters": 4, "hidden": 16, "features": 8},
        "pretrain": {"rounds": ROUNDS + 1, "local_steps": 2, "batch": 8, "bank": 64, "negatives": 16},
        "security": {"secagg": False},
    })  # fmt: skip


@pytest.fixture(scope="package")
def cohort(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Cohort:
    folder = tmp_path_factory.mktemp("hospital")
    write_phantom(folder / "volumes", 4, seed=5, size=96)
    source = open_source(f"folder:{folder / 'volumes'}")
    return divide(prepare(source, study.data, folder / "cache", bytes(32)).subjects, study.data, seed=1)


@pytest.fixture(scope="package")
def images(cohort: Cohort) -> list[FloatArray]:
    return [volume.image for one in (*cohort.train, *cohort.held_out) for volume in one.volumes]


@pytest.fixture(scope="package")
def known(images: list[FloatArray]) -> Reference:
    return reference(images)


@pytest.fixture(scope="package")
def honest(study: Study, cohort: Cohort) -> list[dict[Flow, Update]]:
    return list(honest_rounds(study, cohort, ROUNDS))
