"""The contract of `learning.method.Method`, which frameworks and baselines keep: a fair comparison rests on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any, get_args

import numpy as np
import pytest
import torch

from fedsecure.config import DenseSettings, Framework, Study
from fedsecure.learning import pretrain
from fedsecure.learning.fedavg import average
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.method import Method
from fedsecure.learning.model import build_encoder, load_tensors
from fedsecure.learning.parts import encoder_of
from fedsecure.learning.pretrain import METHODS, evaluate, initial, probe_model, train_round
from fedsecure.learning.slices import Batch, SliceIndex
from fedsecure.learning.target import copied
from fedsecure.learning.transforms import VIEW, VIEWS, Strength, located_views
from fedsecure.plan import has_target
from fedsecure.progress import Measured, Progress, Step, ignore
from fedsecure.types import Bank, Cohort, Flow, State, Subject, Tensors, schema_of

from .conftest import subjects

Studies = Callable[..., Study]
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)
BESIDE = {"fcl": [Flow.FEATURES], "fedca": [Flow.FEATURES], "fclopt": [Flow.TARGET]}  # the weights


def _opened(study: Study) -> Tensors:
    """What sites begin the first round with: the first model and, where all nodes predict one, a copy as its target."""
    model = initial(study)
    return {**model, **copied(model)} if has_target(study, 0, 0) else model


def _method(study: Study, round_: int = 0, state: State | None = None, **banks: Bank) -> Method:
    job = Job(study, "a", 0, round_, _opened(study), banks, state or {})
    return METHODS[study.framework](job, "cpu", 7)


def _batch(cohort: Cohort, seed: int = 0) -> Batch:
    return next(SliceIndex(cohort.train, 4).batches(8, 1, stratified=True, seed=seed))


def _round(study: Study, cohort: Cohort, round_: int = 0, state: State | None = None) -> JobResult:
    return train_round(Job(study, "a", 0, round_, _opened(study), {}, state or {}), cohort, "cpu", ignore)


def _bytes(result: JobResult) -> list[bytes]:
    arrays = [array for update in result.updates for array in update.arrays.values()]
    return [array.tobytes() for array in (*arrays, *result.state.values())]


def test_every_framework_of_a_study_has_a_method() -> None:
    assert tuple(METHODS) == FRAMEWORKS


def test_the_first_encoder_of_a_seed_is_the_same_for_every_method(toy_study: Studies) -> None:
    encoders = [encoder_of(initial(toy_study(framework))) for framework in FRAMEWORKS]
    for encoder in encoders:
        assert {name: value.tobytes() for name, value in encoder.items()} == {
            name: value.tobytes() for name, value in encoders[0].items()
        }


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fine_tuning_and_probe_take_the_model_as_it_is(framework: str, toy_study: Studies, cohort: Cohort) -> None:
    study = toy_study(framework)
    model = initial(study)
    load_tensors(build_encoder(study.model), encoder_of(model))
    assert all(value.dtype == np.float32 for value in model.values())
    probed = probe_model(study, model, cohort, "cpu")
    assert probed.accuracy == probe_model(toy_study(), initial(toy_study()), cohort, "cpu").accuracy
    assert 0 < probed.mean_norm <= 1 + 1e-6


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_replayed_round_gives_equal_bytes_and_another_one_does_not(
    framework: str, toy_study: Studies, cohort: Cohort
) -> None:
    study = toy_study(framework)
    first = _round(study, cohort)
    torch.manual_seed(123)
    second = _round(study, cohort, 1, first.state)
    assert _bytes(_round(study, cohort)) == _bytes(first)
    assert _bytes(_round(study, cohort, 1, first.state)) == _bytes(second)
    assert _bytes(second) != _bytes(first)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_may_leave(framework: str, toy_study: Studies, cohort: Cohort) -> None:
    study = toy_study(framework)
    flows = [Flow.WEIGHTS, *BESIDE.get(framework, [])]
    updates = _round(study, cohort).updates
    assert [update.flow for update in updates] == flows
    without = [flow for flow in flows if flow is not Flow.FEATURES]
    assert [update.flow for update in _round(toy_study(framework, exchange="none"), cohort).updates] == without
    delta: Any = updates[0].arrays
    assert schema_of(delta) == schema_of(initial(study))
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in delta.values())
    moved = {name for name, array in delta.items() if array.any()}
    average(initial(study), [("a", 4, delta)])  # what the coordinator does with it
    assert moved >= {name for name in delta if name.startswith("encoder.") and name.endswith("conv.weight")}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_gradients_reach_what_is_trained_and_nothing_else(framework: str, toy_study: Studies, cohort: Cohort) -> None:
    """Every tensor of the shared network has a gradient, or is a target, which has none and asks for none."""
    study = toy_study(framework)
    method = _method(study)
    for seed in (0, 1):  # a bank, where there is one, is empty in the first step
        method.network.zero_grad()
        method.loss(_batch(cohort, seed)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        method.finish()
    for name, value in method.network.named_parameters():
        target = name.startswith("target.")
        assert value.requires_grad is not target
        assert (value.grad is not None and bool(value.grad.abs().sum() > 0)) is not target, name
    beside = [
        value
        for module in vars(method).values()
        if isinstance(module, torch.nn.Module) and module is not method.network
        for value in module.parameters()
    ]
    assert not any(value.requires_grad or value.grad is not None for value in beside)


@pytest.mark.parametrize("strength", VIEWS)
def test_all_methods_see_the_same_batches_and_the_same_first_views(
    strength: str, toy_study: Studies, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = [toy_study(framework, views=strength) for framework in FRAMEWORKS]
    jobs = [(study, _opened(study)) for study in studies]
    seen: dict[str, list[bytes]] = {}

    class Pretender:
        """Takes the place of a framework's method, and keeps the slices that it is shown."""

        def __init__(self, job: Job, device: str, seed: int) -> None:
            self._inner = methods[job.study.framework](job, device, seed)
            self._seen = seen.setdefault(job.study.framework, [])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def loss(self, batch: Batch) -> torch.Tensor:
            self._seen.append(batch.images.tobytes())
            return self._inner.loss(batch)

    views: list[bytes] = []

    def watched(images: torch.Tensor, generator: torch.Generator, changed: Strength = VIEW) -> tuple[Any, Any]:
        assert changed is VIEWS[strength]
        both, places = located_views(images, generator, changed)
        views.append(both.numpy().tobytes())
        return both, places

    methods = dict(METHODS)
    monkeypatch.setattr(pretrain, "METHODS", dict.fromkeys(methods, Pretender))
    for module in ("fcl", "fclopt", "transforms"):
        monkeypatch.setattr(f"fedsecure.learning.{module}.located_views", watched)
    firsts = set()
    for study, model in jobs:
        views.clear()
        train_round(Job(study, "a", 0, 0, model, {}, {}), cohort, "cpu", ignore)
        assert len(views) == study.pretrain.local_steps
        firsts.add(views[0])
    assert len({tuple(batches) for batches in seen.values()}) == 1
    assert len(firsts) == 1


