"""The trainer's door: the process and the inline form answer alike, and no failure is silent or tells too much."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fedsecure.config import Run, Site, parse_study
from fedsecure.errors import DataError
from fedsecure.node.trainer import (
    Answer,
    Broke,
    InlineTrainer,
    PreparedModel,
    PrepareOrder,
    ProcessTrainer,
    Trainer,
    TrainOrder,
    carry_out,
)
from fedsecure.node.wiring import lay_out
from fedsecure.node.workbench import Workbench
from fedsecure.packing import unpack_model
from fedsecure.progress import Measured, Observe, Progress, Scored, Step, ignore

STUDY = parse_study(
    {
        "sites": [{"name": "a", "weight": 1}],
        "model": {"filters": 4, "hidden": 16, "features": 8},
        "data": {"size": 32},
        "pretrain": {"rounds": 1, "local_steps": 1},
        "security": {"secagg": False},
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lay_out(tmp_path, STUDY, Run(), Site(name="a", source="folder:/nowhere/PATIENT_SMITH"))
    return tmp_path


def wait(trainer: Trainer, seconds: float = 60) -> Answer:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answers := trainer.poll():
            (answer,) = answers
            return answer
        time.sleep(0.05)
    raise AssertionError("no answer")


@pytest.mark.parametrize("kind", ["inline", "process"])
def test_the_first_model_is_prepared_and_is_the_same_from_both(folder: Path, kind: str) -> None:
    trainer: Trainer = InlineTrainer(folder, ignore) if kind == "inline" else ProcessTrainer(folder)
    try:
        trainer.order(PrepareOrder(0))
        assert wait(trainer) == PreparedModel(0)
    finally:
        trainer.close()
    from fedsecure.learning.pretrain import initial

    held = unpack_model((folder / "models/prepared.safetensors").read_bytes())
    expected = initial(STUDY)
    assert set(held) == set(expected)
    assert all((held[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("kind", ["inline", "process"])
def test_unusable_data_is_an_answer_without_its_path(folder: Path, kind: str) -> None:
    trainer: Trainer = InlineTrainer(folder, ignore) if kind == "inline" else ProcessTrainer(folder)
    try:
        trainer.order(PrepareOrder(0))
        wait(trainer)
        (folder / "incoming").mkdir(exist_ok=True)
        (folder / "models/prepared.safetensors").rename(folder / "incoming/model.safetensors")
        trainer.order(TrainOrder(0, 0, ()))
        answer = wait(trainer)
    finally:
        trainer.close()
    assert isinstance(answer, Broke)
    assert "SMITH" not in answer.reason
    assert "/" not in answer.reason


def test_a_worker_that_dies_is_noticed_and_the_next_order_starts_another(folder: Path) -> None:
    trainer = ProcessTrainer(folder)
    try:
        trainer.order(PrepareOrder(0))
        wait(trainer)
        kill(trainer)  # while idle: nothing was lost, nothing is said
        assert trainer.poll() == []
        trainer.order(PrepareOrder(0))
        assert wait(trainer) == PreparedModel(0)
        trainer.order(PrepareOrder(0))
        kill(trainer)  # with an order, read or not
        answer = wait(trainer)
        assert isinstance(answer, Broke)
        assert "ended by itself" in answer.reason
        trainer.order(PrepareOrder(0))
        assert wait(trainer) == PreparedModel(0)
    finally:
        trainer.close()


def kill(trainer: ProcessTrainer) -> None:
    process = trainer._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("event", [Step, Measured, Scored])
def test_a_number_that_is_none_ends_the_round_and_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, event: type[Progress]
) -> None:
    nan = float("nan")
    broken: dict[type[Progress], Progress] = {
        Step: Step(stage=0, round=0, done=1, total=2, loss=nan),
        Measured: Measured(stage=0, round=0, metric="x", value=nan),
        Scored: Scored(stage=0, round=0, subject="s", structure="x", dice=nan),
    }

    def diverges(self: Workbench, stage: int, round_: int, banks: tuple[str, ...], observe: Observe) -> tuple[str, ...]:
        observe(Step(stage=0, round=0, done=1, total=1))  # no loss in evaluation: fine
        observe(broken[event])
        return ()

    monkeypatch.setattr(Workbench, "train", diverges)
    seen: list[Progress] = []
    answer = carry_out(Workbench(folder), TrainOrder(0, 0, ()), seen.append)
    assert isinstance(answer, Broke)
    assert "diverged" in answer.reason
    assert len(seen) == 1


def test_cancel_ends_the_worker_at_once_and_drops_its_answer(folder: Path) -> None:
    trainer = ProcessTrainer(folder)
    trainer.order(PrepareOrder(0))
    process = trainer._process
    assert process is not None
    trainer.cancel()
    assert process.poll() is not None
    assert trainer.poll() == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DataError("truncated", Path("/data/SMITH.nii.gz")), "truncated"),
        (ValueError("/data/SMITH.nii.gz is odd"), "internal error, please report it: ValueError in "),
    ],
)
def test_an_error_becomes_an_answer_that_leaks_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Workbench, "prepare", fails)
    answer = carry_out(Workbench(folder), PrepareOrder(0), ignore)
    assert isinstance(answer, Broke)
    assert answer.reason.startswith(said)
    assert "SMITH" not in answer.reason
