"""kill -9 of processes, at random instants here and at every phase boundary too by `make chaos`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.chaos import chaos
from sim.witness import Accepted, Summed, inexact, masked_twice, opened_apart, taken_twice, told_twice


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


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_every_step_of_secure_sums_open_none_that_is_not_of_its_survivors(tmp_path: Path) -> None:
    outcome = chaos(tmp_path / "run", tmp_path / "cache", kills=2, boundaries=False, seed=5, sums=True)
    assert outcome.holds, outcome
    assert (outcome.sums >= 7, outcome.steps >= 12) == (True, True), outcome


def row(keyset: bytes = b"k", sites: tuple[str, ...] = ("north",), values: tuple[int, ...] = (1, -2)) -> Summed:
    return Summed(b"m", keyset, 0, 0, ("weights",), sites, np.array(values, "<i4").tobytes())


def test_the_witness_tells_what_a_sum_is_not_of_and_what_was_masked_or_opened_twice() -> None:
    sites = {"north": [row()], "south": [row(values=(5, 5), sites=("south",))]}
    both = row(b"", ("north", "south"), (6, 3))
    assert inexact(sites, [both, row(b"", ("north",))]) == 0
    assert inexact(sites, [row(b"", ("north", "south"), (6, 4))]) == 1
    assert (masked_twice([row(), row(b"l")]), masked_twice([row(), row()])) == (0, 1)
    assert (opened_apart([both, both]), opened_apart([both, row(b"", ("north",))])) == (0, 1)


def test_the_witness_tells_what_was_said_of_one_sum_in_two_ways() -> None:
    once = [Accepted(1, "hub", 5, "Survivors aa", "x"), Accepted(1, "hub", 6, "Survivors bb", "y")]
    assert told_twice([*once, Accepted(2, "hub", 7, "Survivors aa", "x")]) == 0
    assert told_twice([*once, Accepted(2, "hub", 7, "Survivors aa", "z")]) == 1


def test_the_witness_tells_what_was_taken_or_told_twice() -> None:
    once = [Accepted(1, "north", 5, "WeightUpdate 0 0", "a"), Accepted(1, "north", 6, "", "b")]
    again = Accepted(1, "north", 7, "WeightUpdate 0 0", "a")  # stored bytes, under a new number
    after_a_kill = Accepted(2, "north", 6, "", "b")
    assert (taken_twice([*once, again, after_a_kill]), told_twice([*once, again, after_a_kill])) == (0, 0)
    assert taken_twice([*once, once[0]]) == 1
    assert told_twice([*once, Accepted(1, "north", 7, "WeightUpdate 0 0", "c")]) == 1
