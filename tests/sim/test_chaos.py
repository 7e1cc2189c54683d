"""kill -9 of processes, at random instants here and at every phase boundary too by `make chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.chaos import chaos
from sim.witness import Accepted, taken_twice, told_twice


@pytest.mark.slow
def test_two_kills_at_random_instants_change_nothing(tmp_path: Path) -> None:
    outcome = chaos(tmp_path / "run", tmp_path / "cache", kills=2, boundaries=False, seed=3)
    assert outcome.holds, outcome


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_kill_at_every_phase_boundary_changes_nothing(tmp_path: Path) -> None:
    outcome = chaos(tmp_path / "run", tmp_path / "cache", kills=10, boundaries=True, seed=4)
    assert outcome.holds, outcome
    assert outcome.boundaries > 20


def test_the_witness_tells_what_was_taken_or_told_twice() -> None:
    once = [Accepted(1, "north", 5, "WeightUpdate 0 0", "a"), Accepted(1, "north", 6, "", "b")]
    again = Accepted(1, "north", 7, "WeightUpdate 0 0", "a")  # stored bytes, under a new number
    after_a_kill = Accepted(2, "north", 6, "", "b")
    assert (taken_twice([*once, again, after_a_kill]), told_twice([*once, again, after_a_kill])) == (0, 0)
    assert taken_twice([*once, once[0]]) == 1
    assert told_twice([*once, Accepted(1, "north", 7, "WeightUpdate 0 0", "c")]) == 1
