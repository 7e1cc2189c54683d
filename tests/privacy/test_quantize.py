from __future__ import annotations

import math
import os
from fractions import Fraction
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsecure.privacy.clip import clip_factor, l2_norm
from fedsecure.privacy.quantize import (
    WRAP_BITS,
    Grid,
    Quantizer,
    dequantize,
    draw_key,
    integer_norm,
    integer_norm_bound,
    likely_norm_bound,
)

KEY = bytes(range(32))


def integers(grid: Grid, vector: np.ndarray, key: bytes = KEY, factor: float = 1.0, weight: int = 1) -> np.ndarray:
    words = np.zeros(len(vector), np.uint32)
    Quantizer(grid, vector, key, factor, weight).fill(0, words)
    return words.view(np.int32)


weights = st.lists(st.integers(1, 1000), min_size=1, max_size=200)


@given(st.sampled_from((16, 20, 24, 32)), weights, st.floats(1e-3, 10), st.integers(1, 10**7))
def test_no_sum_without_noise_can_wrap(bits: int, sites: list[int], reach: float, length: int) -> None:
    grid = Grid.fit(bits, sites, reach, length)
    assert grid.room == sum(grid.largest(weight) for weight in sites) < 2 ** (bits - 1)
    assert all(grid.largest(weight) * grid.step >= weight * reach * (1 - 1e-12) for weight in sites)
    assert grid.wrap_bits(length) == math.inf


@given(
    st.sampled_from((20, 24, 32)), st.integers(2, 200), st.floats(1e-3, 10), st.floats(0.001, 1), st.integers(1, 10**7)
)
def test_with_noise_it_wraps_with_at_most_two_to_the_minus_forty(
    bits: int, sites: int, reach: float, noise: float, length: int
) -> None:
    grid = Grid.fit(bits, [1] * sites, reach, length, noise * reach)
    assert grid.wrap_bits(length) >= WRAP_BITS - 1e-6
    room = 2 ** (bits - 1) - 1 - sites * grid.largest(1)
    # The bound, recomputed: 2 d exp(-room^2 / (2 sigma^2)).
    assert math.log2(2 * length) - room**2 / (2 * grid.noise**2) / math.log(2) <= -WRAP_BITS + 1e-6


def test_rings_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="too small for 20000 sites"):
        Grid.fit(16, [1] * 20000, 1.0, 10)
    with pytest.raises(ValueError, match="weight is below 1"):
        Grid.fit(16, [1, 0], 1.0, 10)
    assert Grid(20, 1.0, 2.0**19, 10 * 2**19, 1.0).wrap_bits(10) == 0


def test_a_weight_has_its_room() -> None:
    """Three times 0.9 is 2.7: not 1, which a grid for vectors without weights would make of it."""
    grid = Grid.fit(20, [3, 1], 1.0, 4)
    vector = np.array([0.9, -0.9, 1, -1], np.float32)
    assert dequantize(grid, integers(grid, vector, weight=3)) == pytest.approx(3.0 * vector, abs=grid.step)
    with pytest.raises(ValueError, match="beyond the grid"):
        integers(grid, vector, factor=3.0)


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200), st.binary(min_size=32, max_size=32),
    st.sampled_from((16, 20, 24, 32)),
)  # fmt: skip
def test_every_integer_is_as_near_as_stated_and_the_norm_within_its_bound(
    values: list[float], key: bytes, bits: int
) -> None:
    vector = np.array(values, np.float32)
    grid = Grid.fit(bits, [1, 2, 7], 1.0, len(vector))
    found = integers(grid, vector, key, weight=2)
    for value, whole in zip(vector, found, strict=True):  # exactly, by fractions
        assert abs(Fraction(int(whole)) - 2 * Fraction(float(value)) / Fraction(grid.step)) < 1 + Fraction(1, 2**20)
    assert math.sqrt(sum(int(v) ** 2 for v in found)) <= integer_norm_bound(2 * l2_norm(vector), grid.step, len(vector))
    found = integers(grid, vector, key)
    assert integer_norm(grid, vector, key) == pytest.approx(np.linalg.norm(found.astype(float)))


def test_large_integers_are_right_in_the_mean() -> None:
    """There float32's own steps are an eighth of the grid's: what a product loses to them, no rounding brings back."""
    grid = Grid.fit(32, [7], 1.1, 1)
    for value in (0.9, 0.93, 0.97):
        vector = np.full(100_000, value, np.float32)
        meant = float(vector[0]) / grid.step
        deviation = math.sqrt((meant % 1) * (1 - meant % 1) / len(vector))
        assert abs(integers(grid, vector).mean() - meant) < 5 * deviation + 1e-6


