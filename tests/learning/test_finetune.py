from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from fedsecure.config import (
    DataSettings,
    DenseSettings,
    FinetuneSettings,
    Member,
    ModelSettings,
    SecuritySettings,
    Study,
)
from fedsecure.errors import SettingsError
from fedsecure.learning import finetune
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.model import Segmenter, build_encoder, tensors_of
from fedsecure.plan import Init, StageKind, schedule
from fedsecure.progress import Progress, Scored, Step, ignore
from fedsecure.types import Cohort, Flow, Subject, Tensors, Volume, schema_of


def _subject(number: int, *, labelled: bool = True) -> Subject:
    """A bright disc (1) in a darker ring (2) whose centre, size and noise are the patient's own; 4 slices."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:32, :32] - rng.uniform(13, 18, (2, 1, 1))
    radius = np.hypot(y, x) / rng.uniform(0.9, 1.1, (4, 1, 1))
    label = ((radius < 10).astype(np.uint8) * 2 - (radius < 5)).astype(np.uint8)
    image = np.array([-1.0, 2.0, 0.5], np.float32)[label] + 0.2 * rng.standard_normal(label.shape)
    volume = Volume(f"p{number}", 0, image.astype(np.float32), label if labelled else None, (10.0, 1.5, 1.5))
    return Subject(f"p{number}", None, (volume,))


COHORT = Cohort(tuple(_subject(i) for i in range(3)), tuple(_subject(i) for i in (10, 11)))
UNLABELLED = Cohort(tuple(_subject(i, labelled=False) for i in range(3)), COHORT.held_out)


def _study(steps: int = 60, rounds: int = 3, seed: int = 0) -> Study:
    return Study(
        seed=seed,
        sites=(Member(name="a", weight=3), Member(name="b", weight=3)),
        data=DataSettings(structures=("disc", "ring"), size=32),
        model=ModelSettings(filters=4),
        finetune=FinetuneSettings(labelled=(1, 2), steps=steps, rounds=rounds),
        security=SecuritySettings(secagg=False),
    )


def _stage(study: Study, kind: StageKind, labelled: int = 1, init: Init = Init.RANDOM) -> int:
    wanted = (kind, labelled, init)
    return next(i for i, stage in enumerate(schedule(study)) if (stage.kind, stage.labelled, stage.init) == wanted)


def _job(study: Study, kind: StageKind, round_: int, model: Tensors | None = None, site: str = "a") -> Job:
    start = finetune.initial(study, Init.RANDOM, None) if model is None else model
    return Job(study, site, _stage(study, kind), round_, start, {}, {})


def _mean_dice(events: list[Progress]) -> float:
    return float(np.mean([event.dice for event in events if isinstance(event, Scored)]))


def _weights(result: JobResult) -> Tensors:
    (update,) = result.updates
    assert update.flow is Flow.WEIGHTS
    assert result.state == {}
    return update.arrays  # type: ignore[return-value]  # weights are floats


def test_both_inits_share_the_decoder_and_the_random_encoder_is_another_than_the_pretrained() -> None:
    study = _study()
    encoder = tensors_of(build_encoder(study.model))
    random, pretrained = (
        finetune.initial(study, Init.RANDOM, encoder),
        finetune.initial(study, Init.PRETRAINED, encoder),
    )
    assert schema_of(random) == schema_of(pretrained) == schema_of(tensors_of(Segmenter(study.model, 2)))
    for name in random:
        part, inner = name.split(".", 1)
        if part == "encoder":
            np.testing.assert_array_equal(pretrained[name], encoder[inner])
        else:
            np.testing.assert_array_equal(random[name], pretrained[name])
    assert any((random[f"encoder.{name}"] != encoder[name]).any() for name in encoder)


def test_the_start_is_the_studys_seed_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(1)
    first = finetune.initial(_study(), Init.RANDOM, None)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again, other = (finetune.initial(_study(seed=seed), Init.RANDOM, None) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_a_pretrained_start_needs_an_encoder_that_fits() -> None:
    with pytest.raises(RuntimeError, match="needs the encoder"):
        finetune.initial(_study(), Init.PRETRAINED, None)
    with pytest.raises(RuntimeError, match="size mismatch"):
        finetune.initial(_study(), Init.PRETRAINED, tensors_of(build_encoder(ModelSettings(filters=8))))


@pytest.mark.parametrize("steps", [20, 60, 600])
def test_the_learning_rate_is_torchs_one_cycle(steps: int) -> None:
    settings = FinetuneSettings(steps=steps)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, steps, pct_start=finetune.WARM_UP)
    for step in range(steps):
        assert finetune.learning_rate(settings, step) == pytest.approx(cycle.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step < steps - 1:
            cycle.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_cycles_have_a_rate(steps: int) -> None:
    settings = FinetuneSettings(steps=steps)
    assert all(0 < finetune.learning_rate(settings, step) <= settings.learning_rate for step in range(steps))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_local_fine_tuning_learns(precision: Literal["float32", "bfloat16"]) -> None:
    study = _study().model_copy(update={"model": ModelSettings(filters=4, precision=precision)})
    untouched: list[Progress] = []
    finetune.evaluate(_job(study, StageKind.FEDERATED, 3), COHORT, "cpu", untouched.append)
    tuned: list[Progress] = []
    result = finetune.evaluate(_job(study, StageKind.LOCAL, 0), COHORT, "cpu", tuned.append)
    losses = [event.loss for event in tuned if isinstance(event, Step) and event.loss is not None]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert _mean_dice(untouched) < 0.4
    assert _mean_dice(tuned) > 0.8
    assert result.updates == ()
    assert len(result.pictures) == 6


def test_federated_fine_tuning_learns() -> None:
    study = _study()
    model = dict(finetune.initial(study, Init.RANDOM, None))
    for round_ in range(3):
        updates = [
            _weights(finetune.train_round(_job(study, StageKind.FEDERATED, round_, model, site), COHORT, "cpu", ignore))
            for site in ("a", "b")
        ]
        model = {name: model[name] + (updates[0][name] + updates[1][name]) / 2 for name in model}
    events: list[Progress] = []
    finetune.evaluate(_job(study, StageKind.FEDERATED, 3, model), COHORT, "cpu", events.append)
    assert _mean_dice(events) > 0.75


def test_a_round_replays_to_equal_bytes_and_no_two_rounds_draw_alike() -> None:
    study = _study(steps=12)
    model = finetune.initial(study, Init.RANDOM, None)

    def update(round_: int, site: str = "a") -> bytes:
        torch.manual_seed(round_)  # the process's own generator must not matter
        job = _job(study, StageKind.FEDERATED, round_, model, site)
        return b"".join(
            array.tobytes() for array in _weights(finetune.train_round(job, COHORT, "cpu", ignore)).values()
        )

    assert update(1) == update(1)
    assert len({update(0), update(1), update(0, "b")}) == 3


def test_all_steps_of_the_cycle_are_done_once_over_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(steps=11, rounds=3)
    done: list[int] = []
    rate = finetune.learning_rate
    monkeypatch.setattr(finetune, "learning_rate", lambda settings, step: done.append(step) or rate(settings, step))
    for round_ in range(3):
        finetune.train_round(_job(study, StageKind.FEDERATED, round_), COHORT, "cpu", ignore)
    assert done == list(range(11))


@pytest.mark.parametrize("dense", [0.0, 1.0], ids=["encoder", "encoder and decoder"])
def test_what_was_pre_trained_moves_at_its_share_of_the_rate_and_nothing_else_does(dense: float) -> None:
    """AdamW's first step is as long as the rate, whatever the gradient: of one step each, lengths compare."""
    study = _study(steps=1, rounds=1)
    settings = study.finetune.model_copy(update={"pretrained_rate": 0.25, "weight_decay": 0.0})
    pretrain = study.pretrain.model_copy(update={"dense": DenseSettings(weight=dense)})
    study = study.model_copy(update={"finetune": settings, "pretrain": pretrain})
    model = finetune.initial(study, Init.RANDOM, None)
    moved = {}
    for init in Init:
        stage = _stage(study, StageKind.FEDERATED, init=init)
        job = replace(_job(study, StageKind.FEDERATED, 0, model), stage_index=stage)
        moved[init] = _weights(finetune.train_round(job, COHORT, "cpu", ignore))
    for name in model:
        slow = name.startswith("encoder.") or (dense and name.startswith("decoder.levels."))
        longest = {init: float(np.abs(arrays[name]).max()) for init, arrays in moved.items()}
        # abs: an update is a difference of float32 weights, and loses their last bits
        assert longest[Init.PRETRAINED] == pytest.approx(
            (0.25 if slow else 1) * longest[Init.RANDOM], rel=1e-2, abs=2e-8
        ), name
    assert max(float(np.abs(array).max()) for array in moved[Init.RANDOM].values()) > 1e-4


