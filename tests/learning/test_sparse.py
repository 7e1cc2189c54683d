from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import Member, SparseSettings, Study
from fedsecure.learning.sparse import VALUES, Places, compress, flat, part_of, places_of, renewed, sent_schema
from fedsecure.types import FloatArray, Tensors, schema_of

SIZES = st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size)))
SEEDS = st.integers(0, 2**63 - 1)


def _vector(size: int, seed: int) -> FloatArray:
    """Values of all magnitudes, whose sums round."""
    rng = np.random.default_rng(seed)
    values: FloatArray = (rng.standard_normal(size) * 10.0 ** rng.integers(-6, 6, size)).astype(np.float32)
    return values


@given(SIZES, SEEDS, st.integers(0, 40))
def test_every_coordinate_is_sent_once_in_a_period(shape: tuple[int, int], seed: int, cycle: int) -> None:
    size, period = shape
    blocks = [places_of(seed, 0, cycle * period + i, size, period) for i in range(period)]
    assert sorted(np.concatenate(blocks).tolist()) == list(range(size))
    assert {len(block) for block in blocks} <= {size // period, -(-size // period)}
    assert all((np.diff(block) > 0).all() for block in blocks)


def test_coordinates_are_what_they_were_on_every_machine() -> None:
    """Nodes of other NumPy versions draw the same: a change here is a change of the study's result."""
    assert places_of(7, 0, 0, 12, 4).tolist() == [0, 2, 10]
    assert places_of(7, 0, 4, 12, 4).tolist() == [2, 4, 9]
    assert len({tuple(places_of(*of, 1000, 4).tolist()) for of in [(7, 0, 0), (8, 0, 0), (7, 1, 0), (7, 0, 4)]}) == 4


def test_coordinates_are_as_likely_as_each_other() -> None:
    counts = np.zeros(40)
    for seed in range(2000):
        counts[places_of(seed, 0, 0, 40, 8)] += 1
    assert np.abs(counts - 250).max() < 5 * np.sqrt(2000 / 8 * 7 / 8)  # 5 standard deviations


@given(SIZES, SEEDS)
def test_each_value_is_sent_or_kept_bit_for_bit(shape: tuple[int, int], seed: int) -> None:
    size, period = shape
    places = places_of(seed, 0, 0, size, period)
    update, memory = _vector(size, seed), _vector(size, seed + 1)
    sent, kept = compress(update, memory, places)
    assert sent.tobytes() == (memory + update)[places].tobytes()
    assert not kept[places].any()
    rest = np.setdiff1d(np.arange(size), places)
    assert kept[rest].tobytes() == (memory + update)[rest].tobytes()


def test_error_feedback_by_hand() -> None:
    update = np.array([1, 2, 3, 4], np.float32)
    sent, kept = compress(update, np.zeros(4, np.float32), np.array([1, 3]))
    assert (sent.tolist(), kept.tolist()) == ([2, 4], [1, 0, 3, 0])
    sent, kept = compress(update, kept, np.array([0, 1]))
    assert (sent.tolist(), kept.tolist()) == ([2, 2], [0, 0, 6, 4])


@given(SIZES, st.integers(1, 4), SEEDS)
def test_after_a_period_of_silence_the_model_has_all_that_was_carried(
    shape: tuple[int, int], sites: int, seed: int
) -> None:
    """Integers, whose sums are exact: sites update once, and then only send what they kept."""
    size, period = shape
    rng = np.random.default_rng(seed)
    updates = [rng.integers(-1000, 1000, size).astype(np.float32) * sites for _ in range(sites)]
    memories = [np.zeros(size, np.float32) for _ in range(sites)]
    start = model = rng.integers(-1000, 1000, size).astype(np.float32)
    for round_ in range(period):
        places = places_of(seed, 0, round_, size, period)
        sent = []
        for site in range(sites):
            update = updates[site] if round_ == 0 else np.zeros(size, np.float32)
            values, memories[site] = compress(update, memories[site], places)
            sent.append(values)
        model = model.copy()
        model[places] += np.sum(sent, axis=0) / np.float32(sites)
    assert not any(memory.any() for memory in memories)
    assert (model == start + np.sum(updates, axis=0) / sites).all()


def _model(seed: int) -> Tensors:
    """Names out of order, as a network has them."""
    return {"b": _vector(6, seed).reshape(2, 3), "a": _vector(5, seed + 1), "c": _vector(1, seed + 2)}


@given(st.integers(1, 12), SEEDS)
def test_a_model_with_its_own_values_put_in_is_itself_and_only_they_are_put_in(period: int, seed: int) -> None:
    model, other = _model(seed), _model(seed + 3)
    where = places_of(seed, 0, 3, 12, period)
    same = renewed(model, part_of(model, where)[VALUES], where)
    assert list(same) == ["a", "b", "c"]
    assert {name: same[name].tobytes() for name in model} == {name: model[name].tobytes() for name in model}
    mixed = flat(renewed(model, part_of(other, where)[VALUES], where))
    rest = np.setdiff1d(np.arange(12), where)
    assert mixed[where].tobytes() == flat(other)[where].tobytes()
    assert mixed[rest].tobytes() == flat(model)[rest].tobytes()


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.full(6, np.nan, np.float32)], ids=["fewer", "NaN"])
def test_values_that_do_not_fit_are_refused(values: FloatArray) -> None:
    with pytest.raises(ValueError, match=r"shape mismatch|not finite"):
        renewed(_model(0), values, places_of(0, 0, 0, 12, 2))


def test_what_leaves_is_the_rounds_coordinates_or_with_a_period_of_one_the_model() -> None:
    sites = (Member(name="a", weight=1), Member(name="b", weight=1))
    model = schema_of(_model(0))
    assert sent_schema(Study(sites=sites), 0, 0, model) is model
    study = Study(sites=sites, sparse=SparseSettings(period=5))
    sent = [spec for round_ in range(5) for spec in sent_schema(study, 0, round_, model)]
    assert sorted(spec.size for spec in sent) == [2, 2, 2, 3, 3]
    assert {spec.name for spec in sent} == {VALUES}


def test_nothing_given_is_changed() -> None:
    update, memory, model = _vector(6, 0), _vector(6, 1), _model(2)
    before = [array.tobytes() for array in (update, memory, *model.values())]
    places: Places = np.array([0, 5])
    compress(update, memory, places)
    renewed(model, update[:2], places)
    assert [array.tobytes() for array in (update, memory, *model.values())] == before


def test_with_a_period_of_one_everything_is_sent() -> None:
    places = places_of(0, 0, 5, 9, 1)
    sent, kept = compress(_vector(9, 0), np.zeros(9, np.float32), places)
    assert sent.tobytes() == _vector(9, 0).tobytes()
    assert not kept.any()


@pytest.mark.parametrize(("round_", "size", "period"), [(0, 5, 0), (0, 5, 6), (0, 0, 1), (-1, 5, 2)])
def test_what_makes_no_sense_is_refused(round_: int, size: int, period: int) -> None:
    with pytest.raises(ValueError, match="a period is"):
        places_of(0, 0, round_, size, period)
