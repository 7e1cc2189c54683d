from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsecure.learning import bank
from fedsecure.learning.bank import Features
from fedsecure.types import Bank


def _features(start: int, end: int) -> Features:
    """Feature i is the vector (i, 1): it tells its own number."""
    numbers = torch.arange(start, end)
    return Features(torch.stack([numbers.float(), torch.ones(len(numbers))], 1), numbers % 4)


def _numbers(features: Features) -> list[int]:
    return features.vectors[:, 0].long().tolist()


def test_first_in_first_out() -> None:
    queue = bank.empty(2, "cpu")
    queue = bank.enqueue(queue, _features(0, 3), 5)
    assert _numbers(queue) == [0, 1, 2]
    queue = bank.enqueue(queue, _features(3, 7), 5)
    assert _numbers(queue) == [2, 3, 4, 5, 6]
    assert queue.partitions.tolist() == [2, 3, 0, 1, 2]
    assert _numbers(bank.enqueue(queue, _features(7, 20), 5)) == [15, 16, 17, 18, 19]


def test_draw_is_a_subset_without_repeats_keeping_partitions() -> None:
    pool = _features(0, 50)
    drawn = bank.take(pool, bank.uniform(pool, 20, torch.Generator().manual_seed(0)))
    assert len(drawn) == 20
    assert len(set(_numbers(drawn))) == 20
    assert (drawn.vectors[:, 0].long() % 4 == drawn.partitions).all()


def test_draw_is_uniform() -> None:
    pool = _features(0, 10)
    generator = torch.Generator().manual_seed(0)
    counts = np.bincount([i for _ in range(4000) for i in bank.uniform(pool, 3, generator).tolist()], minlength=10)
    # Each of 10 is drawn 4000 * 3/10 times on average; 5 standard deviations of a hypergeometric count.
    assert np.abs(counts - 1200).max() < 5 * np.sqrt(4000 * 0.3 * 0.7)


def test_a_small_pool_is_taken_whole() -> None:
    pool = _features(0, 4)
    assert _numbers(bank.take(pool, bank.uniform(pool, 9, torch.Generator()))) == [0, 1, 2, 3]


def test_a_stratified_draw_takes_as_many_of_every_partition() -> None:
    pool = _features(0, 400)  # partitions in turn
    generator = torch.Generator().manual_seed(0)
    drawn = bank.take(pool, bank.stratified(pool, 42, 4, generator))
    counts = torch.bincount(drawn.partitions, minlength=4)
    assert sorted(counts.tolist()) == [10, 10, 11, 11]
    assert len(set(_numbers(drawn))) == 42
    more = [bank.take(pool, bank.stratified(pool, 1, 4, generator)).partitions.item() for _ in range(400)]
    # Which partition gives one more is drawn: 100 each on average; 5 standard deviations.
    assert np.abs(np.bincount(more, minlength=4) - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_a_stratified_draw_is_uniform_within_a_partition() -> None:
    pool = _features(0, 40)
    generator = torch.Generator().manual_seed(0)
    rows = [row for _ in range(1000) for row in bank.stratified(pool, 12, 4, generator).tolist()]
    # Each of 10 in a partition is drawn 1000 * 3/10 times on average.
    assert np.abs(np.bincount(rows, minlength=40) - 300).max() < 5 * np.sqrt(1000 * 0.3 * 0.7)


@pytest.mark.parametrize("count", [8, 1000])
def test_no_partition_makes_up_for_one_that_has_too_few_or_nothing(count: int) -> None:
    """K/S of a partition, or all it has: also with K larger than the bank and in an empty one."""
    vectors = torch.arange(11.0)[:, None]
    pool = Features(vectors, torch.tensor([0] * 1 + [2] * 10))  # partitions 1 and 3: nobody has them
    drawn = bank.take(pool, bank.stratified(pool, count, 4, torch.Generator()))
    assert torch.bincount(drawn.partitions, minlength=4).tolist() == [1, 0, min(count // 4, 10), 0]
    assert len(bank.stratified(bank.empty(2, "cpu"), count, 4, torch.Generator())) == 0


def _bank(vectors: list[list[float]], partitions: list[int]) -> Bank:
    return Bank(np.array(vectors, np.float32), np.array(partitions, np.uint8))


def test_remote_banks_come_in_the_order_of_names_and_on_the_unit_sphere() -> None:
    banks = {"b": _bank([[0, 2]], [1]), "a": _bank([[3, 4], [1, 0]], [2, 3])}
    joined = bank.remote(banks, 2, 4, "cpu")
    torch.testing.assert_close(joined.vectors, torch.tensor([[0.6, 0.8], [1, 0], [0, 1]]))
    assert joined.partitions.tolist() == [2, 3, 1]
    assert len(bank.remote({}, 2, 4, "cpu")) == 0


def test_the_edge_form_is_a_round_trip_of_copies() -> None:
    edge = _bank([[0.6, 0.8], [1, 0]], [3, 0])
    inside = bank.from_bank(edge, 2, 4, "cpu")
    back = bank.to_bank(inside)
    inside.vectors.zero_()
    assert back.features.tolist() == edge.features.tolist()
    assert back.partitions.dtype == np.uint8
    assert edge.features[1, 0] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        _bank([[1, 0, 0]], [0]),  # width
        _bank([[1, 0]], [0, 1]),  # length
        _bank([[1, 0]], [4]),  # partition S
        _bank([[1, float("nan")]], [0]),
        Bank(np.array([[1, 0]], np.float64), np.array([0], np.uint8)),  # type: ignore[arg-type]  # the wrong type is the point
        Bank(np.array([[1, 0]], np.float32), np.array([0], np.int64)),  # type: ignore[arg-type]
    ],
)
def test_refuses_a_bank_that_does_not_fit(wrong: Bank) -> None:
    with pytest.raises(ValueError, match="does not fit the study"):
        bank.remote({"peer": wrong}, 2, 4, "cpu")
