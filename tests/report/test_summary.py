from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedsecure.report.results import DiceRow
from fedsecure.report.summary import Estimate, Group, differences, estimate, means, site_means


def row(
    init: str,
    site: str,
    subject: str,
    dice: float,
    *,
    structure: str = "LV",
    seed: int = 0,
    n: int = 1,
    mode: str = "local",
) -> DiceRow:
    return DiceRow(
        framework="fcl" if init == "pretrained" else None, mode=mode, init=init, labelled=n, site=site,
        subject=subject, structure=structure, seed=seed, dice=dice,
    )  # fmt: skip


def test_a_site_with_many_patients_does_not_outvote_the_others(make):
    rows = (row("random", "a", "1", 0.2), row("random", "a", "2", 0.4), row("random", "b", "3", 0.9))
    results = msgspec.structs.replace(make(), dice=rows)
    found = means(results)[Group(None, "local", 1, "LV")]
    assert found.mean == pytest.approx((0.3 + 0.9) / 2)  # not (0.2 + 0.4 + 0.9) / 3
    assert found.n == 2
    assert found.sd == pytest.approx(0.6 / 2**0.5)


def test_the_mean_over_structures_weighs_structures_alike():
    rows = [row("random", "a", "1", 0.2), row("random", "a", "2", 0.4), row("random", "a", "1", 0.9, structure="RV")]
    assert site_means(rows)[Group(None, "local", 1, None)] == {(0, "a"): pytest.approx((0.3 + 0.9) / 2)}


def test_differences_by_hand(make):
    # Pairs: a/0 +0.10, b/0 +0.20, a/1 +0.30. Site c has no random start: no pair. N=4 has none at all: no line.
    rows = (
        row("random", "a", "1", 0.50), row("pretrained", "a", "1", 0.60),
        row("random", "b", "2", 0.10), row("pretrained", "b", "2", 0.30),
        row("random", "a", "1", 0.50, seed=1), row("pretrained", "a", "1", 0.80, seed=1),
        row("pretrained", "c", "9", 0.99), row("pretrained", "a", "1", 0.7, n=4),
    )  # fmt: skip
    found = differences(msgspec.structs.replace(make(), dice=rows))
    assert found.keys() == {Group("fcl", "local", 1, "LV"), Group("fcl", "local", 1, None)}
    pair = found[Group("fcl", "local", 1, "LV")]
    assert (pair.mean, pair.sd, pair.n) == (pytest.approx(0.2), pytest.approx(0.1), 3)
    # t(0.975, 2) = 4.302653; half width 4.302653 * 0.1 / sqrt(3) = 0.248414
    assert pair.low == pytest.approx(-0.048414, abs=1e-6)
    assert pair.high == pytest.approx(0.448414, abs=1e-6)
    assert pair.verdict == "no difference measurable"


def test_federated_sites_of_one_seed_are_one_pair(make):
    def federated(init: str, site: str, dice: float, seed: int) -> DiceRow:
        return row(init, site, "1", dice, seed=seed, mode="federated")

    # Seed 0: a +0.10, b +0.30, mean +0.20; c was scored after one start only. Seed 1: a +0.40.
    first = (
        federated("random", "a", 0.5, 0), federated("pretrained", "a", 0.6, 0),
        federated("random", "b", 0.1, 0), federated("pretrained", "b", 0.4, 0),
        federated("pretrained", "c", 0.99, 0),
    )  # fmt: skip
    group = Group("fcl", "federated", 1, "LV")
    alone = differences(msgspec.structs.replace(make(), dice=first))[group]
    assert (alone.mean, alone.n, alone.low) == (pytest.approx(0.2), 1, None)
    assert alone.verdict == "too few pairs"
    second = (federated("random", "a", 0.3, 1), federated("pretrained", "a", 0.7, 1))
    results = msgspec.structs.replace(make(), dice=first + second)
    both = differences(results)[group]
    assert (both.mean, both.n) == (pytest.approx(0.3), 2)  # not (0.1 + 0.3 + 0.4) / 3
    assert both.sd == pytest.approx(0.2 / 2**0.5)
    random = means(results)[Group(None, "federated", 1, "LV")]
    assert (random.mean, random.n) == (pytest.approx((0.3 + 0.3) / 2), 2)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20).filter(lambda values: np.std(values) > 1e-6))
def test_the_interval_is_the_t_test_s(values):
    found = estimate(values)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(reference.low, abs=1e-9), pytest.approx(reference.high, abs=1e-9))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1], "too few pairs"),
        ([0.1, 0.1, 0.11], "higher"),
        ([-0.1, -0.1, -0.11], "lower"),
        ([-0.1, 0.1], "no difference measurable"),
        ([0.0, 0.0], "no difference measurable"),
    ],
)
def test_what_is_said(values, verdict):
    assert estimate(values).verdict == verdict


def test_one_value_has_no_spread():
    assert estimate([0.25]) == Estimate(0.25, 1)
