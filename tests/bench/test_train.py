from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from fedsecure.bench.train import bench_train
from fedsecure.cli.bench import app

KEYS = {"fcl_slices_per_s", "fcl_bare_slices_per_s", "fclopt_slices_per_s", "fclopt_bare_slices_per_s"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_measures_all_four_as_json() -> None:
    result = CliRunner().invoke(app, ["train", "--seconds", "0", "--json"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.output)
    assert set(measured) == KEYS
    assert all(value > 0 for value in measured.values())


@pytest.mark.slow
def test_our_loop_costs_at_most_a_tenth() -> None:
    measured = bench_train(60)
    assert measured["fcl_slices_per_s"] >= 0.9 * measured["fcl_bare_slices_per_s"]
    assert measured["fclopt_slices_per_s"] >= 0.9 * measured["fclopt_bare_slices_per_s"]
