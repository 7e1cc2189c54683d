"""The sampler against its law: exact thresholds, moments, tails, and the privacy it is there for."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.stats import chisquare

from fedsecure.privacy.noise import LEAST_SIGMA, DiscreteGaussianTable, OsEntropy, table


class Tape:
    """Recorded entropy, played once."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def read(self, count: int) -> bytes:
        taken, self.raw = self.raw[:count], self.raw[count:]
        assert len(taken) == count
        return taken


def law(sigma: float, largest: int) -> np.ndarray:
    x = np.arange(-largest, largest + 1, dtype=np.float64)
    w = np.exp(-(x**2) / (2 * sigma**2))
    return w / w.sum()


@pytest.mark.parametrize("sigma", [3.0, 7.5, 100.0, 2000.0])
def test_moments_and_tails(sigma: float) -> None:
    n = 1_000_000
    drawn = table(sigma).draw(n, OsEntropy())
    # limits of five standard errors: a right sampler fails once in a million runs
    assert abs(drawn.mean()) < 5 * sigma / math.sqrt(n)
    assert drawn.astype(float).var() == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / n))
    fourth = ((drawn / sigma) ** 4).mean()
    assert fourth == pytest.approx(3, abs=5 * math.sqrt(96 / n))
    probabilities = law(sigma, math.ceil(13.5 * sigma))
    for deviations in (2, 3, 4):
        edge = math.floor(deviations * sigma)
        tail = 2 * probabilities[: len(probabilities) // 2 - edge].sum()
        assert (np.abs(drawn) > edge).mean() == pytest.approx(tail, abs=5 * math.sqrt(tail / n))


@pytest.mark.parametrize("sigma", [3.0, 12.0])
def test_every_value_comes_as_often_as_the_law_says(sigma: float) -> None:
    n = 1_000_000
    drawn = table(sigma).draw(n, OsEntropy())
    largest = math.floor(4 * sigma)
    expected = n * law(sigma, math.ceil(13.5 * sigma))
    middle = len(expected) // 2
    inside = slice(middle - largest, middle + largest + 1)
    counts = np.bincount(drawn[np.abs(drawn) <= largest] + largest, minlength=2 * largest + 1).astype(float)
    scaled = expected[inside] * counts.sum() / expected[inside].sum()
    assert chisquare(counts, scaled).pvalue > 1e-6


def test_the_table_inverts_the_law_at_each_of_its_thresholds() -> None:
    """Both sides of every threshold, to the last of 128 bits, through the door that draws."""
    drawer = DiscreteGaussianTable(3.0)
    thresholds = [(int(h) << 64) | low for h, low in zip(drawer._high, drawer._low, strict=True)]
    probabilities = np.diff([float(t / 2**128) for t in (0, *thresholds)])
    largest = math.ceil(13.5 * 3.0)
    np.testing.assert_allclose(probabilities, law(3.0, largest)[: len(probabilities)], atol=1e-15)
    for number, threshold in enumerate(thresholds):
        for u, above in ((threshold, True), (threshold - 1, False)):
            if u < 0:
                continue
            reached = sum(t <= u for t in thresholds)
            assert (reached > number) is above
            high, low = u >> 64, u & (2**64 - 1)
            tape = Tape(high.to_bytes(8, "little") + low.to_bytes(8, "little"))
            assert drawer.draw(1, tape)[0] == reached - largest


def test_the_law_is_symmetric_to_the_last_bits() -> None:
    drawer = DiscreteGaussianTable(5.0)
    thresholds = [(int(h) << 64) | low for h, low in zip(drawer._high, drawer._low, strict=True)]
    largest = math.ceil(13.5 * 5.0)
    for k in range(len(thresholds)):
        mirrored = 2 * largest - 1 - k
        if mirrored < len(thresholds):
            assert abs(thresholds[k] + thresholds[mirrored] - 2**128) <= 1


def test_hockey_stick_of_the_sampled_noise_is_that_of_the_gaussian_mechanism() -> None:
    """Pr[x + shift > t] - e^eps Pr[x > t], at its best t, from draws: not above delta(eps), and near it."""
    from fedsecure.privacy.gdp import delta_of

    sigma, shift, n = 10.0, 10, 2_000_000
    entropy = OsEntropy()
    present, absent = table(sigma).draw(n, entropy) + shift, table(sigma).draw(n, entropy)
    for epsilon in (0.5, 1.0, 2.0):
        best = max((present >= t).mean() - math.exp(epsilon) * (absent >= t).mean() for t in range(-10, 60))
        claimed = delta_of(shift / sigma, epsilon)
        error = 5 * math.sqrt((1 + math.exp(2 * epsilon) * 0.5) / n)
        assert claimed - 0.05 * claimed - error < best < claimed + error


@pytest.mark.parametrize(("sites", "least", "colluders"), [(5, 4, 1), (12, 8, 2), (3, 3, 1)])
def test_what_honest_sites_add_up_to_is_never_less_than_claimed(sites: int, least: int, colluders: int) -> None:
    """Drawn, not computed: the noise left when colluders have told theirs, at every number of survivors."""
    from fedsecure.privacy.calibrate import share_sigma

    z, sensitivity, n = 2.0, 20.0, 100_000
    drawer = table(share_sigma(z, sensitivity, least, colluders))
    shares = np.stack([drawer.draw(n, OsEntropy()) for _ in range(sites)])
    for survivors in range(least, sites + 1):
        deviation = shares[colluders:survivors].sum(0).std()
        assert deviation > z * sensitivity * (1 - 5 * math.sqrt(1 / (2 * n)))
        exact = z * sensitivity * math.sqrt((survivors - colluders) / (least - colluders))
        assert deviation == pytest.approx(exact, rel=0.02)


def test_a_million_draws_take_less_than_the_limit() -> None:
    drawer, entropy = table(1000.0), OsEntropy()
    drawer.draw(1000, entropy)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        drawer.draw(1_000_000, entropy)
        best = min(best, time.perf_counter() - start)
    assert best < 0.15


@pytest.mark.parametrize("sigma", [0.0, 2.99, math.nan, 2.0**17, math.inf])
def test_a_grid_too_coarse_or_too_fine_is_refused_with_what_to_change(sigma: float) -> None:
    with pytest.raises(ValueError, match="make the grid"):
        DiscreteGaussianTable(sigma)


def test_two_sources_of_the_system_never_repeat_and_say_nothing() -> None:
    one, other = OsEntropy(), OsEntropy()
    taken = {source.read(16) for source in (one, one, other, other)}
    assert len(taken) == 4
    assert repr(one) == "OsEntropy()"


@pytest.mark.parametrize("sigma", [LEAST_SIGMA, 300.0])
def test_the_distance_to_the_law_is_small_enough_for_a_study_of_any_size(sigma: float) -> None:
    draws, epsilon = 100 * 5_000 * 1_000, 10.0
    assert draws * (1 + math.exp(epsilon)) * table(sigma).distance < 1e-15
