"""kill -9 of processes, at random instants here and at every phase boundary too by `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.chaos import chaos


@pytest.mark.slow
def test_two_kills_at_random_instants_change_nothing(tmp_path: Path) -> None:
    outcome = chaos(tmp_path / "run", tmp_path / "cache", kills=2, boundaries=False, seed=3)
    assert (outcome.same, outcome.sealed_twice) == (True, 0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_at_every_phase_boundary_changes_nothing(tmp_path: Path) -> None:
    outcome = chaos(tmp_path / "run", tmp_path / "cache", kills=10, boundaries=True, seed=4)
    assert (outcome.same, outcome.sealed_twice) == (True, 0)
    assert outcome.boundaries > 20
