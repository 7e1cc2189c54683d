"""What is charged for is what is drawn: independent, at the rate claimed, and by nobody else to repeat."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedsecure.privacy.sampling import PoissonSampler

SECRET, STUDY = bytes(range(32)), bytes(32)


def draws(rate: float, patients: int, steps: int) -> np.ndarray:
    sampler = PoissonSampler(SECRET, STUDY, rate)
    taken = np.zeros((steps, patients))
    for step in range(steps):
        taken[step, sampler.draw(patients, 0, step // 100, step % 100)] = 1
    return taken


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_batch_sizes_vary_as_a_binomial_does(rate: float) -> None:
    """A batch of fixed size has variance 0, and a shuffled pass n q (1 - q) / n: neither is Poisson sampling."""
    patients, steps = 40, 3000
    sizes = draws(rate, patients, steps).sum(1)
    mean, variance = patients * rate, patients * rate * (1 - rate)
    assert sizes.mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / steps))
    assert sizes.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / steps))


def test_patients_occur_together_as_often_as_chance_says() -> None:
    rate, patients, steps = 0.3, 12, 4000
    taken = draws(rate, patients, steps)
    together = taken.T @ taken / steps
    off = together[~np.eye(patients, dtype=bool)]
    error = 5 * math.sqrt(rate**2 * (1 - rate**2) / steps)
    assert abs(off - rate**2).max() < error
    assert np.diag(together) == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / steps))
    following = (taken[:-1] * taken[1:]).mean(0)  # nor does one step tell the next
    assert abs(following - rate**2).max() < error


def test_a_replayed_step_is_the_same_draw_and_every_other_step_another() -> None:
    sampler = PoissonSampler(SECRET, STUDY, 0.5)
    first = sampler.draw(200, 1, 2, 3).tolist()
    assert PoissonSampler(SECRET, STUDY, 0.5).draw(200, 1, 2, 3).tolist() == first
    others = [sampler.draw(200, *place).tolist() for place in ((1, 2, 4), (1, 3, 3), (2, 2, 3))]
    others.append(PoissonSampler(bytes(32), STUDY, 0.5).draw(200, 1, 2, 3).tolist())
    others.append(PoissonSampler(SECRET, bytes(31) + b"\1", 0.5).draw(200, 1, 2, 3).tolist())
    assert first not in others


def test_draws_may_be_empty_and_a_rate_of_one_takes_everybody() -> None:
    few = PoissonSampler(SECRET, STUDY, 0.01)
    assert any(few.draw(3, 0, 0, step).size == 0 for step in range(5))
    assert PoissonSampler(SECRET, STUDY, 1.0).draw(5, 0, 0, 0).tolist() == [0, 1, 2, 3, 4]
    assert few.draw(0, 0, 0, 0).size == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_a_rate_that_is_no_chance_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="sampling rate"):
        PoissonSampler(SECRET, STUDY, rate)


def test_a_short_secret_is_refused_and_none_is_printed() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PoissonSampler(bytes(16), STUDY, 0.5)
    assert repr(PoissonSampler(SECRET, STUDY, 0.5)) == "PoissonSampler(rate=0.5)"
