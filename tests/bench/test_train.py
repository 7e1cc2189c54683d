from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from fedsecure.cli.bench import app

KEYS = {"fcl_slices_per_s", "fcl_bare_slices_per_s", "fclopt_slices_per_s", "fclopt_bare_slices_per_s"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_measures_all_four_as_json() -> None:
    result = CliRunner().invoke(app, ["train", "--seconds", "0.1", "--json"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.output)
    assert set(measured) == KEYS
    assert all(value > 0 for value in measured.values())
