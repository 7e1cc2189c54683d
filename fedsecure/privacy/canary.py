"""Audit of the whole path from clipping to the released sum, by canaries (Andrew et al., arXiv 2302.03098).

k random directions of the norm C that clipping allows go in as if k patients had sent them, or k sites; the cosine of
each with what comes out says how much of one of them can be seen. Under the claim (noise multiplier z = sigma/Delta)
sqrt(d) times their mean is C/sigma = C/(z Delta) at most: 1/z for a sum over patients, 1/2z for site updates, which
are charged at Delta = 2C. Of a direction that did not go in, sqrt(d) cos is N(0, 1). Ours, in place of the paper's
estimate, which is biased up at small k: the variance is that of the known null, so mu has standard error
1/sqrt(k releases), and what is reported is a lower bound.

A bound, never a proof: an audit that does not alarm has found nothing, and says nothing about sampling, which is tested
by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from fedsecure.privacy.events import Contribution, sensitivity_of
from fedsecure.privacy.gdp import epsilon_of

Integers = npt.NDArray[np.int64]
CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Audit:
    """mu: estimate of C/sigma; mu_lower: bound at `confidence`; epsilon_lower: what it comes to at delta; ceiling: the
    most that this audit could have shown; alarm: whether the bound is above what was claimed."""

    canaries: int
    releases: int
    confidence: float
    mu: float
    mu_lower: float
    epsilon_lower: float
    ceiling: float
    alarm: bool


def directions(count: int, dimension: int, seed: int) -> npt.NDArray[np.int8]:
    """[k, d] of +1 and -1: random directions of norm sqrt(d), whole numbers so that rounding changes none."""
    values = count * dimension
    drawn = np.frombuffer(np.random.default_rng(seed).bytes(-(-values // 8)), np.uint8)
    signs = np.unpackbits(drawn, count=values).view(np.int8).reshape(count, dimension)
    return signs * np.int8(2) - np.int8(1)


def audit(
    released: Callable[[Integers], Integers],
    canaries: npt.NDArray[np.int8],
    amplitude: int,
    multiplier: float,
    delta: float,
    contribution: Contribution,
    releases: int = 3,
) -> Audit:
    """Put `canaries` [k, d] times `amplitude` through a pipeline and say what can be seen of them.

    released: patients' vectors [k, d] in grid units -> the sum [d] that is released, clipping, noise and all.
    multiplier: the claimed z; contribution: of what a canary is one, which says how Delta is made of C. Of site updates
    epsilon_lower is for a patient who is left out and not turned round, which canaries do not show. The k canaries hide
    each other a little, by k/d of a variance; the bound stays one.
    """
    k, d = canaries.shape
    vectors = np.multiply(canaries, amplitude, dtype=np.int64)
    together = canaries.sum(axis=0, dtype=np.int64)  # the mean of the cosines is the cosine with the mean
    means = []
    for _ in range(releases):
        out = released(vectors).astype(np.float64)
        norm = math.sqrt(float(np.square(out).sum()))  # no product of BLAS: its threads take longer to meet than to sum
        if not math.isfinite(norm) or norm == 0:
            raise ValueError("nothing came out: a sum without noise and without canaries is no release")
        means.append(float((together * out).sum()) / (norm * k))  # sqrt(d) cos: a canary's norm is sqrt(d)
    mu = sum(means) / releases
    lower = max(0.0, mu - float(ndtri(CONFIDENCE)) / math.sqrt(k * releases))
    return Audit(
        canaries=k,
        releases=releases,
        confidence=CONFIDENCE,
        mu=mu,
        mu_lower=lower,
        epsilon_lower=epsilon_of(lower, delta),
        ceiling=epsilon_of(math.sqrt(d / k), delta),
        alarm=lower > 1 / (multiplier * sensitivity_of(contribution, 1.0)),
    )
