from __future__ import annotations

import math

import numpy as np
import pytest

from fedsecure.privacy.accountant import spent
from fedsecure.privacy.events import Contribution, NonPrivate, read_alone
from fedsecure.privacy.mechanism import Bounded, Mechanism, statement
from fedsecure.privacy.noise import OsEntropy

D, BOUND = 400, 64.0


def mechanism(contribution: Contribution = Contribution.SITE_UPDATE, **changed: object) -> Mechanism:
    settings: dict[str, object] = {"multiplier": 2.0, "least": 4, "colluders": 1, "dimension": D} | changed
    return Mechanism("weights", contribution, BOUND, **settings)  # type: ignore[arg-type]


def bounded(values: np.ndarray, contribution: Contribution = Contribution.SITE_UPDATE, **changed: object) -> Bounded:
    settings: dict[str, object] = {"bound": BOUND} | changed
    return Bounded(values.astype(np.int64), contribution=contribution, **settings)  # type: ignore[arg-type]


def one(value: int) -> np.ndarray:
    return np.eye(1, D, 0)[0] * value


@pytest.mark.parametrize(
    ("contribution", "sensitivity"),
    [(Contribution.SITE_UPDATE, 2 * BOUND), (Contribution.PATIENT_SUM, BOUND), (Contribution.PROTOTYPES, BOUND)],
)
def test_the_event_is_the_noise_that_is_in_the_sum(contribution: Contribution, sensitivity: float) -> None:
    made = mechanism(contribution)
    out = [made.apply(bounded(np.zeros(D), contribution)) for _ in range(3 * 60)]
    sums = np.stack([sum(out[i + j].values for j in range(3)) for i in range(0, 180, 3)])
    assert made.event.sensitivity == sensitivity
    assert made.event.multiplier == pytest.approx(2.0)
    assert sums.std() == pytest.approx(2.0 * sensitivity, rel=5 / math.sqrt(2 * sums.size))


def test_what_is_inside_stays_inside_the_noise() -> None:
    made = mechanism()
    values = one(60)
    out = np.stack([made.apply(bounded(values)).values for _ in range(300)])
    assert out[:, 0].mean() == pytest.approx(60, abs=5 * made.event.share_sigma / math.sqrt(300))


def test_an_empty_draw_is_noise_like_any_other() -> None:
    made = mechanism(Contribution.PATIENT_SUM, sampling=0.1)
    out = made.apply(bounded(np.zeros(D), Contribution.PATIENT_SUM, patients=0))
    assert out.values.std() == pytest.approx(made.event.share_sigma, rel=0.25)
    assert out.event == made.event


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (bounded(one(65)), "larger than its bound"),
        (bounded(np.full(D, 2**40)), "larger than its bound"),
        (bounded(one(65), patients=50), "larger than its bound"),  # a site's update is one vector, of any number
        (bounded(one(1), bound=65.0), "by more"),
        (bounded(one(1), bound=math.nan), "by more"),
        (bounded(one(1), bound=-1.0), "larger than its bound"),
        (bounded(one(1), Contribution.PATIENT_SUM), "another way"),
        (bounded(np.zeros(D - 1)), "not 400 integers"),
        (Bounded(np.zeros(D), BOUND, Contribution.SITE_UPDATE), "not 400 integers"),  # type: ignore[arg-type]
    ],
)
def test_a_vector_it_was_not_made_for_is_refused(wrong: Bounded, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mechanism().apply(wrong)


@pytest.mark.parametrize(("value", "patients"), [(129, 2), (1, 0), (1, -1)])
def test_a_sum_larger_than_its_patients_can_make_it_is_refused(value: int, patients: int) -> None:
    made = mechanism(Contribution.PATIENT_SUM)
    made.apply(bounded(one(128), Contribution.PATIENT_SUM, patients=2))
    with pytest.raises(ValueError, match="larger than its bound"):
        made.apply(bounded(one(value), Contribution.PATIENT_SUM, patients=patients))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"least": 1}, "U_min - c"),
        ({"multiplier": 0.01}, "finer"),
        ({"multiplier": 1e6}, "coarser"),
        ({"sampling": 0.5}, "sums over patients"),
        ({"dimension": 0}, "no coordinate"),
    ],
)
def test_a_mechanism_without_a_guarantee_is_not_made(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mechanism(**changed)


def test_a_recorded_tape_prints_no_epsilon() -> None:
    class Tape:
        def read(self, count: int) -> bytes:
            return (bytes(range(256)) * (count // 256 + 1))[:count]

    out = mechanism().apply(bounded(one(1)), Tape())
    assert isinstance(out.event, NonPrivate)
    assert statement(*[spent([out.event], 1e-6)] * 2, "weights").startswith("No guarantee")


def test_the_statement_says_whom_it_holds_for() -> None:
    """And against whom: a third of the noise hides a site's release from nobody who reads it by itself."""
    event = mechanism().event
    summed, alone = spent([event], 1e-6), spent(read_alone([event]), 1e-6)
    said = statement(summed, alone, "weights")
    for part in ("any one patient", "zero-out", "whoever sees nothing but sums", "U_min - c = 3"):
        assert part in said
    assert "anybody" not in said
    assert alone.mu == pytest.approx(math.sqrt(3) * (summed.mu or 0))
    assert f"epsilon = {summed.epsilon:.3g} at" in said
    assert f"as the coordinator does without secure aggregation, it is epsilon = {alone.epsilon:.3g}" in said


def test_a_release_with_all_its_noise_hides_from_anybody() -> None:
    event = mechanism(least=1, colluders=0).event
    summed, alone = spent([event], 1e-6), spent(read_alone([event]), 1e-6)
    assert alone == summed
    assert "what anybody can learn" in statement(summed, alone, "weights")
    assert "coordinator" not in statement(summed, alone, "weights")


def test_values_do_not_print() -> None:
    out = mechanism().apply(bounded(one(7)), None)
    assert "values" not in repr(out)
    assert repr(bounded(one(7))) == "Bounded(site-update, bound=64.0)"
    assert OsEntropy().read(0) == b""
