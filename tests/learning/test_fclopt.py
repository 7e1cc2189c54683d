from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedsecure.config import ModelSettings, Study
from fedsecure.learning.fclopt import (
    Both,
    FcloptTraining,
    Online,
    byol_loss,
    centred,
    noise_pictures,
    partition_pairs,
)
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.pretrain import initial, train_round
from fedsecure.learning.target import copied, mix_of, predict
from fedsecure.plan import has_target
from fedsecure.progress import ignore
from fedsecure.types import Cohort, Flow, State

Studies = Callable[..., Study]


def _train(study: Study, cohort: Cohort, round_: int = 0, state: State | None = None) -> JobResult:
    """A round from the first model, with the first target network beside it where all nodes would have one."""
    model = initial(study)
    if has_target(study, 0, round_):
        model = {**model, **copied(model)}
    return train_round(Job(study, "a", 0, round_, model, {}, state or {}), cohort, "cpu", ignore)


def _bytes(result: JobResult) -> list[bytes]:
    arrays = [array for update in result.updates for array in update.arrays.values()]
    return [array.tobytes() for array in (*arrays, *result.state.values())]


def _unit(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def test_view_pairs_by_hand() -> None:
    # One slice: p of view 1 at 0 against z of view 2 at 60 degrees, p of view 2 at 90 against z of view 1 at 180.
    p, z = _unit(0, 90), _unit(180, 60)
    loss = byol_loss(p, z, torch.eye(1, dtype=torch.bool))
    assert loss.item() == pytest.approx((2 - 2 * 0.5) + (2 - 2 * 0), abs=1e-6)


def test_scale_of_either_side_does_not_matter() -> None:
    p, z = torch.randn(8, 5), torch.randn(8, 5)
    pairs = torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(byol_loss(p, z, pairs), byol_loss(7 * p, 0.1 * z, pairs))


def test_several_positives_are_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    p, z = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    pairs = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=torch.bool)

    def d(i: int, j: int) -> float:
        return 2 - 2 * float(torch.cosine_similarity(p[i], z[j], dim=0))

    slices = [
        ((d(0, 4) + d(3, 1)) + (d(0, 5) + d(3, 2))) / 2,
        d(1, 3) + d(4, 0),
        d(2, 3) + d(5, 0),
    ]
    assert byol_loss(p, z, pairs).item() == pytest.approx(np.mean(slices), rel=1e-5)


def test_partition_pairs_are_of_other_patients_and_never_empty() -> None:
    partitions = torch.tensor([0, 0, 0, 1, 2, 2])
    subjects = torch.tensor([0, 0, 1, 0, 0, 0])
    pairs = partition_pairs(partitions, subjects)
    expected = {(0, 2), (1, 2), (2, 0), (2, 1), (3, 3), (4, 4), (5, 5)}  # alone with itself where no other patient is
    assert {tuple(pair) for pair in pairs.nonzero().tolist()} == expected


