from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsecure.config import (
    ConsistencySettings,
    DataSettings,
    FinetuneSettings,
    Member,
    ModelSettings,
    SecuritySettings,
    Study,
)
from fedsecure.errors import SettingsError
from fedsecure.learning import consistency, finetune
from fedsecure.learning.consistency import IGNORED, Consistency, dropped, mixed, ramped, unlabelled_loss
from fedsecure.learning.job import Job
from fedsecure.learning.labelled import Slices
from fedsecure.learning.model import Segmenter, load_tensors, tensors_of
from fedsecure.plan import Init, StageKind, schedule
from fedsecure.progress import Progress, Scored, Step, ignore
from fedsecure.types import Cohort, Subject, Tensors, schema_of

from .test_finetune import COHORT, UNLABELLED, _mean_dice, _subject, _weights

HALF = Cohort((COHORT.train[0], *UNLABELLED.train[1:]), COHORT.held_out)  # one labelled, two without labels
Capture = Callable[[], list[bytes]]


def _study(steps: int = 6, rounds: int = 2, **settings: object) -> Study:
    return Study(
        sites=(Member(name="a", weight=3), Member(name="b", weight=3)),
        data=DataSettings(structures=("disc", "ring"), size=32),
        model=ModelSettings(filters=4),
        finetune=FinetuneSettings(
            labelled=(1,), steps=steps, rounds=rounds, consistency=ConsistencySettings(**settings)  # type: ignore[arg-type]
        ),
        security=SecuritySettings(secagg=False),
    )  # fmt: skip


def _job(study: Study, kind: StageKind, round_: int = 0, model: Tensors | None = None, init: Init = Init.RANDOM) -> Job:
    stage = next(i for i, stage in enumerate(schedule(study)) if (stage.kind, stage.init) == (kind, init))
    return Job(study, "a", stage, round_, model or finetune.initial(study, Init.RANDOM, None), {}, {})


def _update(study: Study, cohort: Cohort, round_: int = 0, model: Tensors | None = None) -> dict[str, bytes]:
    job = _job(study, StageKind.FEDERATED, round_, model)
    return {n: a.tobytes() for n, a in _weights(finetune.train_round(job, cohort, "cpu", ignore)).items()}


def _segmenter(study: Study, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return Segmenter(study.model, 2)


@pytest.fixture(scope="module")
def tuned() -> Tensors:
    """A segmenter that 60 steps on labelled patients have taught enough to be sure of most pixels."""
    study = _study(steps=60)
    segmenter = Segmenter(study.model, 2)
    load_tensors(segmenter, finetune.initial(study, Init.RANDOM, None))
    finetune.tune(segmenter, _job(study, StageKind.LOCAL), COHORT.train, (), range(60), lambda _: None)
    return tensors_of(segmenter)


# --- the loss ---


def test_the_loss_by_hand() -> None:
    """Four pixels of three classes: class 1 twice, class 0 once, class 2 nowhere, one without a pseudo-label."""
    p = torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    logits = p.log().T.reshape(1, 3, 2, 2)
    labels = torch.tensor([1, 1, 0, IGNORED], dtype=torch.uint8).reshape(1, 2, 2)
    cross_entropy = -(math.log(0.7) + math.log(0.3) + math.log(0.8)) / 4
    dice_loss = 1 - 2 * (0.7 + 0.3) / ((0.7 + 0.3 + 0.1) + 2)
    assert unlabelled_loss(logits, labels).item() == pytest.approx(cross_entropy + dice_loss, abs=1e-5)
    background = torch.tensor([0, 0, 0, IGNORED], dtype=torch.uint8).reshape(1, 2, 2)
    expected = -(math.log(0.2) + math.log(0.5) + math.log(0.8)) / 4  # no structure that Dice could be of
    assert unlabelled_loss(logits, background).item() == pytest.approx(expected, abs=1e-5)
    assert unlabelled_loss(logits, torch.full((1, 2, 2), IGNORED, dtype=torch.uint8)).item() == 0


def test_pixels_without_a_pseudo_label_have_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    labels[:, :2] = IGNORED
    unlabelled_loss(logits, labels).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert logits.grad is not None
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].any()


