"""Whole rounds of FCL in every form of exchange, and the worlds in which there is next to nothing to exchange."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fedsecure.config import Member, Study
from fedsecure.learning.job import Job
from fedsecure.learning.pretrain import initial, train_round
from fedsecure.learning.prototypes import FEDERATION, cells, clipped_sum, from_sum
from fedsecure.progress import Progress, Step
from fedsecure.types import Bank, Cohort, Flow, Update

from .conftest import subjects

FORMS = {"vectors": Flow.FEATURES, "prototypes": Flow.PROTOTYPES, "secagg-prototypes": Flow.PROTOTYPE_SUM}
EMPTY = Bank(np.zeros((0, 8), np.float32), np.zeros(0, np.uint8))
Make = Callable[..., Study]


def _train(study: Study, cohort: Cohort, round_: int = 0, **banks: Bank) -> tuple[dict[Flow, Update], list[float]]:
    told: list[Progress] = []
    job = Job(study, "a", 0, round_, initial(study), banks, {})
    result = train_round(job, cohort, "cpu", told.append)
    return {update.flow: update for update in result.updates}, [e.loss for e in told if isinstance(e, Step)]  # type: ignore[misc]


@pytest.mark.parametrize("form", FORMS)
def test_a_round_gives_what_its_form_shares_and_nothing_of_the_others(
    form: str, toy_study: Make, cohort: Cohort
) -> None:
    study = toy_study(exchange=form)
    updates, _ = _train(study, cohort)
    assert set(updates) == {Flow.WEIGHTS, FORMS[form]}
    if form != "vectors":
        assert updates[FORMS[form]].arrays["entries"].shape == (4, cells(study.pretrain), 8)
        assert set(_train(study, cohort, round_=1)[0]) == {Flow.WEIGHTS}  # the last one's would train nobody


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("loss", "draw"), [("batch", "uniform"), ("separable", "stratified")])
def test_what_others_shared_is_trained_with(form: str, loss: str, draw: str, toy_study: Make, cohort: Cohort) -> None:
    """With two partitions' prototypes only: to the others' queries they are negatives, and L_remote is 0."""
    study = toy_study(exchange=form, loss=loss, draw=draw)
    heard = from_sum(np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32), 4, 4)
    assert set(heard.partitions) == {0, 1}
    name = FEDERATION if form == "secagg-prototypes" else "b"
    alone, together = _train(study, cohort), _train(study, cohort, **{name: heard})
    assert np.isfinite(together[1]).all()
    assert together[1] != alone[1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("loss", "draw"), [("batch", "uniform"), ("separable", "stratified")])
@pytest.mark.parametrize(
    "world",
    [
        "one site", "one patient", "fewer slices than partitions", "an empty remote bank", "K larger than the bank",
        "nothing at all to exchange",
    ],
)  # fmt: skip
def test_next_to_nothing_to_learn_from_is_a_round_like_any_other(
    world: str, form: str, loss: str, draw: str, toy_study: Make, cohort: Cohort
) -> None:
    """Losses and updates are finite, and the round shares what its form shares; a site alone shares nothing."""
    settings = {"exchange": form, "loss": loss, "draw": draw, "negatives": 1000, "local_steps": 2}
    study, banks = toy_study(**settings), {"b": EMPTY} if world == "an empty remote bank" else {}
    match world:
        case "one site":
            study = study.model_copy(update={"sites": (Member(name="a", weight=4),)})
        case "one patient":
            cohort = Cohort(cohort.train[:1], cohort.held_out)
        case "fewer slices than partitions":
            cohort = Cohort(subjects(3, slices=2), cohort.held_out)
        case "K larger than the bank":
            banks = {"b": Bank(np.eye(8, dtype=np.float32)[:2], np.array([0, 3], np.uint8))}
        case "nothing at all to exchange":
            cohort = Cohort(subjects(1, slices=1), cohort.held_out)
    updates, losses = _train(study, cohort, **banks)
    assert np.isfinite(losses).all()
    arrays = [array for update in updates.values() for array in update.arrays.values()]
    assert all(np.isfinite(array).all() for array in arrays)
    shared = {FORMS[form]} if form == "vectors" or world != "one site" else set()
    assert set(updates) == {Flow.WEIGHTS} | shared
    if shared and form != "vectors":
        entries = updates[FORMS[form]].arrays["entries"]
        bank = from_sum(clipped_sum(entries, 1.0), 4, 4)  # what a reader makes of it
        assert len(bank.partitions) == (np.abs(entries).sum((0, 2)) > 0).sum()
        if world == "fewer slices than partitions":
            assert set(bank.partitions) == {0, 1}  # partitions that nobody has give no prototypes
