"""Closed form of the Gaussian mechanism (Dong, Roth and Su, arXiv 1905.02383), and what an epsilon means.

A composition of Gaussian mechanisms with multipliers z_i is exactly one with mu = sqrt(sum 1 / z_i^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri


def delta_of(mu: float, epsilon: float) -> float:
    """delta(epsilon) = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2); 0 where it is below 1e-300."""
    if mu == 0:
        return 0.0
    first = log_ndtr(-epsilon / mu + mu / 2)
    second = epsilon + log_ndtr(-epsilon / mu - mu / 2)
    # In logarithms: both terms can lie far below what a difference of floats resolves.
    return float(np.exp(first) * -np.expm1(min(0.0, second - first)))


def epsilon_of(mu: float, delta: float) -> float:
    """The least epsilon at which mu-GDP is (epsilon, delta)-DP. Infinite for infinite mu."""
    if math.isinf(mu):
        return math.inf
    if mu == 0 or delta_of(mu, 0.0) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1  # the bound of zCDP, rho = mu^2/2
    return float(brentq(lambda epsilon: delta_of(mu, epsilon) - delta, 0.0, high, xtol=1e-12, rtol=1e-12))


def mu_of(epsilon: float, delta: float) -> float:
    """Inverse of `epsilon_of` in mu. Infinite for infinite epsilon."""
    if math.isinf(epsilon):
        return math.inf
    high = 1.0
    while delta_of(high, epsilon) < delta:
        high *= 2
    return float(brentq(lambda mu: delta_of(mu, epsilon) - delta, 0.0, high, xtol=1e-12, rtol=1e-12))


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the best attacker there can be does against mu-GDP, who knows all but whether one patient took part."""

    mu: float
    advantage: float  # true less false positive rate, at best
    auc: float
    tpr_at_1_percent: float  # true positive rate at a false positive rate of 1 %
    tpr_at_01_percent: float
    naming_1_of_500: float  # at most, of naming the one of 500 equally likely patients; guessing is .002


def meaning(mu: float) -> Meaning:
    """Privacy loss in words a reader can picture; exact for Gaussian mechanisms."""
    if math.isinf(mu):
        return Meaning(mu, 1.0, 1.0, 1.0, 1.0, 1.0)
    return Meaning(
        mu=mu,
        advantage=float(2 * ndtr(mu / 2) - 1),
        auc=float(ndtr(mu / math.sqrt(2))),
        tpr_at_1_percent=float(ndtr(ndtri(0.01) + mu)),
        tpr_at_01_percent=float(ndtr(ndtri(0.001) + mu)),
        # Success against a uniform prior is at most the true positive rate at the guess's rate as false positives
        # (Hayes, Mahloujifar and Balle, arXiv 2302.07225).
        naming_1_of_500=float(ndtr(ndtri(1 / 500) + mu)),
    )
