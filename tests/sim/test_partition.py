"""Dealing patients to hospitals: everybody exactly once, by the scheme that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.errors import SettingsError
from sim.partition import LEAST, Scheme, partition

GROUPS = ["DCM"] * 5 + ["HCM"] * 4 + ["NOR"] * 6


@given(
    groups=st.lists(st.sampled_from("abc"), min_size=2, max_size=60),
    sites=st.integers(1, 30),
    scheme=st.sampled_from(["group", "random", "dirichlet"]),
    seed=st.integers(0, 2**32),
)
def test_every_patient_has_one_hospital_and_every_hospital_two_patients(
    groups: list[str], sites: int, scheme: Scheme, seed: int
) -> None:
    if len(groups) < LEAST * sites:
        with pytest.raises(SettingsError, match="cannot make"):
            partition(groups, sites, scheme, seed)
        return
    parts = partition(groups, sites, scheme, seed)
    assert sorted(position for part in parts for position in part) == list(range(len(groups)))
    assert len(parts) == sites
    assert min(map(len, parts)) >= LEAST
    assert parts == partition(groups, sites, scheme, seed)


def test_by_group_gives_pure_hospitals() -> None:
    parts = partition(GROUPS, 3, "group", 0)
    assert [{GROUPS[position] for position in part} for part in parts] == [{"DCM"}, {"HCM"}, {"NOR"}]


def test_random_depends_on_the_seed_and_is_even() -> None:
    assert partition(GROUPS, 3, "random", 0) != partition(GROUPS, 3, "random", 1)
    assert [len(part) for part in partition(GROUPS, 3, "random", 0)] == [5, 5, 5]


def test_dirichlet_is_more_skewed_than_random() -> None:
    def skew(scheme: Scheme) -> float:
        return sum(
            max(sum(GROUPS[p] == group for p in part) / len(part) for group in set(GROUPS))
            for seed in range(20)
            for part in partition(GROUPS, 3, scheme, seed)
        )

    assert skew("dirichlet") > 1.15 * skew("random")


def test_by_group_needs_groups() -> None:
    with pytest.raises(SettingsError, match="use --partition random or dirichlet"):
        partition([None] * 10, 2, "group", 0)
