from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fedsecure.learning.fedavg import average
from fedsecure.types import Tensors


def _model(*values: float) -> Tensors:
    return {"w": np.array(values, np.float32), "b": np.zeros((1, 2), np.float32)}


def test_weighted_mean_by_hand() -> None:
    averaged = average(_model(1, 2), [("b", 3, _model(4, 0)), ("a", 1, _model(0, 8))])
    assert averaged["w"].tolist() == [1 + 3, 2 + 2]
    assert averaged["w"].dtype == np.float32


def test_weights_sum_to_one() -> None:
    """Equal deltas come out as they went in, whatever the weights."""
    delta = _model(0.1, -7.3)
    averaged = average(_model(0, 0), [("a", 7, delta), ("b", 5, delta), ("c", 1, delta)])
    np.testing.assert_array_equal(averaged["w"], delta["w"])


def test_one_site_is_local_training() -> None:
    rng = np.random.default_rng(0)
    start, local = ({"w": rng.standard_normal(1000).astype(np.float32)} for _ in range(2))
    averaged = average(start, [("only", 9, {"w": local["w"] - start["w"]})])
    # The subtraction rounds once, at the delta's own size.
    np.testing.assert_allclose(averaged["w"], local["w"], rtol=0, atol=3e-7)


def test_arrival_order_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    deltas = [(f"s{i}", i + 1, {"w": rng.standard_normal(500).astype(np.float32)}) for i in range(7)]
    model = {"w": rng.standard_normal(500).astype(np.float32)}
    forwards, backwards = average(model, deltas), average(model, deltas[::-1])
    assert forwards["w"].tobytes() == backwards["w"].tobytes()


def test_summed_in_float64_and_rounded_once() -> None:
    """2^25 + 1 + 1 needs 26 bits: float32 sums would lose both ones."""
    model = {"w": np.array([0], np.float32)}
    terms = [2.0**25, 4.0, 4.0]
    averaged = average(model, [(f"s{i}", 1, {"w": np.array([t], np.float32)}) for i, t in enumerate(terms)])
    exact = sum(Fraction(t) for t in terms) / 3
    assert averaged["w"][0] == np.float32(float(exact))


@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        ([], "at least one site"),
        ([("a", 1, _model(0, 0)), ("a", 1, _model(0, 0))], "each site once"),
        ([("a", 0, _model(0, 0))], "weights are at least 1"),
        ([("a", 1, _model(0, 0, 0))], "name, order or shape"),
        ([("a", 1, {"w": _model(0, 0)["w"]})], "name, order or shape"),
        ([("a", 1, dict(reversed(_model(0, 0).items())))], "name, order or shape"),
    ],
)
def test_refuses(deltas: list[tuple[str, int, Tensors]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        average(_model(0, 0), deltas)