def test_both_inits_and_modes_train_on_the_same_patients() -> None:
    study = _study()
    chosen: dict[int, set[tuple[str, ...]]] = {1: set(), 2: set()}
    for index, stage in enumerate(schedule(study)[1:], 1):
        subjects = finetune.labelled_of(Job(study, "a", index, 0, {}, {}, {}), COHORT)
        chosen[stage.labelled].add(tuple(subject.id for subject in subjects))
    ((one,), (two,)) = chosen.values()
    assert (len(one), len(two)) == (1, 2)
    assert two[:1] == one


def _after_pre_training_alone() -> tuple[Study, Tensors, Tensors]:
    """Study, the model a pre-trained stage opens with, and another encoder: the site's own."""
    study = _study(steps=6).model_copy(update={"framework": "local"})
    released = finetune.initial(study, Init.PRETRAINED, tensors_of(build_encoder(study.model)))
    return study, released, {f"encoder.{name}": value for name, value in tensors_of(build_encoder(study.model)).items()}


def test_after_pre_training_alone_a_stage_begins_from_the_sites_own_encoder() -> None:
    """Without labels nothing is trained, so that the update shows the start: own encoder, released decoder."""
    study, released, own = _after_pre_training_alone()
    stage = _stage(study, StageKind.FEDERATED, init=Init.PRETRAINED)
    first = _weights(finetune.train_round(Job(study, "a", stage, 0, released, {}, own), UNLABELLED, "cpu", ignore))
    for name, value in first.items():
        expected = own[name] - released[name] if name in own else np.zeros_like(value)
        np.testing.assert_array_equal(value, expected)
    second = _weights(finetune.train_round(Job(study, "a", stage, 1, released, {}, {}), UNLABELLED, "cpu", ignore))
    assert not any(array.any() for array in second.values())