@pytest.mark.parametrize("world", ["one patient", "fewer slices than partitions", "one slice in all"])
@pytest.mark.parametrize(
    ("framework", "dense"), [*((framework, 0.0) for framework in FRAMEWORKS), ("fcl", 1.0), ("fclopt", 1.0)]
)
def test_next_to_nothing_to_learn_from_is_a_round_like_any_other(
    framework: str, dense: float, world: str, toy_study: Studies, cohort: Cohort
) -> None:
    """Losses and updates are finite, and the probe has an answer. test_exchange.py has FCL's own such worlds."""
    slices = {"one patient": 8, "fewer slices than partitions": 2, "one slice in all": 1}[world]
    patients = subjects(3 if world == "fewer slices than partitions" else 1, slices)
    few = Cohort(patients, cohort.held_out[:1])
    study = toy_study(framework, local_steps=2, dense=DenseSettings(weight=dense, pixels=8))
    told: list[Progress] = []
    alone = framework == "local"
    result = (evaluate if alone else train_round)(
        Job(study, "a", 0, 0, _opened(study), {}, {}), few, "cpu", told.append
    )
    losses = [event.loss for event in told if isinstance(event, Step)]
    assert losses
    assert all(loss is not None and np.isfinite(loss) for loss in losses)
    arrays = [array for update in result.updates for array in update.arrays.values()]
    assert all(np.isfinite(array).all() for array in (*arrays, *result.state.values()))
    assert 0 <= probe_model(study, initial(study), few, "cpu").accuracy <= 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_short_federation_makes_the_methods_own_loss_fall(framework: str, toy_study: Studies, cohort: Cohort) -> None:
    """Two sites, rounds and FedAvg as the nodes do them. From the second round on a loss has all its parts."""
    settings = {"rounds": 4, "local_steps": 10, "bank": 16, "negatives": 16, "momentum": 0.99, "temperature": 0.2}
    # A naive target goes with the model, which is all that is averaged here.
    study = toy_study(framework, learning_rate=3e-3, target="naive", distance="none", **settings)
    train = tuple(_with_an_upside(subject) for subject in cohort.train)
    halves = {"a": Cohort(train[:2], cohort.held_out), "b": Cohort(train[2:], cohort.held_out)}
    losses = _alone(study, halves) if framework == "local" else _federated(study, halves)
    assert fmean(losses[-1]) < 0.98 * fmean(losses[1])


