"""What the values of an update could be read as: sequences of numbers, and bytes.

    values       the floats themselves, in the order in which they would leave
    halves       two 16-bit numbers in each float: float16, bfloat16, int16
    low half     one 16-bit number in the mantissa's low bits
    bytes        the three low bytes of each float; the lowest alone
    listed       one byte a value, in any unit

Packed readings are looked at only where a mantissa's low bits go on smoothly from one value to the next, as a picture
does and as those of a computed number do not: that saves seven passes over every update.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fedsecure.audit.magic import GZIP
from fedsecure.types import State

_BLOCK: Final = 256  # floats over which low bits are looked at
_SMOOTH: Final = 0.3  # their correlation from one value to the next; of independent ones it has a deviation of 1/16
_MARGIN: Final = 1  # blocks beside one that stands out
_LARGEST: Final = 1e6  # of any reading's numbers
_EXACT: Final = 1e-3  # by which a listed byte may miss its number

Floats = npt.NDArray[np.float32]


def flat(arrays: State) -> Floats:
    """All float32 values in the order in which they leave (packing.pack_vector); uint8 arrays after them."""
    names = sorted(arrays, key=lambda name: (arrays[name].dtype == np.uint8, name))
    parts = [np.ravel(arrays[name]).astype(np.float32, copy=False) for name in names]
    return np.ascontiguousarray(np.concatenate(parts), "<f4") if parts else np.empty(0, np.float32)


def sequences(values: Floats) -> Iterator[tuple[str, Floats]]:
    """Readings as sequences, under which a volume may be recognised."""
    yield "values", values
    for run in _packed(values):
        halves = run.view("<u2")
        yield "float16", finite(halves.view("<f2"))
        yield "bfloat16", finite((halves.astype("<u4") << 16).view("<f4"))
        yield "int16", halves.view("<i2").astype(np.float32)
        yield "low half as float16", finite(halves[0::2].view("<f2"))
        yield "low half as int16", halves[0::2].view("<i2").astype(np.float32)
        octets = run.view(np.uint8).reshape(-1, 4)
        yield "bytes", octets[:, :3].ravel().astype(np.float32)
        yield "lowest byte", octets[:, 0].astype(np.float32)


def files(values: Floats) -> Iterator[bytes]:
    """Readings as bytes, in which a file may begin."""
    octets = values.view(np.uint8).reshape(-1, 4)
    yield values.tobytes()
    yield octets[:, :3].tobytes()
    yield octets[:, :2].tobytes()
    yield octets[:, 0].tobytes()
    yield from _listed(values)


def _listed(values: Floats) -> Iterator[bytes]:
    """One byte a value: where three values stand to each other as the bytes that a gzip file begins with."""
    first, second, third = GZIP
    a, b, c = values[:-2], values[1:-1], values[2:]
    ratio = np.abs(b * first - a * second) <= _EXACT * np.abs(b) * first
    ratio &= np.abs(c * first - a * third) <= _EXACT * np.abs(b) * first
    for at in np.flatnonzero(ratio & (a != 0))[:8]:
        steps = values[at:] / (values[at] / first)
        whole = np.rint(steps)
        good = (np.abs(steps - whole) < 0.25) & (whole >= 0) & (whole <= 255)
        end = len(good) if good.all() else int(np.argmin(good))
        yield whole[:end].astype(np.uint8).tobytes()


def _packed(values: Floats) -> Iterator[Floats]:
    """Runs of blocks in whose low bits there seems to be a sequence."""
    blocks = -(-len(values) // _BLOCK)
    if not blocks:
        return
    padded = np.zeros(blocks * _BLOCK, "<f4")
    padded[: len(values)] = values
    low = padded.view("<i2")[0::2]
    in_order = low ^ ((low >> 15) & 0x7FFF)  # of float16 as integers: sign and magnitude to two's complement
    odd = np.zeros(blocks, bool)
    for lane in (low, in_order, padded.view(np.uint8)[0::4], padded.view(np.uint8)[1::4]):
        odd |= _smooth(lane.reshape(blocks, _BLOCK))
    near = np.convolve(odd, np.ones(2 * _MARGIN + 1), "same") > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], near.astype(np.int8), [0]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield values[start * _BLOCK : min(end * _BLOCK, len(values))]


def _smooth(blocks: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    wide = blocks.astype(np.float32)
    wide -= wide.mean(1, keepdims=True)
    energy = np.einsum("bn,bn->b", wide, wide)
    along = np.einsum("bn,bn->b", wide[:, 1:], wide[:, :-1])
    return np.asarray((energy > 0) & (along > _SMOOTH * energy))


def finite(values: npt.NDArray[np.floating]) -> Floats:
    """What is not a number, or as large as none of a volume is, becomes 0."""
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float32)
        wide[~(np.abs(wide) < _LARGEST)] = 0
    return wide
