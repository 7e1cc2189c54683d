from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedsecure.config import DenseSettings, Study
from fedsecure.learning.dense import Pairs
from fedsecure.learning.fcl import FclTraining
from fedsecure.learning.job import Job
from fedsecure.learning.model import tensors_of
from fedsecure.learning.pretrain import initial
from fedsecure.learning.slices import Batch, SliceIndex
from fedsecure.learning.transforms import Strength
from fedsecure.types import Bank, Cohort, State


def _unit_bank(count: int, seed: int) -> Bank:
    vectors = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    return Bank(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), (np.arange(count) % 4).astype(np.uint8))


def _training(study: Study, *, banks: dict[str, Bank] | None = None, state: State | None = None) -> FclTraining:
    return FclTraining(Job(study, "a", 0, 0, initial(study), banks or {}, state or {}), "cpu", 0)


def _step(training: FclTraining, cohort: Cohort, seed: int = 0) -> float:
    (batch,) = SliceIndex(cohort.train, 4).batches(8, 1, stratified=True, seed=seed)
    optimiser = torch.optim.SGD(training.network.parameters(), 0.1)
    loss = training.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
    training.finish()
    return float(loss.detach())


def test_only_momentum_features_enter_the_bank(toy_study: Callable[..., Study], cohort: Cohort) -> None:
    """With m so near 1 that the momentum branch stands still, a change of the main one does not reach the bank."""
    banks = []
    for change in (0.0, 1.0):
        training = _training(toy_study(momentum=1 - 1e-12))
        with torch.no_grad():
            for value in training.network.parameters():
                value.add_(change)
        _step(training, cohort)
        banks.append(training.bank().features.tobytes())
    assert banks[0] == banks[1]


def test_bank_holds_both_views_normalised_up_to_its_size(toy_study: Callable[..., Study], cohort: Cohort) -> None:
    training = _training(toy_study(bank=20))
    _step(training, cohort)
    assert len(training.bank().partitions) == 16
    _step(training, cohort, 1)
    bank = training.bank()
    assert bank.features.shape == (20, 8)
    np.testing.assert_allclose(np.linalg.norm(bank.features, axis=1), 1, atol=1e-5)
    assert bank.features.dtype == np.float32
    assert bank.partitions.dtype == np.uint8


def test_without_any_bank_the_first_loss_is_zero_and_with_a_remote_one_it_is_not(
    toy_study: Callable[..., Study], cohort: Cohort
) -> None:
    peers = {"b": _unit_bank(64, 0)}
    assert _step(_training(toy_study(local_negatives="bank")), cohort) == 0
    assert _step(_training(toy_study(local_negatives="bank"), banks=peers), cohort) > 0
    assert _step(_training(toy_study(local_negatives="bank", exchange="none"), banks=peers), cohort) == 0


def test_with_remote_only_the_sites_own_bank_is_no_match(toy_study: Callable[..., Study], cohort: Cohort) -> None:
    """Where nothing came, L_remote is 0 in every step."""
    plain, remote = (_training(toy_study(remote_only=only, negatives=1000)) for only in (False, True))
    assert _step(plain, cohort) == _step(remote, cohort)  # the first step has no bank at all
    assert _step(plain, cohort, 1) > _step(remote, cohort, 1)
    peers = {"b": _unit_bank(64, 0)}
    heard = _training(toy_study(remote_only=True), banks=peers)
    assert _step(heard, cohort) > _step(_training(toy_study(remote_only=True)), cohort)


def _unmoved(images: torch.Tensor, _: torch.Generator, __: Strength) -> tuple[torch.Tensor, torch.Tensor]:
    """Views that are the slices themselves, and where each pixel of them was read."""
    still = torch.eye(2, 3).expand(len(images), 2, 3)
    return images, torch.nn.functional.affine_grid(still, list(images.shape), align_corners=False)


def _middle(places: torch.Tensor, pixels: int, _: torch.Generator) -> Pairs:
    """The same pixels of every slice: `pixels` from the middle on."""
    chosen = (512 + torch.arange(pixels)).expand(len(places) // 2, pixels)
    at = places[: len(chosen)].flatten(1, 2)[:, 512 : 512 + pixels]
    return Pairs(chosen, chosen, at, torch.ones_like(chosen, dtype=torch.bool))


def _gradient(training: FclTraining, batch: Batch) -> torch.Tensor:
    training.network.zero_grad()
    training.loss(batch).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in training.network.parameters() if p.grad is not None])


