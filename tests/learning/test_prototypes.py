"""Prototypes: cells, clipping of a patient as one vector, sums, and what a reader makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import Study, parse_study
from fedsecure.learning.partition import partition_labels
from fedsecure.learning.prototypes import (
    FEDERATION,
    cell_labels,
    cells,
    clipped_sum,
    from_sum,
    schema,
    total,
    weight_of,
)
from fedsecure.types import FloatArray


@given(st.integers(1, 60), st.integers(2, 6), st.integers(1, 8))
def test_cells_refine_the_partitions_in_order(slices: int, partitions: int, bins: int) -> None:
    labels = cell_labels(slices, partitions, bins)
    assert (labels // bins == partition_labels(slices, partitions)).all()
    assert (np.diff(labels) >= 0).all()
    for partition in np.unique(labels // bins):
        inside = labels[labels // bins == partition] % bins
        counts = np.bincount(inside, minlength=bins)
        assert counts.max() - counts.min() <= 1  # as even as they go
    if bins == 1:
        assert (labels == partition_labels(slices, partitions)).all()


def test_with_fewer_slices_than_bins_the_middle_ones_are_filled() -> None:
    assert cell_labels(8, 4, 3).tolist() == [0, 2, 3, 5, 6, 8, 9, 11]  # two slices a partition
    assert cell_labels(4, 4, 3).tolist() == [1, 4, 7, 10]  # one
    assert cell_labels(2, 4, 3).tolist() == [1, 4]  # fewer slices than partitions: cells of the last two stay empty
    assert cell_labels(1, 4, 1).tolist() == [0]


def _entries(*patients: list[list[float]]) -> FloatArray:
    return np.array(patients, np.float32)


def test_a_patient_is_clipped_as_one_vector_over_all_cells() -> None:
    # Norms: 5 (3 in one cell, 4 in the other), 0.5 and 0.
    entries = _entries([[3, 0], [0, 4]], [[0, 0], [0.5, 0]], [[0, 0], [0, 0]])
    slack = 1 - 2.0**-10
    assert clipped_sum(entries, 1.0).tolist() == [[pytest.approx(0.6 * slack), 0], [0.5, pytest.approx(0.8 * slack)]]
    assert clipped_sum(entries, 10.0).tolist() == [[3, 0], [0.5, 4]]
    assert clipped_sum(entries[:0], 1.0).tolist() == [[0, 0], [0, 0]]


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 10), st.floats(0.01, 1000), st.sampled_from([1, 5, 300]))
def test_leaving_a_patient_out_moves_the_sum_by_the_clip_at_most(
    seed: int, clip: float, scale: float, patients: int
) -> None:
    """Sensitivity under zero-out, float32's rounding of the sum included: no tolerance."""
    entries = (scale * np.random.default_rng(seed).standard_normal((patients, 4, 8))).astype(np.float32)
    _moves_by_the_clip_at_most(entries, clip)


def test_the_bound_holds_where_all_patients_pull_one_way() -> None:
    """The largest sum that there is, and the most that it rounds by; more patients than that are refused."""
    entries = np.full((1 << 12, 2, 3), 7.3, np.float32)
    _moves_by_the_clip_at_most(entries, 0.7)
    with pytest.raises(ValueError, match="at most 4096 patients"):
        clipped_sum(np.concatenate([entries, entries[:1]]), 0.7)


def _moves_by_the_clip_at_most(entries: FloatArray, clip: float) -> None:
    whole, zeroed = clipped_sum(entries, clip).astype(np.float64), entries.copy()
    zeroed[0] = 0
    for without in (entries[1:], zeroed):
        assert np.linalg.norm(whole - clipped_sum(without, clip)) <= clip


def test_a_sum_is_over_sites_in_the_order_of_their_names() -> None:
    one, tiny = np.array([1e8], np.float32), np.array([1.0], np.float32)
    sums = [("c", -one), ("a", one), ("b", tiny)]
    assert total(sums).tolist() == [1.0]  # float64: nothing is lost beside 1e8
    assert total(sums).tobytes() == total(sums[::-1]).tobytes()
    for wrong in ([], [("a", one), ("a", one)], [("a", one), ("b", np.zeros(2, np.float32))]):
        with pytest.raises(ValueError, match="site"):
            total(wrong)


def test_the_readers_prototypes_are_directions_with_their_partition_and_nobodys_cells_are_left_out() -> None:
    whole = np.array([[0, 6], [0, 0], [3, 4], [0, 1e-9]], np.float32)
    bank = from_sum(whole, 2, bins=2)
    np.testing.assert_allclose(bank.features, [[0, 1], [0.6, 0.8]], rtol=1e-6)
    assert bank.partitions.tolist() == [0, 1]
    assert bank.features.dtype == np.float32
    nothing = from_sum(np.zeros((4, 2), np.float32), 2, bins=2)
    assert nothing.features.shape == (0, 2)


def test_shape_and_divisors_come_from_the_study_alone() -> None:
    study: Study = parse_study(
        {"sites": [{"name": "a", "weight": 3}, {"name": "b", "weight": 4}],
         "model": {"features": 8}, "pretrain": {"partitions": 5, "prototypes_per_partition": 3},
         "security": {"secagg": False}}
    )  # fmt: skip
    assert cells(study.pretrain) == 15
    (spec,) = schema(study)
    assert spec.shape == (15, 8)
    assert (weight_of(study, "b"), weight_of(study, FEDERATION)) == (4, 7)
