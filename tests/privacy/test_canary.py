"""The audit audited: quiet at the claimed noise, loud where noise or clipping is not what was claimed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fedsecure.privacy.canary import Audit, audit, directions
from fedsecure.privacy.events import Contribution
from fedsecure.privacy.mechanism import Bounded, Mechanism

D, K, DELTA, AMPLITUDE = 20_000, 300, 1e-6, 4
CLIP = AMPLITUDE * math.sqrt(D)  # grid units
SITES, LEAST, COLLUDERS = 6, 5, 1
Z = 4.3


class Tape:
    """Recorded entropy, so that an audit of a given seed alarms always or never; that noise is right is test_noise."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def read(self, count: int) -> bytes:
        return self._generator.bytes(count)


def of_sites(multiplier: float, sites: int) -> Callable[[np.ndarray], np.ndarray]:
    """Each canary is the whole update of a site that tells its noise; `sites` others send nothing, with their share."""
    made = Mechanism("weights", Contribution.SITE_UPDATE, CLIP, D, multiplier, least=LEAST, colluders=COLLUDERS)
    tape = Tape(0)
    nothing = Bounded(np.zeros(D, np.int64), CLIP, Contribution.SITE_UPDATE)

    def released(vectors: np.ndarray) -> np.ndarray:
        assert float(np.linalg.norm(vectors[0])) <= CLIP
        return sum((made.apply(nothing, tape).values for _ in range(sites)), vectors.sum(0))

    return released


def pipeline(multiplier: float, sites: int = SITES, clip: float = CLIP) -> Callable[[np.ndarray], np.ndarray]:
    """Per-patient clipping, then each site's mechanism on its own patients, then the sum."""
    made = Mechanism("weights", Contribution.PATIENT_SUM, CLIP, D, multiplier, least=LEAST, colluders=COLLUDERS)
    tape = Tape(0)

    def released(vectors: np.ndarray) -> np.ndarray:
        norms = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
        over = norms > clip
        clipped = vectors.copy() if over.any() else vectors
        clipped[over] = np.trunc(vectors[over] * (clip / norms[over, None])).astype(np.int64)
        total = np.zeros(D, np.int64)
        for site in range(SITES):
            own = clipped[site::SITES]
            bounded = Bounded(own.sum(0), CLIP, Contribution.PATIENT_SUM, patients=K)
            total += made.apply(bounded, tape).values if site < sites else bounded.values
        return total

    return released


def run(
    seed: int,
    claimed: float,
    released: Callable[[np.ndarray], np.ndarray],
    scale: int = 1,
    contribution: Contribution = Contribution.PATIENT_SUM,
) -> Audit:
    return audit(released, directions(K, D, seed), AMPLITUDE * scale, claimed, DELTA, contribution)


def test_the_estimate_is_what_was_claimed_and_the_bound_below_it() -> None:
    found = run(0, 1.0, pipeline(1.0, LEAST - COLLUDERS))
    assert found.mu == pytest.approx(1 / math.sqrt(1 + K / D), abs=5 / math.sqrt(3 * K))
    assert 0 < found.mu_lower < found.mu
    assert 0 < found.epsilon_lower < found.ceiling
    assert not found.alarm


@pytest.mark.parametrize(
    ("noise", "sites", "alarm"),
    [
        (Z, SITES, False),  # all there
        (Z, LEAST, False),  # one site's noise is missing, as the study allows
        (Z, LEAST - COLLUDERS, False),  # and the colluders told theirs: the claim itself
        (Z, 0, True),  # no noise at all
        (0.45 * Z, LEAST - COLLUDERS, True),
    ],
)
def test_what_the_study_allows_is_quiet_and_less_than_half_is_loud(noise: float, sites: int, alarm: bool) -> None:
    assert run(1, Z, pipeline(noise, sites)).alarm is alarm


def test_canaries_of_ten_times_the_bound_find_clipping_that_is_off() -> None:
    honest = pipeline(Z, LEAST - COLLUDERS)
    off = pipeline(Z, LEAST - COLLUDERS, clip=math.inf)
    assert not run(2, Z, honest, scale=10).alarm
    assert run(2, Z, off, scale=10).alarm
    assert not run(2, Z, off).alarm  # canaries within the bound see nothing of it


def test_a_release_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing came out"):
        run(3, Z, lambda vectors: np.zeros(D, np.int64))


def test_a_site_update_is_held_against_half_of_one_over_z() -> None:
    """z is sigma / 2C there, and a canary has norm C: held against 1/z, half of the noise would not be missed."""
    honest, whole = LEAST - COLLUDERS, Contribution.SITE_UPDATE
    quiet = run(4, Z / 2, of_sites(Z / 2, honest), contribution=whole)
    assert quiet.mu == pytest.approx(1 / Z, abs=5 / math.sqrt(3 * K))
    assert not quiet.alarm
    assert run(4, Z / 2, of_sites(Z / 4, honest), contribution=whole).alarm


@pytest.mark.slow
def test_of_a_hundred_audits_at_most_five_alarm_at_the_claim_and_ninety_nine_at_half() -> None:
    claimed, half = pipeline(Z, LEAST - COLLUDERS), pipeline(Z / 2, LEAST - COLLUDERS)
    assert sum(run(seed, Z, claimed).alarm for seed in range(100)) <= 5
    assert sum(run(seed, Z, half).alarm for seed in range(100)) >= 99


@pytest.mark.slow
def test_of_a_hundred_audits_of_site_updates_at_most_five_alarm_at_the_claim_and_ninety_nine_at_half() -> None:
    z, honest = Z / 2, LEAST - COLLUDERS  # sigma = 4.3 C, as above
    claimed, half = of_sites(z, honest), of_sites(z / 2, honest)
    assert sum(run(seed, z, claimed, contribution=Contribution.SITE_UPDATE).alarm for seed in range(100)) <= 5
    assert sum(run(seed, z, half, contribution=Contribution.SITE_UPDATE).alarm for seed in range(100)) >= 99
