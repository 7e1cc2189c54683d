from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedsecure.config import DenseSettings, MaeSettings, Study
from fedsecure.learning import dispatch, fcl, fclopt
from fedsecure.learning.dense import LocalContrast, Pairs, local_terms, paired
from fedsecure.learning.fedavg import average
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.model import Branch
from fedsecure.learning.parts import DECODER, branch_of, encoder_of, start_of
from fedsecure.learning.pretrain import initial, train_round
from fedsecure.learning.target import TARGET, copied
from fedsecure.learning.transforms import LABELLED, VIEW, Strength, located_views
from fedsecure.plan import Init, has_target, keeps_decoder, schedule
from fedsecure.progress import Progress, Step, ignore
from fedsecure.types import Cohort, State, Tensors, schema_of

Studies = Callable[..., Study]
DENSE = DenseSettings(weight=1.0)
SIZE = 32
PIXEL = 2 / SIZE


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _still(count: int) -> torch.Tensor:
    """Where the pixels of `count` slices lie: [count, SIZE, SIZE, 2]."""
    unmoved = torch.eye(2, 3).expand(count, 2, 3)
    return torch.nn.functional.affine_grid(unmoved, [count, 1, SIZE, SIZE], align_corners=False)


def _opened(study: Study) -> Tensors:
    model = initial(study)
    return {**model, **copied(model)} if has_target(study, 0, 0) else model


def _round(study: Study, cohort: Cohort, round_: int = 0, state: State | None = None) -> JobResult:
    return train_round(Job(study, "a", 0, round_, _opened(study), {}, state or {}), cohort, "cpu", ignore)


def _bytes(arrays: State) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


# --- which pixels are compared ---


def test_views_that_are_the_slice_pair_every_pixel_with_itself() -> None:
    pairs = paired(_still(3).repeat(2, 1, 1, 1), 200, _generator())
    assert torch.equal(pairs.first, pairs.second)
    assert pairs.valid.all()


def test_a_shift_and_a_quarter_turn_are_found_to_the_pixel() -> None:
    still = _still(1)
    row, column = torch.arange(SIZE * SIZE) // SIZE, torch.arange(SIZE * SIZE) % SIZE
    shifted = still + torch.tensor([3 * PIXEL, 0])  # shows at column c what the slice has at c + 3
    pairs = paired(torch.cat([still, shifted]), 2000, _generator())
    first = pairs.first[0]
    inside = column[first] >= 3
    assert torch.equal(pairs.valid[0], inside)  # what the second view does not show has no partner
    assert torch.equal(pairs.second[0][inside], first[inside] - 3)
    turned = paired(torch.cat([still, still.rot90(1, (1, 2))]), 2000, _generator())
    assert turned.valid.all()
    first = turned.first[0]
    expected = (SIZE - 1 - column[first]) * SIZE + row[first]
    assert torch.equal(turned.second[0], expected)


@pytest.mark.parametrize("strength", [VIEW, LABELLED], ids=["mild", "strong"])
def test_partners_show_the_same_place_of_a_slice_whose_values_are_its_coordinates(strength: Strength) -> None:
    """Read out of the views themselves, not out of where they say that they were read."""
    moved_only = dataclasses.replace(strength, gamma=1, bias=0, noise=0)
    shown = []
    for axis in (0, 1):
        coordinates = _still(4)[..., axis][:, None].repeat(2, 1, 1, 1)
        views, places = located_views(coordinates, _generator(3), moved_only)
        shown.append(views.flatten(1))
    pairs = paired(places, 300, _generator())
    assert 0.5 < pairs.valid.float().mean() < 1
    for view in shown:
        first, second = view.chunk(2)
        apart = (first.gather(1, pairs.first) - second.gather(1, pairs.second)).abs()[pairs.valid]
        assert apart.max() < PIXEL
        assert apart.mean() < PIXEL / 2


def test_outside_of_the_slice_nothing_is_compared() -> None:
    away = _still(1) + torch.tensor([1.0, 0.0])  # half of both views is beyond the edge
    pairs = paired(away.repeat(2, 1, 1, 1), 1000, _generator())
    assert torch.equal(pairs.valid, pairs.places[..., 0] <= 1)
    assert 0.4 < pairs.valid.float().mean() < 0.6


