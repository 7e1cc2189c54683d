from __future__ import annotations

import math
import os
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


def integers(grid: Grid, vector: np.ndarray, key: bytes = KEY, factor: float = 1.0) -> np.ndarray:
    words = np.zeros(len(vector), np.uint32)
    Quantizer(grid, vector, key, factor).fill(0, words)
    return words.view(np.int32)


@given(st.sampled_from((16, 20, 24, 32)), st.integers(1, 1000), st.floats(1e-3, 10), st.integers(1, 10**7))
def test_no_sum_without_noise_can_wrap(bits: int, sites: int, reach: float, length: int) -> None:
    grid = Grid.fit(bits, sites, reach, length)
    assert sites * grid.largest < 2 ** (bits - 1)
    assert grid.largest * grid.step >= reach  # nothing within reach is cut
    assert grid.wrap_bits(length) == math.inf


@given(
    st.sampled_from((20, 24, 32)), st.integers(2, 200), st.floats(1e-3, 10), st.floats(0.001, 1), st.integers(1, 10**7)
)
def test_with_noise_it_wraps_with_at_most_two_to_the_minus_forty(
    bits: int, sites: int, reach: float, noise: float, length: int
) -> None:
    grid = Grid.fit(bits, sites, reach, length, noise * reach)
    assert grid.wrap_bits(length) >= WRAP_BITS - 1e-6
    room = 2 ** (bits - 1) - 1 - sites * grid.largest
    # The bound, recomputed: 2 d exp(-room^2 / (2 sigma^2)).
    assert math.log2(2 * length) - room**2 / (2 * grid.noise**2) / math.log(2) <= -WRAP_BITS + 1e-6


def test_rings_that_are_too_small() -> None:
    with pytest.raises(ValueError, match="too small for 20000 sites"):
        Grid.fit(16, 20000, 1.0, 10)
    assert Grid(20, 10, 1.0, 2**19, 1.0).wrap_bits(10) == 0


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200), st.binary(min_size=32, max_size=32))
def test_every_integer_is_less_than_one_off_and_the_norm_within_its_bound(values: list[float], key: bytes) -> None:
    vector = np.array(values, np.float32)
    grid = Grid.fit(20, 10, 1.0, len(vector))
    found = integers(grid, vector, key)
    assert np.abs(found - vector.astype(np.float64) / grid.step).max() < 1 + 2.0**-6  # float32 at 52,428
    assert math.sqrt(sum(int(v) ** 2 for v in found)) < integer_norm_bound(l2_norm(vector), grid.step, len(vector)) + 1
    assert integer_norm(grid, vector, key) == pytest.approx(np.linalg.norm(found.astype(float)))


def test_rounding_is_unbiased_and_its_error_as_stated() -> None:
    """Ten sites with one vector: the mean error is within five deviations of 0, its size at most what is stated."""
    length, sites = 200_000, 10
    vector = np.random.default_rng(0).uniform(-1, 1, length).astype(np.float32)
    grid = Grid.fit(16, sites, 1.0, length)
    total = sum(dequantize(grid, integers(grid, vector, bytes([site]) * 32)) for site in range(sites))
    error = total / sites - vector.astype(np.float64)
    root = math.sqrt(float(np.mean(error**2)))
    assert root <= grid.mean_error(sites)
    assert root > 0.7 * grid.mean_error(sites)  # 1/6 of a step squared in the mean, 1/4 at most
    assert abs(error.mean()) < 5 * root / math.sqrt(length)


def test_the_likely_bound_holds_as_often_as_it_says() -> None:
    length, beta = 4096, 0.05
    vector = np.random.default_rng(1).standard_normal(length).astype(np.float32)
    factor = clip_factor(vector, 1.0)
    grid = Grid(20, 10, 0.01, 200)  # coarse: rounding is most of the norm
    limit = likely_norm_bound(1.0, grid.step, length, beta)
    assert limit < integer_norm_bound(1.0, grid.step, length)
    norms = [integer_norm(grid, vector, bytes([n]) * 32, factor) for n in range(100)]
    assert sum(norm > limit for norm in norms) <= 100 * beta
    key = draw_key(grid, vector, limit, os.urandom, factor)
    assert integer_norm(grid, vector, key, factor) <= limit


def test_a_key_is_drawn_again_until_the_norm_fits() -> None:
    vector = np.random.default_rng(2).standard_normal(64).astype(np.float32)
    grid, draws = Grid(20, 10, 1.0, 10), count()

    def entropy(size: int) -> bytes:
        return bytes([next(draws)]) * size

    norms = sorted(integer_norm(grid, vector, bytes([n]) * 32) for n in range(20))
    key = draw_key(grid, vector, norms[0], entropy)
    assert integer_norm(grid, vector, key) == norms[0]
    with pytest.raises(ValueError, match="was the vector clipped"):
        draw_key(grid, vector, 0.0, os.urandom)


def test_stretches_come_in_order_and_once() -> None:
    vector = np.random.default_rng(3).standard_normal(200_000).astype(np.float32)
    grid = Grid.fit(20, 10, 8.0, len(vector))
    whole, parts = integers(grid, vector), np.zeros(len(vector), np.uint32)
    quantizer = Quantizer(grid, vector, KEY)
    for start in range(0, len(vector), 1 << 16):
        quantizer.fill(start, parts[start : start + (1 << 16)])
    assert (parts.view(np.int32) == whole).all()
    with pytest.raises(ValueError, match="quantised once"):
        quantizer.fill(0, parts)
    assert repr(quantizer) == "Quantizer(200000)"


def test_what_is_beyond_the_grid_is_cut() -> None:
    grid = Grid(16, 10, 1.0, 5)
    assert integers(grid, np.array([100, -100, 5, -5], np.float32)).tolist() == [5, -5, 5, -5]
    words = np.zeros(2, np.uint16)
    Quantizer(grid, np.array([-3, 3], np.float32), KEY).fill(0, words)
    assert words.view(np.int16).tolist() == [-3, 3]