def test_centring_leaves_no_constant_to_agree_on() -> None:
    z = torch.randn(16, 5)
    torch.testing.assert_close(centred(z + 100).mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    # A network whose predictions are one constant gains nothing from it: 2 (2 - 2 cos) is 4 on average.
    constant = torch.ones(16, 5)
    unit = torch.nn.functional.normalize(torch.cat([z[:4], -z[:4]]).repeat(2, 1), dim=1)
    assert byol_loss(constant, unit, torch.eye(8, dtype=torch.bool)).item() == pytest.approx(4, abs=1e-5)


def test_recentring_takes_the_constant_part_out_of_the_projections() -> None:
    network = Online(ModelSettings(filters=4, hidden=16, features=8))
    images = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = network(images).detach()
    network.recentre(before.mean(0), 1.0)
    after = network(images).detach()
    torch.testing.assert_close(after, before - before.mean(0))  # and nothing else of them
    network.recentre(after.mean(0) + 1, 0.25)
    torch.testing.assert_close(network(images).detach(), after - after.mean(0) / 4 - 0.25, atol=1e-5, rtol=1e-5)


def test_standardising_needs_noise_only_and_tells_untrained_slices_apart() -> None:
    torch.manual_seed(0)
    network = Online(ModelSettings(filters=4, hidden=16, features=8))
    noise = noise_pictures(64, 32).float()
    torch.testing.assert_close(noise.mean((2, 3)), torch.zeros(64, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.std((2, 3)), torch.ones(64, 1))

    def sameness(pictures: torch.Tensor) -> float:
        z = torch.nn.functional.normalize(network(pictures).detach(), dim=1)
        return float(z.mean(0).norm())

    before = sameness(noise)
    network.standardise(32)
    assert sameness(noise) < before - 0.2


def test_a_naive_target_starts_as_the_online_network_with_its_constants(toy_study: Studies) -> None:
    network = FcloptTraining.build(toy_study("fclopt", target="naive", distance="none"))
    assert isinstance(network, Both)
    noise = noise_pictures(8, 64).float()
    torch.testing.assert_close(network(noise), network.target(noise))
    assert network.projector.standardise.scale.std() > 0


@pytest.mark.parametrize(
    ("settings", "flows"),
    [
        ({}, [Flow.WEIGHTS, Flow.TARGET]),
        ({"distance": "r2"}, [Flow.WEIGHTS, Flow.TARGET, Flow.DISTANCE]),
        ({"distance": "r2", "rounds": 1}, [Flow.WEIGHTS]),  # nobody trains with the target of the last round
        ({"target": "naive", "distance": "none"}, [Flow.WEIGHTS]),
        ({"target": "local", "distance": "none"}, [Flow.WEIGHTS]),
    ],
)
def test_what_a_round_makes(settings: dict[str, object], flows: list[Flow], toy_study: Studies, cohort: Cohort) -> None:
    assert [update.flow for update in _train(toy_study("fclopt", **settings), cohort).updates] == flows


def test_a_naive_target_is_part_of_the_model_and_a_predicted_one_has_the_same_training(
    toy_study: Studies, cohort: Cohort
) -> None:
    naive = _train(toy_study("fclopt", target="naive", distance="none"), cohort).updates[0].arrays
    weights, target = (update.arrays for update in _train(toy_study("fclopt"), cohort).updates)
    assert set(weights) | set(target) == set(naive)
    assert all(naive[name].tobytes() == array.tobytes() for name, array in {**weights, **target}.items())


def test_no_round_begins_without_the_target_network_that_all_sites_have(toy_study: Studies, cohort: Cohort) -> None:
    study = toy_study("fclopt")
    for round_ in (0, 1):
        with pytest.raises(RuntimeError, match="Missing key"):
            train_round(Job(study, "a", 0, round_, initial(study), {}, {}), cohort, "cpu", ignore)


def test_the_distance_is_that_of_the_sites_own_target_and_rounded_up(toy_study: Studies, cohort: Cohort) -> None:
    study = toy_study("fclopt", distance="r2")
    model = initial(study)
    held = copied(model)
    weights, target, distance = (update.arrays for update in _train(study, cohort).updates)
    end = {name: model[name] + weights[name] for name in model}
    predicted = predict(mix_of(study.pretrain), held, model, end)
    error = math.sqrt(sum(float(np.square(held[n] + target[n] - predicted[n]).sum(dtype=float)) for n in held))
    (value,) = distance["distance"]
    assert value == pytest.approx(error, rel=1e-3)
    assert value > 0


def test_a_local_target_begins_as_a_copy_and_goes_on_where_the_sites_own_ended(
    toy_study: Studies, cohort: Cohort
) -> None:
    study = toy_study("fclopt", target="local", distance="none")
    first = _train(study, cohort)
    assert set(first.state) == set(copied(initial(study)))
    assert first.updates[0].arrays.keys() == initial(study).keys()
    assert _bytes(_train(study, cohort, state=copied(initial(study)))) == _bytes(first)
    assert _bytes(_train(study, cohort, 1, first.state)) != _bytes(_train(study, cohort, 1))
