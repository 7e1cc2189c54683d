"""Bits: closed forms against counting."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from fedsecure.audit import capacity


def test_without_noise_there_is_no_bound() -> None:
    assert capacity.noised(1000, 1.0, 0.0) == math.inf


def test_one_dimension_is_shannons_formula() -> None:
    assert capacity.noised(1, 3.0, 1.0) == pytest.approx(0.5 * math.log2(10))


def test_more_noise_and_less_clip_carry_less() -> None:
    assert capacity.noised(100, 1.0, 2.0) < capacity.noised(100, 1.0, 1.0) < capacity.noised(100, 2.0, 1.0)
    # However many dimensions: C^2 / (2 s^2 ln 2) is never passed
    assert capacity.noised(10**9, 1.0, 1.0) < 0.5 / math.log(2)


@pytest.mark.parametrize("count", range(7))
def test_order_counts_permutations(count: int) -> None:
    assert capacity.order(count) == pytest.approx(math.log2(len(list(permutations(range(count))))), abs=1e-9)


def test_a_number_of_rows() -> None:
    assert capacity.number(1023) == 10


def test_a_volume_of_noise_holds_eight_bits_a_voxel_and_a_flat_one_next_to_none() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(size=(4, 32, 32)).astype(np.float32)
    assert capacity.volume(noise) == pytest.approx(8 * noise.size, rel=0.05)
    flat = np.zeros((4, 32, 32), np.float32)
    flat[0, 0, 0] = 1
    assert capacity.volume(flat) < 0.1 * 8 * flat.size
