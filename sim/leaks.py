"""Leaky trainers: each turns an honest update into one that carries a patient's volume out, and says how much of it.

All keep to the study's schema where they can, as a trainer would that means to get through. What the content tests
cannot find is here as well (`KNOWN_MISSES`), so that a report says at which rate, and what bounds it (audit.capacity).
A trainer that opens a socket of its own is met by `node.isolation`, and one that skips clipping by the gate, which
clips itself.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import zoom
from scipy.special import ndtri

from fedsecure.config import Study
from fedsecure.learning.dispatch import initial_model, run
from fedsecure.learning.job import Job
from fedsecure.types import Cohort, FloatArray, Flow, State, Update

_ROUND_PART: Final = 64  # values of a volume that leave in one round, where it is split
_SIDE: Final = 32  # of a crop
_SMALL: Final = 24  # of a slice sent smaller
_LOWEST: Final = np.uint32(1)


@dataclass(frozen=True, slots=True)
class Leak:
    """An update that carries something. bits: how much of the patient is in it."""

    update: Update
    bits: float

    def __repr__(self) -> str:
        return f"Leak({self.update.flow}, bits={self.bits:.0f})"


Octets = npt.NDArray[np.uint8]
Trainer = Callable[[Update, FloatArray, int], Leak]  # honest update, volume [Z, H, W], round


def raw_crop(honest: Update, volume: FloatArray, _: int) -> Leak:
    """32 x 32 voxels as they are."""
    return _over(honest, np.ravel(_middle(volume)[:_SIDE, :_SIDE]), 32)


def half_precision_crop(honest: Update, volume: FloatArray, _: int) -> Leak:
    """32 x 32 voxels as float16, two in the bits of each float32."""
    halves = np.ascontiguousarray(_middle(volume)[:_SIDE, :_SIDE], np.float16).ravel()
    return _over(honest, halves.view(np.float32), 32)


def smaller_slice(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A slice brought to 24 x 24 by interpolation, in the update's own units."""
    plane = _middle(volume)
    small = np.ravel(zoom(plane, (_SMALL / plane.shape[0], _SMALL / plane.shape[1]), order=1))
    return _over(honest, _in_units(small, honest), 32)


