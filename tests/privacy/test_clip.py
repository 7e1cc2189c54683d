from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.privacy.clip import clip_factor, l2_norm

vectors = st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=50)


@given(vectors, st.floats(1e-3, 1e3))
def test_a_clipped_vector_is_within_its_bound(values: list[float], bound: float) -> None:
    vector = np.array(values, np.float32)
    factor = clip_factor(vector, bound)
    assert 0 < factor <= 1
    clipped = vector * np.float32(factor)
    assert math.sqrt(sum(float(v) ** 2 for v in clipped)) <= bound
    if l2_norm(vector) <= bound * (1 - 2.0**-20):
        assert factor == 1


def test_the_norm_is_summed_in_float64() -> None:
    """A float32 sum of 2^24 + 1 ones stays at 2^24."""
    assert l2_norm(np.ones(2**20 + 1, np.float32)) == math.sqrt(2**20 + 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        clip_factor(np.array([1, bad], np.float32), 1.0)
    with pytest.raises(ValueError, match="positive and finite"):
        clip_factor(np.ones(2, np.float32), bad)
    with pytest.raises(ValueError, match="positive and finite"):
        clip_factor(np.ones(2, np.float32), 0.0)
