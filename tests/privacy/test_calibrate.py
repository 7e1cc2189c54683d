from __future__ import annotations

import math

import pytest

from fedsecure.privacy.accountant import spent
from fedsecure.privacy.calibrate import multiplier_for, share_sigma, signal_to_noise
from fedsecure.privacy.events import DiscreteGaussian, Event, Gaussian, NonPrivate

DELTA = 1e-5


def of(z: float, *, sampling: float = 1.0, rounds: int = 10, discrete: bool = False) -> list[Event]:
    if not discrete:
        return [Gaussian(flow="weights", sensitivity=1.0, sigma=z, sampling=sampling, count=rounds)]
    sigma = share_sigma(z, 64.0, 6, 2)
    return [
        DiscreteGaussian(
            flow="w",
            sensitivity=64.0,
            share_sigma=sigma,
            shares=4,
            dimension=5000,
            distance=1e-36,
            sampling=sampling,
            count=rounds,
        )
    ]


@pytest.mark.parametrize(
    ("epsilon", "sampling", "rounds", "discrete", "published"),
    [
        (8.0, 1.0, 10, False, 1.90),
        (1.0, 1.0, 50, False, 26.4),
        pytest.param(8.0, 0.1, 200, False, 1.130, marks=pytest.mark.slow),
        (4.0, 0.25, 40, True, None),
        (8.0, 1.0, 10, True, None),
        (1.0, 1.0, 10, True, None),
    ],
)
def test_noise_for_an_epsilon_costs_that_epsilon_and_no_more(
    epsilon: float, sampling: float, rounds: int, discrete: bool, published: float | None
) -> None:
    def at(z: float) -> list[Event]:
        return of(z, sampling=sampling, rounds=rounds, discrete=discrete)

    z = multiplier_for(epsilon, DELTA, at)
    cost = spent(at(z), DELTA).epsilon
    assert 0.995 * epsilon < cost <= epsilon
    if published is not None:
        assert z == pytest.approx(published, rel=0.01)


def test_no_noise_is_enough_beside_a_release_without_guarantee() -> None:
    with pytest.raises(ValueError, match="no guarantee"):
        multiplier_for(8.0, DELTA, lambda z: [*of(z, discrete=True), NonPrivate(flow="features", reason="vectors")])


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_epsilon_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="finite epsilon"):
        multiplier_for(epsilon, DELTA, of)


@pytest.mark.parametrize("least", range(3, 12))
@pytest.mark.parametrize("colluders", range(3))
def test_the_sum_has_the_claimed_noise_at_every_allowed_number_of_survivors(least: int, colluders: int) -> None:
    z, sensitivity = 3.0, 40.0
    share = share_sigma(z, sensitivity, least, colluders)
    for survivors in range(least, 15):
        honest = survivors - colluders
        assert math.sqrt(honest) * share >= z * sensitivity * (1 - 1e-12)
    assert math.sqrt(least - colluders) * share == pytest.approx(z * sensitivity)


def test_no_honest_site_is_refused() -> None:
    with pytest.raises(ValueError, match="U_min - c"):
        share_sigma(1.0, 1.0, 3, 3)


def test_signal_to_noise_is_the_line_of_the_design() -> None:
    assert signal_to_noise(10, 2, 5.0, 500_000) == pytest.approx(10 / (2 * 5 * math.sqrt(500_000)))