def test_a_site_that_missed_pre_training_alone_does_not_start_from_an_untrained_encoder() -> None:
    study, released, _ = _after_pre_training_alone()
    for kind in (StageKind.LOCAL, StageKind.FEDERATED):
        job = Job(study, "a", _stage(study, kind, init=Init.PRETRAINED), 0, released, {}, {})
        with pytest.raises(SettingsError, match="has no encoder of its own"):
            (finetune.evaluate if kind is StageKind.LOCAL else finetune.train_round)(job, COHORT, "cpu", ignore)
        finetune.evaluate(replace(job, stage_index=_stage(study, StageKind.LOCAL)), UNLABELLED, "cpu", ignore)


def test_a_site_without_labels_sends_zeros_and_scores_the_model_it_got() -> None:
    study = _study(steps=6)
    model = finetune.initial(study, Init.RANDOM, None)
    update = _weights(finetune.train_round(_job(study, StageKind.FEDERATED, 0), UNLABELLED, "cpu", ignore))
    assert schema_of(update) == schema_of(model)
    assert not any(array.any() for array in update.values())
    local: list[Progress] = []
    received: list[Progress] = []
    finetune.evaluate(_job(study, StageKind.LOCAL, 0), UNLABELLED, "cpu", local.append)
    finetune.evaluate(_job(study, StageKind.FEDERATED, 3), UNLABELLED, "cpu", received.append)
    assert _mean_dice(local) == _mean_dice(received)


@pytest.mark.parametrize(("cohort", "tuned"), [(COHORT, 6), (UNLABELLED, 0)])
def test_steps_count_to_the_end_of_the_round(cohort: Cohort, tuned: int) -> None:
    events: list[Progress] = []
    finetune.evaluate(_job(_study(steps=6), StageKind.LOCAL, 0), cohort, "cpu", events.append)
    steps = [(event.done, event.total) for event in events if isinstance(event, Step)]
    assert steps == [(i + 1, tuned + 2) for i in range(tuned + 2)]
