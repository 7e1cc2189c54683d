from __future__ import annotations

import pytest

from fedsecure.bench.dp import bench_dp


@pytest.mark.slow  # the step it times has twelve patients of many slices
def test_every_figure_is_there_and_a_time() -> None:
    found = bench_dp(0.1)
    assert set(found) == {"plain_step_s", "private_step_s", "private_noisy_step_s", "noise_s_per_million"}
    assert all(seconds > 0 for seconds in found.values())