def test_a_pixel_has_a_pseudo_label_from_the_threshold_on() -> None:
    study = _study(weight=1.0, threshold=0.6)
    segmenter = _segmenter(study)
    one = Consistency(study, segmenter, COHORT.train, 1, 0)
    weak = torch.randn(2, 1, 32, 32)
    probability = segmenter(weak).softmax(1).max(1)
    pseudo = one.pseudo_labels(weak)
    sure = probability.values >= 0.6
    assert 0 < sure.float().mean() < 1
    assert torch.equal(pseudo != IGNORED, sure)
    assert torch.equal(pseudo[sure], probability.indices[sure].to(torch.uint8))


@pytest.mark.parametrize("teacher", [0.0, 0.9])
def test_pseudo_labels_carry_no_gradient(teacher: float, tuned: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is the same where they are given as constants."""
    study = _study(weight=1.0, threshold=0.6, teacher=teacher, dropped=0.3)
    segmenter = _segmenter(study)
    load_tensors(segmenter, tuned)

    def gradient(one: Consistency) -> list[Tensor]:
        return list(torch.autograd.grad(one.loss(), list(segmenter.parameters())))

    given: list[Tensor] = []
    original = Consistency.pseudo_labels
    monkeypatch.setattr(Consistency, "pseudo_labels", lambda s, weak: given.append(original(s, weak)) or given[-1])
    first = gradient(Consistency(study, segmenter, COHORT.train, 1, 0))
    (constant,) = given
    assert (constant != IGNORED).float().mean() > 0.2
    monkeypatch.setattr(Consistency, "pseudo_labels", lambda *_: constant.clone())
    second = gradient(Consistency(study, segmenter, COHORT.train, 1, 0))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(value.any() for value in first)


def test_the_teacher_begins_as_the_model_and_follows_without_a_gradient(tuned: Tensors) -> None:
    study = _study(weight=1.0, threshold=0.6, teacher=0.75)
    segmenter = _segmenter(study)
    load_tensors(segmenter, tuned)
    one = Consistency(study, segmenter, COHORT.train, 2, 0)
    one.loss().backward()  # type: ignore[no-untyped-call]
    teacher = one._teacher
    assert teacher is not segmenter
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all((value == tuned[name]).all() for name, value in tensors_of(teacher).items())
    with torch.no_grad():
        for value in segmenter.parameters():
            value.add_(1)
    one.finish()
    for name, value in tensors_of(teacher).items():
        np.testing.assert_allclose(value, tuned[name] + 0.25, atol=1e-5)


def test_the_ramp_is_that_of_its_source() -> None:
    settings = ConsistencySettings(weight=2.0, ramp=0.5)
    expected = [2 * math.exp(-5), 2 * math.exp(-5 * 0.8**2), 2 * math.exp(-5 * 0.2**2), 2.0, 2.0]
    assert [ramped(settings, step, 10) for step in (0, 1, 4, 5, 9)] == pytest.approx(expected)
    assert ramped(ConsistencySettings(weight=2.0, ramp=0.0), 0, 10) == 2


# --- strong views ---


def test_boxes_come_out_of_the_next_slice_with_their_labels() -> None:
    n, generator = 200, torch.Generator().manual_seed(0)
    labels = torch.arange(n, dtype=torch.uint8)[:, None, None].expand(n, 32, 32)
    images = labels[:, None].float()
    both, pseudo = mixed(images, labels, 0.5, generator)
    assert torch.equal(both[:, 0], pseudo.float())
    foreign = pseudo != labels
    assert ((pseudo == labels) | (pseudo == labels.roll(1, 0))).all()
    with_box = foreign.flatten(1).any(1)
    assert 0.35 < with_box.float().mean() < 0.65
    area = foreign[with_box].float().mean((1, 2))
    assert 0 < area.min() < 0.1
    assert 0.3 < area.max() <= 0.45
    for mask in foreign[with_box][:20]:  # a rectangle, and nothing but
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
    untouched = mixed(images, labels, 0.0, generator)
    assert torch.equal(untouched[0], images)
    assert torch.equal(untouched[1], labels)


def test_dropped_channels_are_whole_and_the_rest_makes_up_for_them() -> None:
    maps = [torch.ones(8, 64, 4, 4), torch.ones(8, 128, 2, 2)]
    for thin in dropped(maps, 0.25, torch.Generator().manual_seed(0)):
        flat = thin.flatten(2)
        assert (flat == flat[:, :, :1]).all()
        assert flat.unique().tolist() == [0.0, pytest.approx(4 / 3)]
        assert (flat == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    assert dropped(maps, 0.0, torch.Generator()) is maps


# --- rounds ---


def test_without_weight_unlabelled_patients_change_nothing() -> None:
    """Neither its other settings nor who is there without a label."""
    plain = _update(_study(), HALF)
    assert _update(_study(weight=0.0, teacher=0.9, batch=3, threshold=0.0, dropped=0.5), HALF) == plain
    assert _update(_study(), Cohort((COHORT.train[0], _subject(7, labelled=False)), COHORT.held_out)) == plain


def test_labelled_batches_are_the_same_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every step of both modes, as the network sees them: what pairs two runs."""
    seen: list[bytes] = []
    draw, change = Slices.draw, finetune.augment

    def drawn(*arguments: object) -> tuple[Tensor, Tensor]:
        image, label = draw(*arguments)  # type: ignore[arg-type]
        seen.append(image.numpy().tobytes() + label.numpy().tobytes())
        return image, label

    def changed(*arguments: object) -> tuple[Tensor, Tensor]:
        image, label = change(*arguments)  # type: ignore[arg-type]
        seen.append(image.numpy().tobytes() + label.numpy().tobytes())
        return image, label

    monkeypatch.setattr(Slices, "draw", drawn)
    monkeypatch.setattr(finetune, "augment", changed)

    def batches(study: Study) -> list[bytes]:
        seen.clear()
        finetune.train_round(_job(study, StageKind.FEDERATED, 1), HALF, "cpu", ignore)
        finetune.evaluate(_job(study, StageKind.LOCAL), HALF, "cpu", ignore)
        return list(seen)

    plain = batches(_study())
    assert len(plain) == len(set(plain)) == 2 * (3 + 6)
    assert batches(_study(weight=1.0, threshold=0.0, teacher=0.5, dropped=0.2, batch=5)) == plain


def test_unlabelled_batches_depend_on_neither_init_nor_model_but_on_site_and_round(
    monkeypatch: pytest.MonkeyPatch, tuned: Tensors
) -> None:
    seen: list[bytes] = []
    view = consistency.located_views

    def watched(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        weak, places = view(images, generator)
        seen.append(weak.numpy().tobytes())
        return weak, places

    monkeypatch.setattr(consistency, "located_views", watched)
    study = _study(weight=1.0)

    def batches(**where: object) -> tuple[bytes, ...]:
        seen.clear()
        finetune.train_round(_job(study, StageKind.FEDERATED, **where), HALF, "cpu", ignore)  # type: ignore[arg-type]
        return tuple(seen)

    first = batches()
    assert len(set(first)) == 3
    assert batches(model=tuned) == first
    assert batches(init=Init.PRETRAINED) == first
    assert not set(batches(round_=1)) & set(first)


@pytest.mark.parametrize("settings", [{}, {"teacher": 0.9, "dropped": 0.2}])
def test_a_round_replays_to_equal_bytes_and_a_weight_makes_others(settings: dict[str, float], tuned: Tensors) -> None:
    study = _study(weight=1.0, **settings)
    torch.manual_seed(1)
    first = _update(study, HALF, 1, tuned)
    torch.manual_seed(2)  # the process's own generator must not matter
    assert _update(study, HALF, 1, tuned) == first
    assert _update(_study(), HALF, 1, tuned) != first
    assert _update(_study(weight=0.5, **settings), HALF, 1, tuned) != first


def test_local_fine_tuning_with_it_learns() -> None:
    study = _study(steps=60, weight=1.0, threshold=0.9)
    events: list[Progress] = []
    finetune.evaluate(_job(study, StageKind.LOCAL), HALF, "cpu", events.append)
    assert _mean_dice(events) > 0.8
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, Step) and event.loss is not None)


