"""Flows on one grid: what goes into a secure sum comes out as the sum of what the sites meant, to within rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedsecure.config import Study, parse_study
from fedsecure.privacy.quantize import Grid
from fedsecure.privacy.rotate import reach_factor, unrotate_in_place
from fedsecure.privacy.summing import bound_of, grid_of, opened, quantizer, rotation_seed
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


def grid(of: Study) -> Grid:
    return grid_of(of, [length for _, length in LENGTHS])


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("ring", [16, 20, 24, 32])
def test_the_sum_of_integers_opens_to_the_weighted_sum_of_each_flow(ring: int, rotation: bool) -> None:
    of = study(ring=ring, rotation=rotation)
    sent = {site: parts_of(site, 1.5) for site in WEIGHTS}
    total = sum(integers(of, site, parts) for site, parts in sent.items())
    assert np.abs(total).max() < 2 ** (ring - 1)
    sums = opened(of, 0, 0, LENGTHS, total.astype(np.int32))
    # A coordinate is off by a step of each site; turned back, all of them can meet in one.
    off = len(WEIGHTS) * grid(of).step * (math.sqrt(340) if rotation else 1.0)
    for place, (flow, _) in enumerate(LENGTHS):
        weight = WEIGHTS if flow is Flow.WEIGHTS else dict.fromkeys(WEIGHTS, 1)  # a sum over patients is weighted
        plain = sum(weight[site] * sent[site][place][1].astype(np.float64) for site in WEIGHTS)
        assert np.abs(sums[flow] - plain).max() <= off * bound_of(of, flow) / 2.0 + 1e-5


def test_each_flow_is_clipped_to_its_own_bound_and_says_so() -> None:
    of = study(rotation=False)
    _, kept = quantizer(of, "b", 0, 0, parts_of("b", 1.9))
    assert kept == 1.0
    _, factor = quantizer(of, "b", 0, 0, parts_of("b", 8.0))
    assert factor == pytest.approx(0.25, rel=1e-4)
    clipped = integers(of, "b", parts_of("b", 8.0))[40:] * grid(of).step / WEIGHTS["b"]
    assert np.linalg.norm(clipped) <= 2.0 * (1 + 1e-3)


def test_a_sum_that_is_made_again_has_the_same_integers_and_another_rounds_has_not() -> None:
    of, parts = study(ring=20), parts_of("c", 1.0)
    assert (integers(of, "c", parts) == integers(of, "c", parts)).all()
    assert (integers(of, "c", parts) != integers(of, "c", parts, round_=1)).any()


def test_rotation_makes_the_grid_finer_and_the_mean_nearer() -> None:
    """By the reach's factor: of one flow of 2^16 values 28, and so of a vector that is all in one coordinate."""
    vector = np.zeros(1 << 16, np.float32)
    vector[17] = 1.9
    lengths, errors, steps = [(Flow.WEIGHTS, len(vector))], [], []
    for rotation in (False, True):
        of = study(rotation=rotation)
        total = sum(integers(of, site, [(Flow.WEIGHTS, vector)]) for site in WEIGHTS)
        mean = opened(of, 0, 0, lengths, total.astype(np.int32))[Flow.WEIGHTS] / sum(WEIGHTS.values())
        errors.append(np.linalg.norm(mean - vector))
        steps.append(grid_of(of, [len(vector)]).step)
    assert steps[0] / steps[1] == pytest.approx(1 / reach_factor(1 << 16, 40), rel=1e-3)
    assert steps[0] / steps[1] > 28
    assert errors[1] <= 1.01 * grid_of(of, [1 << 16]).mean_error(list(WEIGHTS.values())) * 2**8


def test_a_turned_vector_that_is_beyond_the_grid_is_scaled_down_and_says_so() -> None:
    """One that somebody made for the round's signs: all sites' turn it into a single coordinate."""
    of = study()
    vector = np.zeros(1 << 16, np.float32)
    vector[5] = 2.0
    unrotate_in_place(vector, rotation_seed(of, 0, 0))
    _, factor = quantizer(of, "b", 0, 0, [(Flow.WEIGHTS, vector)])
    assert factor == pytest.approx(reach_factor(1 << 16, 40), rel=1e-3)
    sent = integers(of, "b", [(Flow.WEIGHTS, vector)])
    assert np.abs(sent).max() <= grid_of(of, [1 << 16]).largest(WEIGHTS["b"])
    assert quantizer(of, "b", 0, 1, [(Flow.WEIGHTS, vector)])[1] == pytest.approx(1.0)  # of another round's signs


def test_all_sites_of_a_round_turn_alike_and_rounds_do_not() -> None:
    of = study()
    assert rotation_seed(of, 0, 0) == rotation_seed(study(), 0, 0)
    others = [rotation_seed(of, 1, 0), rotation_seed(of, 0, 1), rotation_seed(study(ring=24), 0, 0)]
    assert len({rotation_seed(of, 0, 0), *others}) == 4


def test_a_value_that_is_not_finite_enters_no_sum() -> None:
    broken = np.full(300, np.nan, np.float32)
    with pytest.raises(ValueError, match="not finite"):
        quantizer(study(), "a", 0, 0, [(Flow.WEIGHTS, broken)])
