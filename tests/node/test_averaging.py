"""The end of a training round from what the coordinator's store holds: averages, measurements, and what is left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedsecure.config import ModelSettings, Study, parse_study
from fedsecure.learning.target import copied, mix_of, predict, relative_distance
from fedsecure.node.averaging import Averaging, model_file, target_file, update_file
from fedsecure.node.store import Store
from fedsecure.packing import LARGEST, pack_model, pack_vector, unpack_model
from fedsecure.types import Flow, Tensors


def study(**pretrain: object) -> Study:
    members = [{"name": name, "weight": weight} for name, weight in (("a", 1), ("b", 3))]
    settings = {"rounds": 3, "local_steps": 1, "momentum": 0.5, "distance": "r2", **pretrain}
    return parse_study({"framework": "fclopt", "sites": members, "pretrain": settings, "security": {"secagg": False}})


START: Tensors = {"encoder.a": np.array([1, 2], np.float32), "predictor.a": np.array([5], np.float32)}
# Ends at (5, 2) with predictor 5; targets end at (3, 2) and (5, 2), their mean (4.5, 2). Prediction: (3, 2).
DELTAS = {"a": np.array([4, 0, 0], np.float32), "b": np.array([4, 0, 0], np.float32)}
TARGETS = {"a": np.array([2, 0], np.float32), "b": np.array([4, 0], np.float32)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.write(model_file(0, 0), pack_model(START))
    store.write(target_file(0, 0), pack_model(copied(START)))
    for site in "ab":
        store.write(update_file(0, 0, site, Flow.WEIGHTS), pack_vector({"x": DELTAS[site]}))
        store.write(update_file(0, 0, site, Flow.TARGET), pack_vector({"x": TARGETS[site]}))
        store.write(update_file(0, 0, site, Flow.DISTANCE), pack_vector({"x": np.array([1], np.float32)}))
    yield store
    store.close()


class Refusals(list[tuple[str, str]]):
    def __call__(self, site: str, rule: str) -> None:
        self.append((site, rule))


def averaging(store: Store, of: Study, refused: Refusals | None = None) -> Averaging:
    return Averaging(store, of, 0, 0, ("a", "b"), Refusals() if refused is None else refused)


def test_a_prediction_that_was_not_measured_is_the_target(store: Store) -> None:
    ended = averaging(store, study()).finish(targets=False)
    assert ended is not None
    assert unpack_model(ended.model)["encoder.a"].tolist() == [5, 2]
    assert unpack_model(ended.target)["target.encoder.a"].tolist() == [3, 2]
    assert (ended.distance, ended.corrected) == (None, False)


@pytest.mark.parametrize(("threshold", "corrected", "first"), [(0.1, True, 4.5), (0.9, False, 3.0)])
def test_a_measured_one_is_corrected_above_the_threshold(
    store: Store, threshold: float, corrected: bool, first: float
) -> None:
    ended = averaging(store, study(threshold=threshold)).finish(targets=True)
    assert ended is not None
    assert ended.distance == pytest.approx(1.5 / np.sqrt(13))
    assert ended.corrected is corrected
    assert unpack_model(ended.target)["target.encoder.a"].tolist() == [first, 2]


def test_the_last_round_ends_without_a_target(store: Store) -> None:
    ended = averaging(store, study(rounds=1)).finish(targets=False)
    assert ended is not None
    assert ended.target == b""


def test_a_target_that_cannot_be_used_spoils_the_mean_and_the_prediction_stands(store: Store) -> None:
    store.write(update_file(0, 0, "b", Flow.TARGET), b"\0" * 4)
    refused = Refusals()
    ended = averaging(store, study(threshold=0.0), refused).finish(targets=True)
    assert ended is not None
    assert ended.distance is None
    assert [site for site, _ in refused] == ["b"]
    assert unpack_model(ended.target)["target.encoder.a"].tolist() == [3, 2]


def test_a_site_whose_weights_cannot_be_used_has_no_say_in_the_target(store: Store) -> None:
    store.write(update_file(0, 0, "b", Flow.WEIGHTS), pack_vector({"x": np.full(3, np.nan, np.float32)}))
    ended = averaging(store, study(threshold=0.0)).finish(targets=True)
    assert ended is not None
    predicted = predict(mix_of(study().pretrain), copied(START), START, unpack_model(ended.model))
    alone = {"target.encoder.a": np.array([3, 2], np.float32)}
    assert ended.distance == relative_distance(alone, predicted) == 0
    store.write(update_file(0, 0, "a", Flow.WEIGHTS), b"")
    assert averaging(store, study()).finish(targets=False) is None
    assert averaging(store, study()).bound() == 0


@pytest.mark.parametrize("score", [np.array([-1], np.float32), np.array([np.nan], np.float32), np.zeros(2, np.float32)])
def test_a_score_that_cannot_be_used_has_all_sites_asked(store: Store, score: np.ndarray) -> None:
    assert averaging(store, study()).bound() == pytest.approx(1 / np.sqrt(13))
    store.write(update_file(0, 0, "b", Flow.DISTANCE), pack_vector({"x": score}))
    refused = Refusals()
    assert averaging(store, study(), refused).bound() == pytest.approx((0.25 + 0.75 * LARGEST) / np.sqrt(13))
    assert [site for site, _ in refused] == ["b"]


def summing(store: Store, **vectors: bytes) -> Study:
    """A study whose sites release two cells of width 8 for a sum; what they sent in round 0 is in the store."""
    for site, raw in vectors.items():
        store.write(update_file(0, 0, site, Flow.PROTOTYPE_SUM), raw)
    of = study(exchange="secagg-prototypes", partitions=2, prototypes_per_partition=1)
    return of.model_copy(update={"framework": "fcl", "model": ModelSettings(features=8)})


def vector(value: float, count: int = 16) -> bytes:
    return np.full(count, value, np.float32).tobytes()


def test_prototypes_are_summed_and_not_weighted(store: Store) -> None:
    assert averaging(store, summing(store, a=vector(1), b=vector(2))).prototypes() == vector(3)


@pytest.mark.parametrize("bad", [vector(1, 15), vector(np.nan), vector(2 * LARGEST), b""])
def test_prototypes_that_cannot_be_used_are_refused_and_left_out(store: Store, bad: bytes) -> None:
    refused = Refusals()
    assert averaging(store, summing(store, a=vector(1), b=bad), refused).prototypes() == vector(1)
    assert [site for site, _ in refused] == ["b"]
    assert averaging(store, summing(store, a=bad, b=bad)).prototypes() == b""


def test_a_study_without_a_sum_makes_none(store: Store) -> None:
    assert averaging(store, study()).prototypes() == b""