# --- the loss ---

U = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[0.0, 1.0], [1.0, 0.0], [0.8, 0.6]]])
PLACES = torch.tensor([[-0.5, 0.0], [0.5, 0.0], [0.5, 0.1]]).expand(2, 3, 2)  # the last two are neighbours
INDEX = torch.zeros(2, 3, dtype=torch.int64)


def _term(own: float, *others: float) -> float:
    return math.log(1 + sum(math.exp(other - own) for other in others))


def test_the_loss_by_hand_with_negatives_of_the_slice() -> None:
    """tau = 1 and v = u, so that cosines are those of U; a place is its own positive, of cosine 1."""
    pairs = Pairs(INDEX, INDEX, PLACES, torch.ones(2, 3, dtype=torch.bool))
    terms = local_terms(U, U, pairs, DenseSettings(temperature=1.0, apart=0.2))
    assert terms[0].item() == pytest.approx((_term(1, 0, 0.6) + _term(1, 0) + _term(1, 0.6)) / 3)
    assert terms[1].item() == pytest.approx((_term(1, 0, 0.6) + _term(1, 0) + _term(1, 0.6)) / 3)


def test_the_loss_by_hand_in_both_directions_without_what_is_not_valid() -> None:
    valid = torch.tensor([[True, True, False], [False, False, False]])
    v = U.flip(2)  # cosines of the first slice: u0 v0 = 0, u0 v1 = 1, u1 v0 = 1, u1 v1 = 0
    terms = local_terms(U, v, Pairs(INDEX, INDEX, PLACES, valid), DenseSettings(temperature=0.5, apart=0.2))
    assert terms.tolist() == [pytest.approx(_term(0, 2)), 0.0]
    skewed = U.clone()
    skewed[0, 0] = torch.tensor([0.6, 0.8])  # l(u, v) and l(v, u) differ
    terms = local_terms(skewed, v, Pairs(INDEX, INDEX, PLACES, valid), DenseSettings(temperature=1.0, apart=0.2))
    ahead, back = _term(0.8, 0.6) + _term(0, 1), _term(0.8, 1) + _term(0, 0.6)
    assert terms[0].item() == pytest.approx((ahead + back) / 4)


def test_other_slices_are_negatives_only_where_the_study_says_so() -> None:
    pairs = Pairs(INDEX[:, :1], INDEX[:, :1], PLACES[:, :1], torch.ones(2, 1, dtype=torch.bool))
    one = DenseSettings(temperature=1.0)
    assert local_terms(U[:, :1], U[:, :1], pairs, one).tolist() == [0.0, 0.0]
    every = local_terms(U[:, :1], U[:, :1], pairs, one.model_copy(update={"negatives": "batch"}))
    assert every.tolist() == [pytest.approx(_term(1, 0))] * 2


def test_a_network_without_a_decoder_has_no_local_contrast(toy_study: Studies) -> None:
    with pytest.raises(ValueError, match="needs a network that has a decoder"):
        LocalContrast(Branch(toy_study().model), DENSE, "cpu", 0)


# --- rounds of the frameworks ---

FORMS = [
    ("fcl", {}),
    ("fcl", {"loss": "separable"}),
    ("fclopt", {}),
    ("fclopt", {"target": "naive", "distance": "none"}),
    ("fclopt", {"target": "local", "distance": "none"}),
]


@pytest.mark.parametrize(("framework", "settings"), FORMS)
def test_the_decoder_travels_is_averaged_and_has_no_target(
    framework: str, settings: dict[str, object], toy_study: Studies, cohort: Cohort
) -> None:
    study, plain = toy_study(framework, dense=DENSE, **settings), toy_study(framework, **settings)
    model, without = initial(study), initial(plain)
    beside = model.keys() - without.keys()
    assert {name.split(".")[0] for name in beside} == {"decoder", "pixels"}
    assert _bytes({name: model[name] for name in without}) == _bytes(without)  # so that arms pair
    first = _round(study, cohort)
    delta: Tensors = first.updates[0].arrays  # type: ignore[assignment]  # weights are floats
    assert schema_of(delta) == schema_of(model)
    averaged = average(model, [("a", 4, delta)])
    assert all((averaged[name] != model[name]).any() for name in beside if name.endswith(("weight", "bias")))
    for update in first.updates[1:]:
        assert not any("decoder" in name or "pixels" in name for name in update.arrays)
    assert not any("decoder" in name or "pixels" in name for name in first.state)
    second = _round(study, cohort, 1, first.state)
    again = _round(study, cohort, 1, first.state)
    assert [_bytes(update.arrays) for update in second.updates] == [_bytes(update.arrays) for update in again.updates]
    assert not any(name.startswith(TARGET + "decoder") for name in model)