# --- sites without labels ---


def test_a_site_without_labels_contributes_to_federated_fine_tuning(tuned: Tensors) -> None:
    update = _update(_study(weight=1.0, ramp=0.0), UNLABELLED, 1, tuned)
    assert schema_of(tuned) == schema_of(
        {n: np.frombuffer(a, np.float32).reshape(tuned[n].shape) for n, a in update.items()}
    )
    assert any(np.frombuffer(array, np.float32).any() for array in update.values())
    assert all(np.isfinite(np.frombuffer(array, np.float32)).all() for array in update.values())
    silent = _update(_study(), UNLABELLED, 1, tuned)
    assert not any(np.frombuffer(array, np.float32).any() for array in silent.values())


def test_where_no_pixel_is_sure_such_a_site_still_sends_zeros() -> None:
    """An untrained model at the first round: not even weight decay moves it."""
    update = _update(_study(weight=1.0, ramp=0.0, threshold=0.999), UNLABELLED)
    assert not any(np.frombuffer(array, np.float32).any() for array in update.values())


def test_there_the_ramp_holds_the_learning_rate_back(tuned: Tensors) -> None:
    """AdamW's steps do not see the size of the loss: without this the first round's would be as large as any."""

    def length(**settings: float) -> float:
        update = _update(_study(steps=40, rounds=20, **settings), UNLABELLED, 0, tuned)
        return float(np.sqrt(sum(np.square(np.frombuffer(a, np.float32).astype(float)).sum() for a in update.values())))

    whole = length(weight=1.0, ramp=0.0)
    assert length(weight=1.0, ramp=1.0) == pytest.approx(whole * math.exp(-5), rel=0.2)
    assert length(weight=0.25, ramp=0.0) == pytest.approx(whole / 4, rel=0.2)
    assert length(weight=4.0, ramp=0.0) == pytest.approx(whole, rel=0.05)


def test_alone_a_site_without_labels_scores_the_model_it_got(tuned: Tensors) -> None:
    study = _study(weight=1.0, ramp=0.0)
    local: list[Progress] = []
    received: list[Progress] = []
    finetune.evaluate(_job(study, StageKind.LOCAL, 0, tuned), UNLABELLED, "cpu", local.append)
    finetune.evaluate(_job(study, StageKind.FEDERATED, 2, tuned), UNLABELLED, "cpu", received.append)
    assert _mean_dice(local) == _mean_dice(received)
    assert sum(isinstance(event, Scored) for event in local) == 4


def test_a_site_with_nobody_to_train_on_sends_zeros_and_one_labelled_patient_is_enough(tuned: Tensors) -> None:
    study = _study(weight=1.0, ramp=0.0)
    nobody = _update(study, Cohort((), COHORT.held_out), 1, tuned)
    assert not any(np.frombuffer(array, np.float32).any() for array in nobody.values())
    assert _update(study, Cohort(COHORT.train[:1], ()), 1, tuned) != nobody
    empty = (Subject("p", None, ()),)
    with pytest.raises(SettingsError, match="no volume to train on"):
        Consistency(study, _segmenter(study), empty, 1, 0)
