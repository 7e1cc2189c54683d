from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fedsecure.config import (
    DataSettings,
    FinetuneSettings,
    Member,
    ModelSettings,
    PretrainSettings,
    SecuritySettings,
    Study,
)
from fedsecure.learning import dispatch, finetune, pretrain
from fedsecure.learning.job import Job
from fedsecure.learning.parts import encoder_of
from fedsecure.plan import Init, StageKind, schedule
from fedsecure.progress import Progress, Scored, Step, ignore
from fedsecure.types import Cohort, Flow, Subject, Volume, schema_of


@pytest.fixture(autouse=True)
def _process_settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


def _subject(number: int) -> Subject:
    rng = np.random.default_rng(number)
    image = rng.standard_normal((4, 32, 32)).astype(np.float32)
    return Subject(
        f"p{number}", None, (Volume(f"p{number}", 0, image, (image > 1).astype(np.uint8), (10.0, 1.5, 1.5)),)
    )


COHORT = Cohort((_subject(0), _subject(1)), (_subject(2),))
STUDY = Study(
    sites=(Member(name="a", weight=2),),
    security=SecuritySettings(secagg=False),
    threads=1,
    neighbours=3,
    data=DataSettings(structures=("bright",), size=32),
    model=ModelSettings(filters=4, hidden=8, features=8),
    pretrain=PretrainSettings(rounds=1, local_steps=1, batch=4, bank=8, negatives=4),
    finetune=FinetuneSettings(labelled=(1,), steps=2, rounds=2, batch=2),
)


def _job(stage_index: int, round_: int) -> Job:
    model = dispatch.initial_model(STUDY, 0, None)
    if stage_index:
        model = dispatch.initial_model(STUDY, stage_index, encoder_of(model))
    return Job(STUDY, "a", stage_index, round_, model, {}, {})


@pytest.mark.parametrize("stage_index", range(len(schedule(STUDY))), ids=[stage.name for stage in schedule(STUDY)])
def test_every_stage_trains_its_rounds_and_then_measures(stage_index: int) -> None:
    stage = schedule(STUDY)[stage_index]
    for round_ in range(stage.rounds + 1):
        events: list[Progress] = []
        job = _job(stage_index, round_)
        result = dispatch.run(job, COHORT, "cpu", events.append)
        flows = [update.flow for update in result.updates]
        ends = round_ == stage.rounds
        assert (Flow.WEIGHTS in flows) is not ends
        if not ends:
            assert schema_of(result.updates[0].arrays) == schema_of(job.model)
        trains = not ends or stage.kind is StageKind.LOCAL
        assert any(isinstance(event, Step) and event.loss is not None for event in events) is trains
        scores = ends and stage.kind is not StageKind.PRETRAIN
        assert any(isinstance(event, Scored) for event in events) is scores
        assert all((event.stage, event.round) == (stage_index, round_) for event in events)


def test_the_first_model_is_the_stages_own() -> None:
    first = dispatch.initial_model(STUDY, 0, None)
    assert first.keys() == pretrain.initial(STUDY).keys()
    encoder = encoder_of(first)
    for index, stage in enumerate(schedule(STUDY)[1:], 1):
        expected = finetune.initial(STUDY, stage.init, encoder)
        actual = dispatch.initial_model(STUDY, index, encoder)
        assert all((actual[name] == expected[name]).all() for name in expected)
        assert all((actual[f"encoder.{name}"] == encoder[name]).all() for name in encoder) is (
            stage.init is Init.PRETRAINED
        )


def test_after_pre_training_alone_the_untrained_encoder_keeps_the_place_of_each_sites_own() -> None:
    alone = STUDY.model_copy(update={"framework": "local"})
    untrained = encoder_of(dispatch.initial_model(alone, 0, None))
    pretrained = next(i for i, stage in enumerate(schedule(alone)) if i and stage.init is Init.PRETRAINED)
    released = encoder_of(dispatch.initial_model(alone, pretrained, None))
    assert {name: value.tobytes() for name, value in released.items()} == {
        name: value.tobytes() for name, value in untrained.items()
    }


def test_the_process_is_set_up_as_the_study_says() -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(mode=False)
    dispatch.run(_job(1, 0), COHORT, "cpu", ignore)
    assert torch.get_num_threads() == STUDY.threads
    assert torch.are_deterministic_algorithms_enabled()
