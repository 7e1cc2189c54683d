"""How a site comes by a round's target network: held, predicted, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedsecure.config import parse_study
from fedsecure.learning.target import copied, digest, mix_of, predict
from fedsecure.node.site_target import MODEL_BEFORE, TARGET_BEFORE, find_target, keep_model, keep_target
from fedsecure.node.store import Store
from fedsecure.node.workbench import MODEL, TARGET
from fedsecure.packing import pack_model
from fedsecure.types import Tensors
from protocols.messages import RoundOpen, TargetRef, model_digest

STUDY = parse_study({"framework": "fclopt"})
MOVING = parse_study({"framework": "fclopt", "pretrain": {"target": "extrapolate"}})


def online(value: float) -> Tensors:
    return {"encoder.a": np.full(3, value, np.float32), "predictor.a": np.full(2, value, np.float32)}


def opening(round_: int, model: Tensors, announces: bool = True) -> RoundOpen:
    raw = pack_model(model)
    target = (TargetRef(bytes(32), False, False),) if announces else ()
    return RoundOpen(0, round_, model_digest(raw), (), target, b"", b"", raw)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def test_the_first_target_is_a_copy(store: Store) -> None:
    keep_model(store, opening(0, online(1)))
    announced = digest(copied(online(1)))
    assert find_target(store, STUDY, 0, announced) == announced
    assert model_digest(store.read(TARGET)) == announced


def test_the_next_is_predicted_from_what_the_round_before_left(store: Store) -> None:
    keep_model(store, opening(0, online(1)))
    find_target(store, STUDY, 0, digest(copied(online(1))))
    keep_model(store, opening(1, online(2)))
    announced = digest(predict(mix_of(STUDY.pretrain), copied(online(1)), online(1), online(2)))
    for _ in range(2):  # the second time, as after a kill, it is held
        assert find_target(store, STUDY, 1, announced) == announced
        keep_model(store, opening(1, online(2)))  # the round is opened again
    assert store.read(MODEL_BEFORE) == pack_model(online(1))


def test_another_prediction_is_not_kept(store: Store) -> None:
    keep_model(store, opening(0, online(1)))
    find_target(store, STUDY, 0, digest(copied(online(1))))
    keep_model(store, opening(1, online(2)))
    predicted = digest(predict(mix_of(STUDY.pretrain), copied(online(1)), online(1), online(2)))
    assert find_target(store, STUDY, 1, b"x" * 32) == predicted
    assert model_digest(store.read(TARGET)) == digest(copied(online(1)))


def test_extrapolation_starts_from_the_targets_of_two_rounds(store: Store) -> None:
    for number in (1, 2, 4):
        keep_target(store, pack_model(copied(online(number))))
    keep_model(store, opening(1, online(0)))
    keep_model(store, opening(2, online(0.5)))
    assert store.read(TARGET_BEFORE) == pack_model(copied(online(2)))
    announced = digest(copied(online(6)))  # 2 * 4 - 2
    assert find_target(store, MOVING, 2, announced) == announced


@pytest.mark.parametrize("lost", [MODEL_BEFORE, TARGET, MODEL])
def test_a_site_that_lacks_something_predicts_nothing(store: Store, lost: str) -> None:
    keep_model(store, opening(0, online(1)))
    find_target(store, STUDY, 0, digest(copied(online(1))))
    keep_model(store, opening(1, online(2)))
    store.forget(lost)
    assert find_target(store, STUDY, 1, b"x" * 32) == b""


def test_what_does_not_fit_predicts_nothing(store: Store) -> None:
    keep_model(store, opening(0, online(1)))
    find_target(store, STUDY, 0, digest(copied(online(1))))
    keep_model(store, opening(1, {"predictor.a": np.zeros(2, np.float32)}))
    assert find_target(store, STUDY, 1, b"x" * 32) == b""


def test_a_round_without_a_target_keeps_no_model_before(store: Store) -> None:
    keep_model(store, opening(0, online(1), announces=False))
    keep_model(store, opening(1, online(2), announces=False))
    assert store.read(MODEL) == pack_model(online(2))
    assert not store.has(MODEL_BEFORE)
