"""Bytes and back: round trips for any array, and every way in which received bytes can be wrong."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsecure.packing import (
    Malformed,
    pack_arrays,
    pack_bank,
    pack_model,
    pack_vector,
    unpack_arrays,
    unpack_bank,
    unpack_model,
    unpack_vector,
)
from fedsecure.types import Bank, FloatArray, TensorSpec, schema_of

FLOATS = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(-1e6, 1e6, width=32))
MODELS = st.dictionaries(st.text("abc.", min_size=1, max_size=6), FLOATS, min_size=1, max_size=5)


@given(MODELS)
def test_a_model_survives_and_its_bytes_do_not_depend_on_the_order_of_its_names(model: dict[str, FloatArray]) -> None:
    raw = pack_model(model)
    assert raw == pack_model(dict(reversed(model.items())))
    back = unpack_model(raw)
    assert list(back) == sorted(model)
    assert all(np.array_equal(back[name], model[name]) for name in model)


@given(MODELS)
def test_a_vector_has_four_bytes_a_value_and_survives(model: dict[str, FloatArray]) -> None:
    specs = schema_of({name: model[name] for name in sorted(model)})
    raw = pack_vector(model)
    assert len(raw) == 4 * sum(array.size for array in model.values())
    back = unpack_vector(raw, specs)
    assert all(np.array_equal(back[name], model[name]) for name in model)


def test_a_vector_is_little_endian_in_the_order_of_names() -> None:
    raw = pack_vector({"b": np.array([2.0], np.float32), "a": np.array([1.0], np.float32)})
    assert raw == struct.pack("<ff", 1.0, 2.0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\0" * 7, "vector of 7 bytes"),
        (b"\0" * 12, "12 bytes"),
        (struct.pack("<ff", 1, float("nan")), "not finite"),
        (struct.pack("<ff", 1, -2e6), "trains to"),
    ],
)
def test_a_wrong_vector_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        unpack_vector(raw, (TensorSpec("a", (2,)),))


@pytest.mark.parametrize(
    "raw", [b"", b"not safetensors at all", b"\xff" * 64, pack_arrays({"a": np.ones(3, np.float32)})[:-1]]
)
def test_what_is_not_safetensors_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed, match="not safetensors"):
        unpack_arrays(raw)


def test_a_model_of_another_dtype_or_with_a_hole_is_refused() -> None:
    with pytest.raises(Malformed, match="not float32"):
        unpack_model(pack_arrays({"a": np.ones(3, np.uint8)}))
    with pytest.raises(Malformed, match="not finite"):
        unpack_model(pack_arrays({"a": np.array([np.inf], np.float32)}))
    with pytest.raises(Malformed, match="neither float32 nor uint8"):
        unpack_arrays(pack_arrays({"a": np.ones(3, np.float64)}))  # type: ignore[dict-item]


BANK = Bank(np.arange(6, dtype=np.float32).reshape(3, 2), np.array([0, 3, 1], np.uint8))


def test_a_bank_survives() -> None:
    back = unpack_bank(pack_bank(BANK), width=2, most=3, partitions=4)
    assert np.array_equal(back.features, BANK.features)
    assert np.array_equal(back.partitions, BANK.partitions)


def test_an_empty_bank_survives() -> None:
    empty = Bank(np.zeros((0, 2), np.float32), np.zeros(0, np.uint8))
    assert len(unpack_bank(pack_bank(empty), width=2, most=3, partitions=4).partitions) == 0


@pytest.mark.parametrize(
    ("raw", "width", "most", "partitions", "reason"),
    [
        (pack_bank(BANK)[:7], 2, 3, 4, "shorter than its header"),
        (pack_bank(BANK)[:-1], 2, 3, 4, "another shape"),
        (pack_bank(BANK) + b"\0", 2, 3, 4, "another shape"),
        (pack_bank(BANK), 3, 3, 4, "another shape"),
        (pack_bank(BANK), 2, 2, 4, "another shape"),
        (pack_bank(BANK), 2, 3, 3, "outside the study's range"),
        (struct.pack("<II", 2**32 - 1, 2) + b"\0" * 40, 2, 2**32, 4, "another shape"),
        (pack_bank(Bank(np.full((1, 2), np.nan, np.float32), np.zeros(1, np.uint8))), 2, 3, 4, "outside"),
    ],
)
def test_a_wrong_bank_is_refused(raw: bytes, width: int, most: int, partitions: int, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        unpack_bank(raw, width, most, partitions)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else_happens(raw: bytes) -> None:
    for attempt in (lambda: unpack_arrays(raw), lambda: unpack_bank(raw, 2, 100, 4)):
        try:
            attempt()
        except Malformed:
            continue
