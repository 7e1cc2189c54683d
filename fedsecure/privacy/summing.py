"""The vector that a site puts into a secure sum, and what comes out: flows joined, clipped and on one grid.

Every flow is bounded in L2 norm and scaled to the study's clip, so that one grid fits all. What a site puts in is the
mean over its patients, which the quantiser multiplies by its declared weight: the sum is over all patients.

    weights, target    the site's network minus the round's; clipped to security.clip
    prototype-sum      the sum over patients divided by the weight; no longer than pretrain.prototype_clip as it is
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from fedsecure.config import Study
from fedsecure.privacy.clip import clip_factor
from fedsecure.privacy.quantize import Grid, Quantizer, dequantize
from fedsecure.types import FloatArray, Flow
from keys.encoding import prefixed, u64

_ROUNDING: Final = b"fedsecure/rounding/v1"

Part = tuple[Flow, FloatArray]  # flow, flat float32 vector


def grid_of(study: Study, length: int) -> Grid:
    """The grid of all sums of a study of `length` values. Raises ValueError if the ring is too small for its sites."""
    return Grid.fit(study.security.ring, [member.weight for member in study.sites], study.security.clip, length)


def bound_of(study: Study, flow: Flow) -> float:
    """L2 norm that a site's mean of a flow has at most."""
    return study.pretrain.prototype_clip if flow is Flow.PROTOTYPE_SUM else study.security.clip


def rounding_key(study: Study, site: str, stage: int, round_: int, flows: Sequence[Flow]) -> bytes:
    """The seed of the stochastic rounding. Public: without noise rounding protects nothing, and so a sum that is made
    again after a drop-out has the same integers, and one study gives the same models on every run."""
    place = prefixed(_ROUNDING, study.digest(), site.encode(), u64(stage), u64(round_), *(f.encode() for f in flows))
    return hashlib.sha256(place).digest()


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
    key = rounding_key(study, site, stage, round_, [flow for flow, _ in parts])
    return Quantizer(grid_of(study, len(joined)), joined, key, weight=weight), least


def opened(
    study: Study, lengths: Sequence[tuple[Flow, int]], integers: npt.NDArray[np.int32]
) -> Mapping[Flow, npt.NDArray[np.float64]]:
    """Each flow's sum over the survivors of weight times mean, in the flow's own units."""
    whole, start, sums = dequantize(grid_of(study, len(integers)), integers), 0, {}
    for flow, length in lengths:
        sums[flow] = whole[start : start + length] * (bound_of(study, flow) / study.security.clip)
        start += length
    return sums
