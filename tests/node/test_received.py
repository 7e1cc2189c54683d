"""What a site refuses of a model that its coordinator sends: all but finite float32 tensors of the right shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.numpy

from fedsecure.config import parse_study
from fedsecure.learning.shapes import model_schema, target_schema
from fedsecure.node.received import MODEL_SHAPE, TARGET_SHAPE, require_fitting
from fedsecure.packing import LARGEST
from fedsecure.plan import schedule
from fedsecure.types import Schema
from protocols.errors import Malformed, ProtocolError, UnexpectedMessage
from protocols.messages import RoundOpen, TargetModel, model_digest

STUDY = parse_study(
    {
        "framework": "fclopt",
        "sites": [{"name": name, "weight": 2} for name in ("a", "b")],
        "model": {"filters": 4, "hidden": 8, "features": 8},
    }
)
LAST = len(schedule(STUDY)) - 1
Arrays = dict[str, np.ndarray]


def zeros(schema: Schema) -> Arrays:
    return {spec.name: np.zeros(spec.shape, np.float32) for spec in schema}


def opening(raw: bytes, stage: int = 0) -> RoundOpen:
    return RoundOpen(stage, 0, model_digest(raw), (), (), b"", raw)


def sent(raw: bytes) -> TargetModel:
    return TargetModel(0, 0, model_digest(raw), raw)


def holding(value: float) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, next(iter(arrays)): np.full_like(next(iter(arrays.values())), value)}


BENT: dict[str, tuple[Callable[[Arrays], Arrays], type[ProtocolError]]] = {
    "a tensor too few": (lambda arrays: dict(list(arrays.items())[1:]), UnexpectedMessage),
    "a tensor too many": (lambda arrays: {**arrays, "more": np.zeros(1, np.float32)}, UnexpectedMessage),
    "another name": (lambda arrays: {f"x{name}": value for name, value in arrays.items()}, UnexpectedMessage),
    "as many values, in another shape": (
        lambda arrays: {name: value.reshape(1, *value.shape) for name, value in arrays.items()}, UnexpectedMessage,
    ),
    "nothing": (lambda _: {}, UnexpectedMessage),
    "float64": (lambda arrays: {name: value.astype(np.float64) for name, value in arrays.items()}, Malformed),
    "float16": (lambda arrays: {name: value.astype(np.float16) for name, value in arrays.items()}, Malformed),
    "uint8": (lambda arrays: {name: value.astype(np.uint8) for name, value in arrays.items()}, Malformed),
    "not a number": (holding(float("nan")), Malformed),
    "infinity": (holding(float("inf")), Malformed),
    "beyond any weight": (holding(LARGEST * 1.01), Malformed),
}  # fmt: skip


def test_what_the_study_has_is_taken() -> None:
    for stage in (0, LAST):
        require_fitting(STUDY, "hub", opening(safetensors.numpy.save(zeros(model_schema(STUDY, stage))), stage))
    require_fitting(STUDY, "hub", sent(safetensors.numpy.save(zeros(target_schema(STUDY)))))


@pytest.mark.parametrize("bent", BENT)
def test_everything_else_is_refused_with_peer_and_rule(bent: str) -> None:
    bend, error = BENT[bent]
    raw = safetensors.numpy.save(bend(zeros(model_schema(STUDY, 0))))
    with pytest.raises(error) as refused:
        require_fitting(STUDY, "hub", opening(raw))
    target = safetensors.numpy.save(bend(zeros(target_schema(STUDY))))
    with pytest.raises(error) as also:
        require_fitting(STUDY, "hub", sent(target))
    assert refused.value.peer == also.value.peer == "hub"
    if error is UnexpectedMessage:
        assert (refused.value.rule, also.value.rule) == (MODEL_SHAPE, TARGET_SHAPE)


def test_another_stages_model_and_bytes_that_are_none_are_refused() -> None:
    with pytest.raises(UnexpectedMessage):
        require_fitting(STUDY, "hub", opening(safetensors.numpy.save(zeros(model_schema(STUDY, 0))), LAST))
    with pytest.raises(Malformed):
        require_fitting(STUDY, "hub", opening(b"x" * 100))


def test_a_stage_that_there_is_not_is_left_to_the_machine() -> None:
    require_fitting(STUDY, "hub", opening(b"", LAST + 1))
