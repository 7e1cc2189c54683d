"""What a site refuses of a model that its coordinator sends: all but finite float32 tensors of the right shapes, and
values that do not make the model they stand for."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from fedsecure.config import SparseSettings, Study, parse_study
from fedsecure.learning import sparse
from fedsecure.learning.shapes import model_schema, target_schema
from fedsecure.node.received import MODEL_SHAPE, TARGET_SHAPE, VALUES_ASTRAY, VALUES_UNASKED, require_fitting, whole
from fedsecure.packing import LARGEST, pack_model
from fedsecure.plan import schedule
from fedsecure.types import Schema
from protocols.errors import Malformed, ProtocolError, UnexpectedMessage
from protocols.messages import RoundOpen, TargetModel, model_digest

STUDY = parse_study(
    {
        "framework": "fclopt",
        "sites": [{"name": name, "weight": 2} for name in ("a", "b")],
        "security": {"secagg": False},
        "model": {"filters": 4, "hidden": 8, "features": 8},
    }
)
LAST = len(schedule(STUDY)) - 1
Arrays = dict[str, np.ndarray]


def zeros(schema: Schema) -> Arrays:
    return {spec.name: np.zeros(spec.shape, np.float32) for spec in schema}


def opening(raw: bytes, stage: int = 0) -> RoundOpen:
    return RoundOpen(stage, 0, model_digest(raw), (), (), b"", b"", raw)


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


SPARSE = STUDY.model_copy(update={"framework": "fcl", "sparse": SparseSettings(period=3)})


def renewing(study: Study = SPARSE) -> tuple[bytes, RoundOpen, bytes]:
    """The model that a site holds, an opening of round 2 with values in the model's place, and the model they make."""
    rng = np.random.default_rng(0)
    before = {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in model_schema(study, 0)}
    where = sparse.places_of(study.seed, 0, 1, sum(value.size for value in before.values()), 3)
    values = rng.standard_normal(len(where)).astype(np.float32)
    after = pack_model(sparse.renewed(before, values, where))
    return pack_model(before), RoundOpen(0, 2, model_digest(after), (), (), b"", values.tobytes(), b""), after


def test_values_in_the_models_place_make_it() -> None:
    held, message, after = renewing()
    made = whole(SPARSE, "hub", message, held)
    assert (made.model, made.values) == (after, b"")
    require_fitting(SPARSE, "hub", made)
    assert whole(SPARSE, "hub", made, held) is made


def swapped(message: RoundOpen, **changes: object) -> RoundOpen:
    return msgspec.structs.replace(message, **changes)


@pytest.mark.parametrize(
    "bend",
    [
        lambda held, message: (b"", message),
        lambda held, message: (held[:-1], message),
        lambda held, message: (pack_model({"other": np.zeros(3, np.float32)}), message),
        lambda held, message: (held, swapped(message, values=message.values[4:])),
        lambda held, message: (held, swapped(message, values=message.values[4:] + message.values[:4])),
        lambda held, message: (held, swapped(message, values=b"\xff" * len(message.values))),
        lambda held, message: (held, swapped(message, round=1)),
        lambda held, message: (held, swapped(message, stage=LAST)),
        lambda held, message: (held, swapped(message, model_digest=bytes(32))),
    ],
    ids=["holds nothing", "holds half a file", "holds another model", "fewer values", "values in another order",
         "not numbers", "of another round", "of another stage", "another digest"],
)  # fmt: skip
def test_values_that_make_another_model_are_refused(
    bend: Callable[[bytes, RoundOpen], tuple[bytes, RoundOpen]],
) -> None:
    held, message, _ = renewing()
    held, message = bend(held, message)
    with pytest.raises(UnexpectedMessage) as refused:
        whole(SPARSE, "hub", message, held)
    assert (refused.value.peer, refused.value.rule) == ("hub", VALUES_ASTRAY)


def test_values_in_a_study_whose_updates_are_whole_are_refused() -> None:
    held, message, _ = renewing()
    with pytest.raises(UnexpectedMessage) as refused:
        whole(SPARSE.model_copy(update={"sparse": SparseSettings()}), "hub", message, held)
    assert refused.value.rule == VALUES_UNASKED
