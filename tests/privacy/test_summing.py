"""Flows on one grid: what goes into a secure sum comes out as the sum of what the sites meant, to within rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedsecure.config import Study, parse_study
from fedsecure.privacy.summing import bound_of, grid_of, opened, quantizer
from fedsecure.types import FloatArray, Flow

WEIGHTS = {"a": 1, "b": 7, "c": 3, "d": 2, "e": 5}
LENGTHS = ((Flow.PROTOTYPE_SUM, 40), (Flow.WEIGHTS, 300))


def study(**security: Any) -> Study:
    sites = [{"name": name, "weight": weight} for name, weight in WEIGHTS.items()]
    return parse_study({"sites": sites, "security": {"secagg": True, "clip": 2.0, **security}})


def integers(of: Study, site: str, parts: list[tuple[Flow, FloatArray]], round_: int = 0) -> Any:
    fill, _ = quantizer(of, site, 0, round_, parts)
    words = np.zeros(sum(len(vector) for _, vector in parts), np.uint32)
    fill.fill(0, words)
    return words.view(np.int32).astype(np.int64)


def parts_of(site: str, scale: float) -> list[tuple[Flow, FloatArray]]:
    draw = np.random.default_rng(WEIGHTS[site])
    prototypes, weights = (draw.standard_normal(length).astype(np.float32) for _, length in LENGTHS)
    prototypes *= np.float32(0.9 * WEIGHTS[site] / np.linalg.norm(prototypes))  # at most 1 for each patient
    return [(Flow.PROTOTYPE_SUM, prototypes), (Flow.WEIGHTS, weights * np.float32(scale / np.linalg.norm(weights)))]


@pytest.mark.parametrize("ring", [20, 24, 32])
def test_the_sum_of_integers_opens_to_the_weighted_sum_of_each_flow(ring: int) -> None:
    of = study(ring=ring)
    sent = {site: parts_of(site, 1.5) for site in WEIGHTS}
    total = sum(integers(of, site, parts) for site, parts in sent.items())
    assert np.abs(total).max() < 2 ** (ring - 1)
    sums = opened(of, LENGTHS, total.astype(np.int32))
    step = grid_of(of, 340).step
    for place, (flow, _) in enumerate(LENGTHS):
        weight = WEIGHTS if flow is Flow.WEIGHTS else dict.fromkeys(WEIGHTS, 1)  # a sum over patients is weighted
        plain = sum(weight[site] * sent[site][place][1].astype(np.float64) for site in WEIGHTS)
        assert np.abs(sums[flow] - plain).max() <= len(WEIGHTS) * step * bound_of(of, flow) / 2.0 + 1e-6


def test_each_flow_is_clipped_to_its_own_bound_and_says_so() -> None:
    of = study()
    _, kept = quantizer(of, "b", 0, 0, parts_of("b", 1.9))
    assert kept == 1.0
    _, factor = quantizer(of, "b", 0, 0, parts_of("b", 8.0))
    assert factor == pytest.approx(0.25, rel=1e-4)
    clipped = integers(of, "b", parts_of("b", 8.0))[40:] * grid_of(of, 340).step / WEIGHTS["b"]
    assert np.linalg.norm(clipped) <= 2.0 * (1 + 1e-3)


def test_a_sum_that_is_made_again_has_the_same_integers_and_another_rounds_has_not() -> None:
    of, parts = study(ring=20), parts_of("c", 1.0)
    assert (integers(of, "c", parts) == integers(of, "c", parts)).all()
    assert (integers(of, "c", parts) != integers(of, "c", parts, round_=1)).any()


def test_a_value_that_is_not_finite_enters_no_sum() -> None:
    broken = np.full(300, np.nan, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        quantizer(study(), "a", 0, 0, [(Flow.WEIGHTS, broken)])
