"""Arrays to bytes and back, in one canonical form each, without pickle.

model    safetensors, names sorted: what is published and kept; its SHA-256 is the model's digest
vector   all tensors of a model, in the order of their names, as one little-endian float32 vector: what is released
bank     count and width as uint32, features as float32, partitions as uint8: what is sealed site to site
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as _load
from safetensors.numpy import save as _save

from fedsecure.types import Bank, FloatArray, Schema, State, Tensors, schema_size

_BANK = struct.Struct("<II")
LARGEST: Final = 1e6  # of any weight or update: none trains to it, and sums of such values stay far from overflow


class Malformed(ValueError):
    """Bytes that are not what they should be. The caller says whose they were."""


def pack_arrays(arrays: State) -> bytes:
    """Named float32 and uint8 arrays as safetensors."""
    raw: bytes = _save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    return raw


def unpack_arrays(raw: bytes) -> State:
    """Inverse of `pack_arrays`, names sorted. Raises Malformed for other bytes and other dtypes."""
    try:
        arrays = _load(raw)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Malformed(f"not safetensors ({type(error).__name__})") from None
    if any(array.dtype not in (np.float32, np.uint8) for array in arrays.values()):
        raise Malformed("an array is neither float32 nor uint8")
    return {name: arrays[name] for name in sorted(arrays)}


def pack_model(tensors: Tensors) -> bytes:
    """A model as safetensors bytes; equal tensors give equal bytes."""
    return pack_arrays(tensors)


def unpack_model(raw: bytes) -> Tensors:
    """Inverse of `pack_model`. Raises Malformed unless every tensor is float32 and within +-LARGEST."""
    model: dict[str, FloatArray] = {}
    for name, array in unpack_arrays(raw).items():
        if array.dtype != np.float32:
            raise Malformed("a tensor of the model is not float32")
        if not within_range(array):
            raise Malformed("a tensor of the model is not finite, or beyond what any weight trains to")
        model[name] = array.astype(np.float32, copy=False)
    return model


def within_range(array: npt.NDArray[np.generic]) -> bool:
    """All values finite and within +-LARGEST."""
    return bool((np.abs(array) <= LARGEST).all())  # NaN compares false


def pack_vector(arrays: State) -> bytes:
    """All values as little-endian float32, tensors in the order of their names; 4 bytes a value."""
    return b"".join(np.ascontiguousarray(arrays[name], dtype="<f4").tobytes() for name in sorted(arrays))


def unpack_vector(raw: bytes, specs: Schema) -> Tensors:
    """Inverse of `pack_vector`. Raises Malformed unless the length is exact and all values are within +-LARGEST."""
    if len(raw) != 4 * schema_size(specs):
        raise Malformed(f"vector of {len(raw)} bytes, the schema has {4 * schema_size(specs)}")
    flat = np.frombuffer(raw, dtype="<f4")
    if not within_range(flat):
        raise Malformed("vector is not finite, or beyond what any weight trains to")
    tensors: dict[str, FloatArray] = {}
    start = 0
    for spec in specs:
        tensors[spec.name] = flat[start : start + spec.size].reshape(spec.shape).astype(np.float32, copy=False)
        start += spec.size
    return tensors


def pack_bank(bank: Bank) -> bytes:
    count, width = bank.features.shape
    features = np.ascontiguousarray(bank.features, dtype="<f4").tobytes()
    return _BANK.pack(count, width) + features + np.ascontiguousarray(bank.partitions, dtype=np.uint8).tobytes()


def in_order(bank: Bank) -> Bank:
    """The same rows by partition, then by their bits: an order of the trainer's own would say log2(count!) bits."""
    features = np.ascontiguousarray(bank.features, dtype="<f4")
    order = np.lexsort((*features.view("<u4").T[::-1], bank.partitions))
    return Bank(features[order], bank.partitions[order])


def unpack_bank(raw: bytes, width: int, most: int, partitions: int) -> Bank:
    """Inverse of `pack_bank`. Raises Malformed unless it fits the study: [<= most, width], ids < partitions."""
    if len(raw) < _BANK.size:
        raise Malformed("bank shorter than its header")
    count, got = _BANK.unpack_from(raw)
    if got != width or count > most or len(raw) != _BANK.size + count * (4 * width + 1):
        raise Malformed("bank of another shape than the study's")
    split = _BANK.size + 4 * count * width
    features = np.frombuffer(raw[_BANK.size : split], dtype="<f4").reshape(count, width)
    ids = np.frombuffer(raw[split:], dtype=np.uint8)
    if not np.isfinite(features).all() or (count and int(ids.max()) >= partitions):
        raise Malformed("bank with values outside the study's range")
    return Bank(features.astype(np.float32), ids)