def _with_an_upside(subject: Subject) -> Subject:
    """Brighter towards one edge: a disc alone looks the same after any turn."""
    volume = subject.volumes[0]
    ramp = np.linspace(-1, 1, volume.image.shape[1], dtype=np.float32)[None, :, None]
    return replace(subject, volumes=(replace(volume, image=volume.image + ramp),))


def _alone(study: Study, cohorts: dict[str, Cohort]) -> list[list[float]]:
    losses: list[list[float]] = [[] for _ in range(study.pretrain.rounds)]
    for site, cohort in cohorts.items():
        events: list[Progress] = []
        evaluate(Job(study, site, 0, 0, initial(study), {}, {}), cohort, "cpu", events.append)
        for event in events:
            if isinstance(event, Step) and event.loss is not None:
                losses[(event.done - 1) // study.pretrain.local_steps].append(event.loss)
    return losses


def _federated(study: Study, cohorts: dict[str, Cohort]) -> list[list[float]]:
    model = initial(study)
    states: dict[str, State] = {site: {} for site in cohorts}
    banks: dict[str, Bank] = {}
    losses = []
    for round_ in range(study.pretrain.rounds):
        events: list[Progress] = []
        results = {
            site: train_round(
                Job(study, site, 0, round_, model, {n: b for n, b in banks.items() if n != site}, states[site]),
                cohort,
                "cpu",
                events.append,
            )
            for site, cohort in cohorts.items()
        }
        states = {site: result.state for site, result in results.items()}
        shared: dict[str, Any] = {site: result.updates[1:] for site, result in results.items()}
        banks = {site: Bank(**of[0].arrays) for site, of in shared.items() if of}
        deltas: Any = [(site, 2, result.updates[0].arrays) for site, result in results.items()]
        model = average(model, deltas)
        losses.append([event.loss for event in events if isinstance(event, Step) and event.loss is not None])
    return losses


def test_a_site_alone_does_the_same_steps_as_rounds_without_an_average(toy_study: Studies, cohort: Cohort) -> None:
    """Its one job is the rounds in a row: each from the model that the one before ended with, at its own rate."""
    study = toy_study("local", rounds=3)
    model, state = initial(study), dict[str, Any]()
    expected: list[float] = []
    for round_ in range(3):
        events: list[Progress] = []
        result = train_round(Job(study, "a", 0, round_, model, {}, state), cohort, "cpu", events.append)
        delta: Any = result.updates[0].arrays
        model = {name: value + delta[name] for name, value in model.items()}
        expected += [event.loss for event in events if isinstance(event, Step) and event.loss is not None]
    told: list[Progress] = []
    alone = evaluate(Job(study, "a", 0, 0, initial(study), {}, {}), cohort, "cpu", told.append)
    steps = [event for event in told if isinstance(event, Step)]
    assert [(event.done, event.total) for event in steps] == [(i + 1, 9) for i in range(9)]
    np.testing.assert_allclose([event.loss for event in steps if event.loss is not None], expected, rtol=1e-4)
    assert alone.updates == ()
    assert set(alone.state) == {name for name in model if name.startswith("encoder.")}
    pictures = torch.from_numpy(_batch(cohort).images)
    together, own = build_encoder(study.model), build_encoder(study.model)
    load_tensors(together, encoder_of(model))
    load_tensors(own, encoder_of(alone.state))  # type: ignore[arg-type]  # weights are floats
    with torch.no_grad():
        torch.testing.assert_close(own(pictures)[-1], together(pictures)[-1], rtol=0.01, atol=0.01)
    measured = next(event.value for event in told if isinstance(event, Measured))
    assert measured == probe_model(study, {**model, **alone.state}, cohort, "cpu").accuracy  # type: ignore[dict-item]  # weights are floats