@pytest.mark.parametrize("exchange", ["vectors", "prototypes", "none"])
@pytest.mark.parametrize("local_negatives", ["batch", "bank"])
@pytest.mark.parametrize("draw", ["uniform", "stratified"])
@pytest.mark.parametrize("loss", ["batch", "separable", "separable with a local contrast"])
def test_only_the_separable_loss_is_a_sum_over_patients(
    loss: str, draw: str, local_negatives: str, exchange: str, toy_study: Callable[..., Study], cohort: Cohort,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The gradient of a batch against the sum of the gradients of each patient alone, in a round in which the site has
    a bank of its own from before. The plain loss fails this, though weighted as a mean: clipping a patient's gradient
    would not bound what the patient changes. Views are switched off: what is drawn for a slice hangs on its place.
    """
    monkeypatch.setattr("fedsecure.learning.fcl.located_views", _unmoved)
    loss, _, contrast = loss.partition(" ")
    dense = DenseSettings(weight=1.0 if contrast else 0.0)
    if contrast:  # every pixel that is drawn for a slice hangs on its place too
        monkeypatch.setattr("fedsecure.learning.dense.paired", _middle)
    study = toy_study(
        loss=loss, draw=draw, local_negatives=local_negatives, exchange=exchange, negatives=1000, batch=16, dense=dense
    )
    before = _training(study)
    _step(before, cohort)
    banks = {"b": _unit_bank(64, 0)}

    def gradient(batch: Batch) -> torch.Tensor:
        return _gradient(_training(study, banks=banks, state=before.state()), batch)

    (batch,) = SliceIndex(cohort.train, 4).batches(16, 1, stratified=True, seed=3)
    whole = gradient(batch)
    parts = []
    for subject in np.unique(batch.subjects):
        own = batch.subjects == subject
        share = 1.0 if loss == "separable" else own.mean()
        parts.append(share * gradient(Batch(batch.images[own], batch.partitions[own], batch.subjects[own])))
    assert len(parts) == 4
    difference = (whole - torch.stack(parts).sum(0)).norm()
    # Both are 0 where there is neither an own nor a remote feature to be a negative.
    assert (difference <= 1e-4 * whole.norm()) == (loss == "separable")


def test_the_separable_loss_looks_at_no_feature_of_the_sites_own_past(
    toy_study: Callable[..., Study], cohort: Cohort
) -> None:
    """Its queue was not released; without remote features L_local is all there is."""
    study = toy_study(loss="separable")
    used = _training(study)
    _step(used, cohort)
    kept = {name: value for name, value in used.state().items() if name.startswith("bank.")}
    assert _step(_training(study, state=kept), cohort, 1) == _step(_training(study), cohort, 1)
    heard = _training(study, banks={"b": _unit_bank(64, 0)})
    assert _step(heard, cohort) > _step(_training(study), cohort)


def test_remote_banks_stay_as_they_came(toy_study: Callable[..., Study], cohort: Cohort) -> None:
    bank = _unit_bank(64, 0)
    before = bank.features.tobytes(), bank.partitions.tobytes()
    training = _training(toy_study(), banks={"b": bank})
    for seed in range(3):
        _step(training, cohort, seed)
    assert (bank.features.tobytes(), bank.partitions.tobytes()) == before


@pytest.mark.parametrize("start", ["keep", "reset"])
def test_where_the_momentum_encoder_starts(start: str, toy_study: Callable[..., Study], cohort: Cohort) -> None:
    study = toy_study(momentum_start=start, momentum=0.5)
    first = _training(study)
    _step(first, cohort)
    _step(first, cohort, 1)
    state = first.state()
    second = _training(study, state=state)
    momentum = {name: v for name, v in second.state().items() if name.startswith("momentum.")}
    expected = state if start == "keep" else {f"momentum.{name}": v for name, v in initial(study).items()}
    assert all(value.tobytes() == expected[name].tobytes() for name, value in momentum.items())
    assert second.bank().features.tobytes() == first.bank().features.tobytes()  # the bank is kept either way


def test_momentum_encoder_follows_and_gets_no_gradient(toy_study: Callable[..., Study], cohort: Cohort) -> None:
    training = _training(toy_study(momentum=0.75), banks={"b": _unit_bank(64, 0)})
    start = tensors_of(training.network)
    _step(training, cohort)
    for name, value in tensors_of(training.network).items():
        np.testing.assert_allclose(
            training.state()[f"momentum.{name}"], 0.75 * start[name] + 0.25 * value, rtol=1e-5, atol=1e-6
        )
