"""The vector that a site puts into a secure sum, and what comes out: flows joined, clipped and on one grid.

Every flow is bounded in L2 norm and scaled to the study's clip, so that one grid fits all. What a site puts in is the
mean over its patients, which the quantiser multiplies by its declared weight: the sum is over all patients.

With `security.rotation` the joined vector is turned first (rotate.py), by signs that follow from study and round. The
grid then reaches as far as a turned coordinate does, but for a probability of 2^-40, instead of as far as the clip: it
is finer by about 28. A vector that is beyond even so is scaled down until it fits, so that no sum ever wraps.

    weights, target    the site's network minus the round's; clipped to security.clip
    prototype-sum      the sum over patients divided by the weight; no longer than pretrain.prototype_clip as it is
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fedsecure.config import Study
from fedsecure.privacy.clip import clip_factor
from fedsecure.privacy.quantize import WRAP_BITS, Grid, Quantizer, dequantize
from fedsecure.privacy.rotate import reach_factor, rotate_in_place, unrotate_in_place
from fedsecure.types import FloatArray, Flow
from keys.encoding import prefixed, u64

_ROUNDING: Final = b"fedsecure/rounding/v1"
_ROTATION: Final = b"fedsecure/rotation/v1"

Part = tuple[Flow, FloatArray]  # flow, flat float32 vector


def grid_of(study: Study, lengths: Sequence[int]) -> Grid:
    """The grid of sums of flows of these lengths. Raises ValueError if the ring is too small for the study's sites."""
    reach, length = study.security.clip, sum(lengths)
    if study.security.rotation:  # of the flows together, each of which is clipped
        reach *= min(1.0, reach_factor(length, WRAP_BITS) * math.sqrt(len(lengths)))
    return Grid.fit(study.security.ring, [member.weight for member in study.sites], reach, length)


def bound_of(study: Study, flow: Flow) -> float:
    """L2 norm that a site's mean of a flow has at most."""
    return study.pretrain.prototype_clip if flow is Flow.PROTOTYPE_SUM else study.security.clip


def rounding_key(study: Study, site: str, stage: int, round_: int, flows: Sequence[Flow]) -> bytes:
    """The seed of the stochastic rounding. Public: without noise rounding protects nothing, and so a sum that is made
    again after a drop-out has the same integers, and one study gives the same models on every run."""
    place = prefixed(_ROUNDING, study.digest(), site.encode(), u64(stage), u64(round_), *(f.encode() for f in flows))
    return hashlib.sha256(place).digest()


def rotation_seed(study: Study, stage: int, round_: int) -> bytes:
    """The same for all sites, or their sum would mean nothing. Public, and fixed before a site has trained."""
    return hashlib.sha256(prefixed(_ROTATION, study.digest(), u64(stage), u64(round_))).digest()


def quantizer(study: Study, site: str, stage: int, round_: int, parts: Sequence[Part]) -> tuple[Quantizer, float]:
    """One vector of all parts on its way into the ring, and the least factor that a part was clipped by.

    Raises ValueError for values that are not finite.
    """
    weight = next(member.weight for member in study.sites if member.name == site)
    scaled, least = [], 1.0
    for flow, vector in parts:
        mean = vector / np.float32(weight) if flow is Flow.PROTOTYPE_SUM else vector
        bound = bound_of(study, flow)
        factor = clip_factor(mean, bound)
        least = min(least, factor)
        scaled.append(mean * np.float32(factor * (study.security.clip / bound)))
    joined = np.concatenate(scaled)
    grid, fits = grid_of(study, [len(vector) for _, vector in parts]), 1.0
    if study.security.rotation:
        rotate_in_place(joined, rotation_seed(study, stage, round_))
        fits = _fitting(joined, grid.reach * grid.step)
    key = rounding_key(study, site, stage, round_, [flow for flow, _ in parts])
    return Quantizer(grid, joined, key, fits, weight), least * fits


def opened(
    study: Study, stage: int, round_: int, lengths: Sequence[tuple[Flow, int]], integers: npt.NDArray[np.int32]
) -> Mapping[Flow, npt.NDArray[np.float64]]:
    """Each flow's sum over the survivors of weight times mean, in the flow's own units."""
    whole = dequantize(grid_of(study, [length for _, length in lengths]), integers)
    if study.security.rotation:
        unrotate_in_place(whole, rotation_seed(study, stage, round_))
    start, sums = 0, {}
    for flow, length in lengths:
        sums[flow] = whole[start : start + length] * (bound_of(study, flow) / study.security.clip)
        start += length
    return sums


def _fitting(vector: FloatArray, reach: float) -> float:
    """The factor in (0, 1] by which no coordinate is beyond `reach`."""
    most = float(max(vector.max(), -vector.min()))
    return 1.0 if most <= reach else reach / most