def test_rounding_is_unbiased_and_its_error_as_stated() -> None:
    """Ten sites with one vector: the mean error is within five deviations of 0, its size at most what is stated."""
    length, sites = 200_000, 10
    vector = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    grid = Grid.fit(16, [1] * sites, 1.0, length)
    total = sum(dequantize(grid, integers(grid, vector, bytes([site]) * 32)) for site in range(sites))
    error = total / sites - vector.astype(np.float64)
    root = math.sqrt(float(np.mean(error**2)))
    assert root <= grid.mean_error([1] * sites)
    assert root > 0.7 * grid.mean_error([1] * sites)  # 1/6 of a step squared in the mean, 1/4 at most
    assert abs(error.mean()) < 5 * root / math.sqrt(length)


def test_the_likely_bound_holds_as_often_as_it_says() -> None:
    length, beta = 4096, 0.05
    vector = np.random.default_rng(1).standard_normal(length).astype(np.float32)
    factor = clip_factor(vector, 1.0)
    grid = Grid(20, 0.01, 200.0, 2000)  # coarse: rounding is most of the norm
    limit = likely_norm_bound(1.0, grid.step, length, beta)
    assert limit < integer_norm_bound(1.0, grid.step, length)
    norms = [integer_norm(grid, vector, bytes([n]) * 32, factor) for n in range(100)]
    assert sum(norm > limit for norm in norms) <= 100 * beta
    key = draw_key(grid, vector, limit, os.urandom, factor)
    assert integer_norm(grid, vector, key, factor) <= limit


def test_a_key_is_drawn_again_until_the_norm_fits() -> None:
    vector = np.random.default_rng(2).standard_normal(64).astype(np.float32)
    grid, draws = Grid(20, 1.0, 10.0, 100), count()

    def entropy(size: int) -> bytes:
        return bytes([next(draws)]) * size

    norms = sorted(integer_norm(grid, vector, bytes([n]) * 32) for n in range(20))
    key = draw_key(grid, vector, norms[0], entropy)
    assert integer_norm(grid, vector, key) == norms[0]
    with pytest.raises(ValueError, match="was the vector clipped"):
        draw_key(grid, vector, 0.0, os.urandom)


def test_stretches_come_in_order_and_once() -> None:
    vector = np.random.default_rng(3).standard_normal(200_000).astype(np.float32)
    grid = Grid.fit(20, [1] * 10, 8.0, len(vector))
    whole, parts = integers(grid, vector), np.zeros(len(vector), np.uint32)
    quantizer = Quantizer(grid, vector, KEY)
    for start in range(0, len(vector), 1 << 16):
        quantizer.fill(start, parts[start : start + (1 << 16)])
    assert (parts.view(np.int32) == whole).all()
    with pytest.raises(ValueError, match="quantised once"):
        quantizer.fill(0, parts)
    assert repr(quantizer) == "Quantizer(200000)"


def test_small_fractions_are_rounded_up_as_often_as_they_should() -> None:
    """A fraction of 2^-13 beside a whole part of 2^19, in float32 below what s + u keeps; and 2^-18, below 16 bits."""
    length = 1 << 18
    grid = Grid(32, 1.0, 2.0**20, 2**21)
    for whole, fraction in ((2.0**9, 2.0**-13), (0.0, 2.0**-13), (-(2.0**9), 2.0**-13), (0.0, 3 * 2.0**-18)):
        ups = int((integers(grid, np.full(length, whole + fraction, np.float32)) - int(whole)).sum())
        expected = length * fraction
        assert abs(ups - expected) < 5 * math.sqrt(expected)
    exact = np.arange(-500, 500).astype(np.float32)
    assert (integers(grid, exact) == exact).all()  # whole numbers stay


def test_what_is_beyond_the_grid_is_refused() -> None:
    grid = Grid(16, 1.0, 5.0, 50)
    assert integers(grid, np.array([5, -5], np.float32)).tolist() == [5, -5]
    for beyond in (5.001, -5.001, 100, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="beyond the grid"):
            integers(grid, np.array([0, beyond], np.float32))
    clipped = 5 * (1 + 2.0**-45)  # float64's own rounding of a clipped vector is let through, and stays on the grid
    for key in range(50):
        assert integers(grid, np.ones(4, np.float32), bytes([key]) * 32, clipped).tolist() == [5] * 4
    words = np.zeros(2, np.uint16)
    Quantizer(grid, np.array([-3, 3], np.float32), KEY).fill(0, words)
    assert words.view(np.int16).tolist() == [-3, 3]
