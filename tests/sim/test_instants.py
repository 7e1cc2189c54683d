"""Kills between any two writes to disk and messages of a secure sum."""

from __future__ import annotations

import pytest

from fedsecure.config import parse_study
from fedsecure.node.wiring import COORDINATOR
from sim.chaos import SITES
from sim.instants import SHORT, Fall, Instants, everywhere
from sim.world import build

ALL = tuple(f"site-{number + 1}" for number in range(SITES.sites))


@pytest.fixture(scope="module")
def instants(tmp_path_factory: pytest.TempPathFactory) -> Instants:
    folder = tmp_path_factory.mktemp("instants")
    return Instants(folder / "run", build(SITES, parse_study(SHORT), folder / "run", folder / "cache", lambda _: None))


def test_a_vector_that_is_on_record_and_was_not_sent_is_in_the_sum(instants: Instants) -> None:
    fall, _ = instants.kill("site-3", "send masked weights")
    assert fall.instants[-2:] == ["write sums-ledger sums-masked-input sums-state", "write sums.ratchet"]
    assert fall.holds(SITES.sites), fall
    assert (fall.survivors, fall.same) == (ALL, True)


def test_a_vector_that_was_masked_and_is_not_on_record_is_no_part_of_the_sum(instants: Instants) -> None:
    fall, _ = instants.kill("site-3", "write sums-ledger sums-masked-input sums-state")
    assert fall.holds(SITES.sites), fall
    assert (set(ALL) - set(fall.survivors), fall.same) == ({"site-3"}, False)


def test_a_coordinator_that_has_opened_a_sum_and_did_not_say_so_opens_the_same_again(instants: Instants) -> None:
    fall, _ = instants.kill(COORDINATOR, "write updates/0-0/+.weights")
    assert fall.holds(SITES.sites), fall
    assert (fall.survivors, fall.sums) == (ALL, 2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["site-3", COORDINATOR])
def test_at_no_instant_does_a_kill_change_a_sum(instants: Instants, name: str) -> None:
    told: list[str] = []
    assert everywhere(instants, name, SITES.sites, told.append) == 0, told


def test_what_must_not_be_is_told_from_what_may() -> None:
    """A fall that holds, and each way not to."""
    fine = Fall([], dict.fromkeys((COORDINATOR, *ALL), "finished"), ALL, True, 1, 0, 0, 0, 0, 0, [])
    assert fine.holds(5)
    assert fine._replace(survivors=ALL[:4], same=False).holds(5)
    broken = [
        {"same": False}, {"survivors": ALL[:3]}, {"sums": 0}, {"outcomes": {COORDINATOR: "aborted"}}, {"inexact": 1},
        {"apart": 1}, {"masked_twice": 1}, {"told_twice": 1}, {"taken_twice": 1}, {"refused": ["site-3: a rule"]},
    ]  # fmt: skip
    assert not any(fine._replace(**changes).holds(5) for changes in broken)
