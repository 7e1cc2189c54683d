"""Measures against values known by hand, and against MONAI's own Dice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice

from fedsecure.clinic.measures import BINS, Measured, Reliability, measure


def box(start: int, stop: int) -> np.ndarray:
    label = np.zeros((20, 20, 8), np.uint8)
    label[start:stop, 5:15, 2:6] = 1
    return label


def test_a_shift_of_two_voxels_is_two_voxels_in_millimetres() -> None:
    (found,) = measure(box(7, 15), box(5, 13), 1, (1.5, 1.0, 4.0), tolerance=1.0)
    assert found.dice == pytest.approx(2 * 6 / 16)
    assert found.hd95 == pytest.approx(3.0)  # two voxels of 1.5 mm
    assert found.assd is not None
    assert 0 < found.assd < 3.0
    assert found.surface_dice is not None
    (lenient,) = measure(box(7, 15), box(5, 13), 1, (1.5, 1.0, 4.0), tolerance=3.0)
    assert found.surface_dice < lenient.surface_dice == 1.0


def test_the_same_twice_is_perfect() -> None:
    assert measure(box(5, 13), box(5, 13), 1, (1.0, 1.0, 1.0), 1.0) == (Measured(1.0, 0.0, 0.0, 1.0),)


def test_a_structure_in_one_alone_has_no_distance_and_one_in_neither_nothing() -> None:
    only, neither = measure(box(5, 13), np.zeros_like(box(5, 13)), 2, (1.0, 1.0, 1.0), 1.0)
    assert only == Measured(0.0, None, None, 0.0)
    assert neither == Measured(None, None, None, None)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_dice_is_monais_where_both_have_the_structure(seed: int) -> None:
    one, other = np.random.default_rng(seed).integers(0, 2, (2, 6, 5, 4)).astype(np.uint8)
    (found,) = measure(one, other, 1, (1.0, 1.0, 1.0), 1.0)
    theirs = compute_dice(*(torch.from_numpy(array)[None, None].float() for array in (one, other)))
    assert found.dice == pytest.approx(float(theirs), abs=1e-6)


def test_calibration_counts_what_is_or_was_taken_for_a_structure() -> None:
    reliability = Reliability()
    page = np.zeros((2, 2, 5), np.float32)
    page[1] = [[0.9, 0.9, 0.9, 0.9, 0.9], [0.3, 0.1, 0.1, 0.1, 0.1]]
    page[0] = 1 - page[1]
    label = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], np.uint8)
    reliability.add(page, label)
    found = reliability.result()
    assert found is not None
    # Five voxels at .9, three of them right, and a missed one at .7; four of background do not count.
    assert found.ece == pytest.approx((abs(5 * 0.9 - 3) + 0.7) / 6, abs=1e-6)
    assert found.overconfidence == pytest.approx((5 * 0.9 + 0.7 - 3) / 6, abs=1e-6)
    assert sum(one.voxels for one in found.bins) == 6
    assert len(found.bins) == BINS


def test_certainty_goes_into_the_last_bin_and_nothing_counted_is_nothing() -> None:
    reliability = Reliability()
    assert reliability.result() is None
    page = np.stack([np.zeros((1, 2)), np.ones((1, 2))]).astype(np.float32)
    reliability.add(page, np.ones((1, 2), np.uint8))
    found = reliability.result()
    assert found is not None
    assert found.ece == 0
    assert found.bins[-1].voxels == 2