def hidden_slice(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A slice with the mean and spread of the weights in whose place it stands, inside the largest tensor."""
    plane = np.ravel(_middle(volume))
    return _over(honest, _in_units(plane, honest), 32, at=317)


def split_over_rounds(honest: Update, volume: FloatArray, round_: int) -> Leak:
    """64 voxels a round, so that the volume is out after some hundred rounds."""
    flat = np.ravel(volume[len(volume) // 2 :])
    start = round_ * _ROUND_PART % (flat.size - _ROUND_PART)
    return _over(honest, _in_units(flat, honest)[start : start + _ROUND_PART], 32, at=317)


def packed_gzip(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A slice compressed, three bytes in the low bits of each float."""
    raw = gzip.compress(_greys(_middle(volume)).tobytes(), mtime=0)
    raw += bytes(-len(raw) % 3)
    return _in_low_bits(honest, np.frombuffer(raw, np.uint8).reshape(-1, 3))


def low_byte(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A slice in 256 greys, each in the lowest byte of a weight."""
    return _in_low_bits(honest, _greys(_middle(volume)).reshape(-1, 1))


def low_bit(honest: Update, volume: FloatArray, round_: int) -> Leak:
    """A slice in 256 greys under a cipher, one bit in the lowest of each weight: steganography as in the textbooks."""
    bits = np.unpackbits(_ciphered(_greys(_middle(volume)), round_))
    name, values = _largest(honest)
    raw = values.view(np.uint32)
    bits = bits[: len(raw)]
    raw[: len(bits)] = (raw[: len(bits)] & ~_LOWEST) | bits
    return Leak(_with(honest, name, raw.view(np.float32)), float(len(bits)))


def noise_like(honest: Update, volume: FloatArray, round_: int) -> Leak:
    """Voxels in 256 greys under a cipher, as values that are distributed as the tensor's noise would be."""
    codes = _ciphered(_greys(_middle(volume)), round_)
    values = ndtri((codes + 0.5) / 256).astype(np.float32)
    return _over(honest, _in_units(values, honest), 8)


def row_order(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A number of log2(n!) bits as the order of the feature bank's rows."""
    rows = len(honest.arrays["partitions"])
    order = _permutation(int.from_bytes(_greys(_middle(volume)).tobytes(), "big"), rows)
    arrays = {name: array[order] for name, array in honest.arrays.items()}
    return Leak(Update(honest.flow, arrays), math.lgamma(rows + 1) / math.log(2))


def row_count(honest: Update, volume: FloatArray, round_: int) -> Leak:
    """One voxel, as how many rows the feature bank has."""
    rows = len(honest.arrays["partitions"])
    kept = max(1, rows - int(_greys(volume).ravel()[round_]) % rows)
    return Leak(Update(honest.flow, {name: array[:kept] for name, array in honest.arrays.items()}), math.log2(rows))


def metric_name(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A slice in the name of a metric."""
    text = _greys(_middle(volume)).tobytes().hex()
    return Leak(Update(honest.flow, {text: next(iter(honest.arrays.values()))}), 4.0 * len(text))


def weight_name(honest: Update, volume: FloatArray, _: int) -> Leak:
    """A slice in the name of a tensor."""
    text = _greys(_middle(volume)).tobytes().hex()
    first = next(iter(honest.arrays))
    arrays = {text if name == first else name: array for name, array in honest.arrays.items()}
    return Leak(Update(honest.flow, arrays), 4.0 * len(text))


TRAINERS: Final[Mapping[str, tuple[Flow, Trainer]]] = {
    "raw crop": (Flow.WEIGHTS, raw_crop),
    "half-precision crop": (Flow.WEIGHTS, half_precision_crop),
    "down-sampled slice": (Flow.WEIGHTS, smaller_slice),
    "slice hidden in a weight tensor": (Flow.WEIGHTS, hidden_slice),
    "volume split over many rounds": (Flow.WEIGHTS, split_over_rounds),
    "gzip in low bits": (Flow.WEIGHTS, packed_gzip),
    "greys in the lowest byte": (Flow.WEIGHTS, low_byte),
    "least-significant-bit steganography": (Flow.WEIGHTS, low_bit),
    "values like noise": (Flow.WEIGHTS, noise_like),
    "order of rows": (Flow.FEATURES, row_order),
    "number of rows": (Flow.FEATURES, row_count),
    "text in metric names": (Flow.METRICS, metric_name),
    "text in tensor names": (Flow.WEIGHTS, weight_name),
}
# Found by likeness alone, which misses some: where the picture lies badly in the blocks that are looked at
LIKENESS_ALONE: Final = frozenset({"down-sampled slice"})
ADDING_UP: Final = frozenset({"volume split over many rounds"})  # one round's part has fewer windows than alarm
KNOWN_MISSES: Final = frozenset({"least-significant-bit steganography", "values like noise", "number of rows"})


def honest_rounds(study: Study, cohort: Cohort, rounds: int) -> Iterator[dict[Flow, Update]]:
    """What a site alone would hand to its gate, round after round: real training of the study's first stage, from each
    round's own result."""
    model = initial_model(study, 0, None)
    state: State = {}
    for round_ in range(rounds):
        job = Job(study, study.sites[0].name, 0, round_, model, {}, state)
        result = run(job, cohort, "cpu", lambda _: None)
        updates = {update.flow: update for update in result.updates}
        model = {name: value + updates[Flow.WEIGHTS].arrays[name] for name, value in model.items()}
        state = result.state
        yield updates


def _middle(volume: FloatArray) -> FloatArray:
    return np.asarray(volume[len(volume) // 2], np.float32)


def _greys(image: FloatArray) -> Octets:
    low, high = image.min(), image.max()
    return np.asarray(np.rint((image - low) * (255 / (high - low))), np.uint8)


def _largest(honest: Update) -> tuple[str, FloatArray]:
    """The largest tensor, as a flat copy."""
    name = max(honest.arrays, key=lambda one: honest.arrays[one].size)
    return name, np.array(honest.arrays[name], np.float32).ravel()


def _with(honest: Update, name: str, flat: FloatArray) -> Update:
    return Update(honest.flow, {**honest.arrays, name: flat.reshape(honest.arrays[name].shape)})


def _over(honest: Update, values: FloatArray, bits: int, at: int = 0) -> Leak:
    """Write values over the largest tensor; as many of them as there is room for."""
    name, flat = _largest(honest)
    values = values[: len(flat) - at]
    flat[at : at + len(values)] = values
    return Leak(_with(honest, name, flat), float(bits * len(values)))


def _in_units(values: FloatArray, honest: Update) -> FloatArray:
    _, weights = _largest(honest)
    scaled = (values - values.mean()) / values.std() * weights.std() + weights.mean()
    return np.asarray(scaled, np.float32)


def _in_low_bits(honest: Update, octets: Octets) -> Leak:
    """[n, k] bytes into the k low bytes of the first n weights."""
    name, flat = _largest(honest)
    octets = octets[: len(flat)]
    flat.view(np.uint8).reshape(-1, 4)[: len(octets), : octets.shape[1]] = octets
    return Leak(_with(honest, name, flat), 8.0 * octets.size)


def _ciphered(greys: Octets, key: int) -> Octets:
    """Under a stream that whoever receives it has as well. Any cipher does for a leak."""
    return np.asarray(np.ravel(greys) ^ np.random.default_rng(key).integers(0, 256, greys.size, np.uint8))


def _permutation(number: int, rows: int) -> list[int]:
    """The number's permutation, by its digits in the factorial base (Lehmer)."""
    left, order = list(range(rows)), []
    for remaining in range(rows, 0, -1):
        number, digit = divmod(number, remaining)
        order.append(left.pop(digit))
    return order
