from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsecure.privacy.clip import l2_norm
from fedsecure.privacy.rotate import (
    BLOCK,
    block_size,
    reach_factor,
    rotate,
    rotate_clipped,
    rotated_length,
    unrotate,
)

SEED = bytes(range(32))


def hadamard(size: int) -> np.ndarray:
    """By its recursion, Sylvester's construction."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / np.sqrt(size)


@settings(deadline=None)
@given(st.integers(1, 300), st.binary(min_size=32, max_size=32))
def test_it_comes_back_and_keeps_its_norm(length: int, seed: bytes) -> None:
    vector = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    turned = rotate(vector, seed)
    assert len(turned) == rotated_length(length)
    assert l2_norm(turned) == pytest.approx(l2_norm(vector), rel=1e-5)
    assert unrotate(turned, seed, length) == pytest.approx(vector, abs=1e-5)


def test_it_is_hadamard_after_signs() -> None:
    """Column by column, against Sylvester's matrix."""
    columns = np.stack([rotate(np.eye(8, dtype=np.float32)[place], SEED) for place in range(8)], axis=1)
    signs = np.sign(columns[0])  # the first row of a Hadamard matrix is all plus
    assert columns == pytest.approx(hadamard(8) * signs, abs=1e-6)
    assert set(signs) == {-1, 1}


def test_sums_of_rotated_vectors_are_rotated_sums() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, BLOCK + 5)).astype(np.float32)
    turned = sum(rotate(vector, SEED) for vector in vectors)
    assert unrotate(turned, SEED, BLOCK + 5) == pytest.approx(vectors.sum(0), abs=1e-4)


def test_one_large_coordinate_is_spread() -> None:
    vector = np.zeros(BLOCK, np.float32)
    vector[7] = 1
    assert np.abs(rotate(vector, SEED)) == pytest.approx(np.full(BLOCK, 2.0**-8), rel=1e-4)


def test_no_coordinate_is_beyond_the_reach() -> None:
    """Of an ordinary vector; the bound of 2^-40 leaves much room."""
    vector = np.random.default_rng(1).standard_normal(2 * BLOCK).astype(np.float32)
    vector /= np.float32(l2_norm(vector))
    assert np.abs(rotate(vector, SEED)).max() < reach_factor(2 * BLOCK, 40)
    assert reach_factor(2 * BLOCK, 40) == pytest.approx(0.0350, abs=1e-4)
    assert reach_factor(1, 40) == 1


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(0, 1000), st.floats(1e-3, 10))
def test_what_is_clipped_is_the_rotated_vector(length: int, seed: int, bound: float) -> None:
    """A factor of the vector before would leave norms above the bound: by how much float32 happened to round up."""
    vector = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    turned, factor = rotate_clipped(vector, SEED, bound)
    assert (turned == rotate(vector, SEED)).all()
    assert np.linalg.norm(turned.astype(np.float64) * factor) <= bound


def test_float32_rotates_to_a_larger_norm() -> None:
    """So that a factor found before the rotation is not enough."""
    vectors = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    assert any(l2_norm(rotate(vector, SEED)) > l2_norm(vector) * (1 + 1e-8) for vector in vectors)


def test_block_sizes() -> None:
    assert [block_size(n) for n in (1, 2, 3, 1000, BLOCK, BLOCK + 1)] == [1, 2, 4, 1024, BLOCK, BLOCK]
    assert [rotated_length(n) for n in (1, 3, BLOCK, BLOCK + 1)] == [1, 4, BLOCK, 2 * BLOCK]
