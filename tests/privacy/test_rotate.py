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
    unrotate_in_place,
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
    assert (turned.shape, turned.dtype) == (vector.shape, np.float32)
    assert l2_norm(turned) == pytest.approx(l2_norm(vector), rel=1e-5)
    unrotate_in_place(turned, seed)
    assert turned == pytest.approx(vector, abs=1e-5)


def test_it_is_hadamard_after_signs() -> None:
    """Column by column, against Sylvester's matrix."""
    columns = np.stack([rotate(np.eye(8, dtype=np.float32)[place], SEED) for place in range(8)], axis=1)
    signs = np.sign(columns[0])  # the first row of a Hadamard matrix is all plus
    assert columns == pytest.approx(hadamard(8) * signs, abs=1e-6)
    assert set(signs) == {-1, 1}


@pytest.mark.parametrize("length", [1, 2, 3, 11, 12, 24])
def test_it_is_orthogonal_at_any_length(length: int) -> None:
    columns = np.stack([rotate(row, SEED) for row in np.eye(length, dtype=np.float32)], axis=1)
    assert columns.T @ columns == pytest.approx(np.eye(length), abs=1e-6)


def test_the_last_block_ends_with_the_vector_and_turns_what_it_overlaps_once_more() -> None:
    vector = np.arange(1, 13, dtype=np.float32)
    turned = rotate(vector, SEED)
    assert turned[:4] == pytest.approx(rotate(vector[:8], SEED)[:4])  # of the block from 0 to 7
    assert l2_norm(turned[4:]) == pytest.approx(l2_norm(np.concatenate([rotate(vector[:8], SEED)[4:], vector[8:]])))
    last = rotate(np.eye(12, dtype=np.float32)[11], SEED)
    assert (last != 0).tolist() == [False] * 4 + [True] * 8


def test_sums_of_rotated_vectors_are_rotated_sums() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, BLOCK + 5)).astype(np.float32)
    turned = sum(rotate(vector, SEED).astype(np.float64) for vector in vectors)
    unrotate_in_place(turned, SEED)
    assert turned == pytest.approx(vectors.sum(0), abs=1e-4)


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


@pytest.mark.parametrize("length", [1000, BLOCK + 3, 2 * BLOCK - 1])
def test_a_vector_made_to_stick_out_does_not_once_the_signs_are_another_draw(length: int) -> None:
    """All of its norm in one coordinate of the overlap, or in the last one."""
    for place in (length - block_size(length), length - 1):
        vector = np.zeros(length, np.float32)
        vector[place] = 1
        assert np.abs(rotate(vector, SEED)).max() < reach_factor(length, 40)


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
    assert [block_size(n) for n in (1, 2, 3, 1000, BLOCK, BLOCK + 1)] == [1, 2, 2, 512, BLOCK, BLOCK]
