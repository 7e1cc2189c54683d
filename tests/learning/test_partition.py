from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.learning.partition import partition_labels


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        (1, [0]),
        (3, [0, 1, 2]),  # fewer slices than partitions
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 2, 3, 3]),
        (6, [0, 0, 1, 1, 2, 2]),  # 6/4 = 1.5 rounds up to 2: nothing is left for the last one
        (8, [0, 0, 1, 1, 2, 2, 3, 3]),
        (10, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]),  # 2.5 rounds up, where Python's round() gives 2
        (13, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]),
    ],
)
def test_rule_by_hand(slices: int, expected: list[int]) -> None:
    assert partition_labels(slices, 4).tolist() == expected


@given(slices=st.integers(1, 400), partitions=st.integers(2, 255))
def test_contiguous_in_order_and_in_range(slices: int, partitions: int) -> None:
    labels = partition_labels(slices, partitions).astype(int)
    assert labels.shape == (slices,)
    assert labels[0] == 0
    assert labels.max() < partitions
    assert set(np.diff(labels).tolist()) <= {0, 1}


@pytest.mark.parametrize(("slices", "partitions"), [(0, 4), (5, 1), (5, 256)])
def test_refuses(slices: int, partitions: int) -> None:
    with pytest.raises(ValueError, match="2 to 255 partitions"):
        partition_labels(slices, partitions)