@pytest.mark.parametrize("framework", ["fcl", "fclopt"])
def test_views_are_the_same_in_every_step_with_and_without(
    framework: str, toy_study: Studies, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def watched(
        images: torch.Tensor, generator: torch.Generator, strength: Strength
    ) -> tuple[torch.Tensor, torch.Tensor]:
        views, places = located_views(images, generator, strength)
        seen.append(views.numpy().tobytes())
        return views, places

    monkeypatch.setattr(fcl if framework == "fcl" else fclopt, "located_views", watched)
    for study in (toy_study(framework, dense=DENSE), toy_study(framework)):
        _round(study, cohort)
    assert len(seen) == 6
    assert seen[:3] == seen[3:]


@pytest.mark.parametrize("framework", ["fcl", "fclopt"])
def test_without_weight_its_settings_change_nothing(framework: str, toy_study: Studies, cohort: Cohort) -> None:
    off = toy_study(framework, dense=DenseSettings(weight=0.0, pixels=3, temperature=1.0, negatives="batch"))
    assert not keeps_decoder(off)
    one, other = _round(off, cohort), _round(toy_study(framework), cohort)
    assert [_bytes(update.arrays) for update in one.updates] == [_bytes(update.arrays) for update in other.updates]


def test_the_decoder_learns_where_a_pixel_is(toy_study: Studies, cohort: Cohort) -> None:
    """FCL's own loss, without a bank or negatives in it, is no part of the fall."""
    study = toy_study(dense=DenseSettings(weight=1.0, pixels=24), rounds=1, local_steps=40, exchange="none",
                      local_negatives="bank", bank=1, negatives=1, learning_rate=1e-2)  # fmt: skip
    told: list[Progress] = []
    train_round(Job(study, "a", 0, 0, initial(study), {}, {}), cohort, "cpu", told.append)
    losses = [event.loss for event in told if isinstance(event, Step) and event.loss is not None]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])


def test_a_slice_whose_views_share_no_place_adds_nothing(toy_study: Studies) -> None:
    network = Branch(toy_study().model, dense=True)
    contrast = LocalContrast(network, DENSE, "cpu", 0)
    images = torch.randn(4, 1, SIZE, SIZE, generator=_generator())
    away = torch.cat([_still(2), _still(2) + 5])
    terms = contrast.terms(network.encoder(images), away)
    assert terms.tolist() == [0.0, 0.0]
    terms.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


# --- what fine-tuning starts from ---


@pytest.mark.parametrize("framework", ["fcl", "fclopt", "mae", "fcl without", "mae without"])
def test_fine_tuning_starts_from_a_decoder_that_was_pre_trained_but_for_its_last_layer(
    framework: str, toy_study: Studies
) -> None:
    name, _, without = framework.partition(" ")
    study = toy_study(name, dense=DENSE if name != "mae" and not without else DenseSettings())
    study = study.model_copy(update={"mae": MaeSettings(keep_decoder=name == "mae" and not without)})
    assert keeps_decoder(study) is not bool(without)
    trained = {key: value + 1 for key, value in initial(study).items()}
    start = start_of(trained, keeps_decoder(study))
    stages = {stage.init: number for number, stage in enumerate(schedule(study)) if number}
    random = dispatch.initial_model(study, stages[Init.RANDOM], start)
    pretrained = dispatch.initial_model(study, stages[Init.PRETRAINED], start)
    for key, value in pretrained.items():
        kept = key.startswith("encoder.") or (key.startswith(DECODER) and not without)
        assert (value == (trained if kept else random)[key]).all(), key
    assert branch_of(trained).keys() == {key for key in trained if key.startswith(("encoder.", "projector."))}
    assert encoder_of(start) == {}  # its names are the encoder's own already
