"""What was released, as facts: the vocabulary of accountant, calibration and ledger. No arithmetic of privacy is here.

One convention, and no other: the unit is the PATIENT (all volumes, frames, slices and views), adjacency is ZERO-OUT
(the neighbour's patient contributes nothing; cohort sizes and weights are constants of the study), and `sensitivity` is
the L2 distance that one patient can make, computed by us (`sensitivity_of`). Accountants are fed sigma / sensitivity
and nothing else. A new meaning is a new class, never a changed one; a class or field that is not known does not parse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal

import msgspec

UNIT: Final = "patient"
ADJACENCY: Final = "zero-out"


class Contribution(StrEnum):
    """How one patient's influence on a released vector is bounded."""

    PATIENT_SUM = "patient-sum"  # a sum over patients, each clipped to C
    SITE_UPDATE = "site-update"  # a whole site's update clipped to C: one patient can turn it round
    PROTOTYPES = "prototypes"  # a sum over patients, each one's entries of all partitions clipped to C as ONE vector


def sensitivity_of(contribution: Contribution, bound: float) -> float:
    """L2 sensitivity under zero-out of one patient, where each contribution has norm at most `bound`: C, 2C or C."""
    return 2 * bound if contribution is Contribution.SITE_UPDATE else bound


class _Event(msgspec.Struct, frozen=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """`flow` is what was released, e.g. "weights"; `count` how often, one after another and each with fresh noise."""

    flow: str
    unit: Literal["patient"] = UNIT
    count: int = 1

    def __post_init__(self) -> None:
        if not self.flow or self.count < 1:
            raise ValueError("an event has a flow and a count of at least 1")


class Gaussian(_Event, frozen=True, kw_only=True):
    """Continuous noise of standard deviation `sigma` a coordinate on a query of L2 sensitivity `sensitivity`.

    sampling: chance with which each patient was drawn, independently and in secret (Poisson); 1 without sampling.
    """

    sensitivity: float
    sigma: float
    sampling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self.sensitivity, self.sigma)
        _chance(self.sampling)

    @property
    def multiplier(self) -> float:
        """z = sigma / sensitivity."""
        return self.sigma / self.sensitivity


class DiscreteGaussian(_Event, frozen=True, kw_only=True):
    """A sum of integers, of L2 sensitivity `sensitivity` grid units, with discrete Gaussian noise of several sites.

    share_sigma: parameter of each site's noise in grid units; shares: honest sites' noise that is in the sum at the
    least, U_min - c; dimension: number of coordinates; distance: total variation distance of one drawn integer from
    its law. The minimum is charged, whatever took part.
    """

    sensitivity: float
    share_sigma: float
    shares: int
    dimension: int
    distance: float
    sampling: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self.sensitivity, self.share_sigma)
        _chance(self.sampling)
        if self.shares < 1 or self.dimension < 1:
            raise ValueError("noise of less than one site, or on no coordinate, hides nobody")
        if not 0 <= self.distance < 1:
            raise ValueError("a total variation distance lies between 0 and 1")

    @property
    def multiplier(self) -> float:
        """z = sqrt(shares) share_sigma / sensitivity."""
        return math.sqrt(self.shares) * self.share_sigma / self.sensitivity


class NonPrivate(_Event, frozen=True, kw_only=True):
    """A release without a guarantee: epsilon is infinite from here on. `reason` is for the report."""

    reason: str


class BadGraph(_Event, frozen=True, kw_only=True):
    """Chance that a round's random graph of secure aggregation does not hide its sum's parts; adds to delta."""

    chance: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.chance < 1:
            raise ValueError("a chance lies between 0 and 1")


Event = Gaussian | DiscreteGaussian | NonPrivate | BadGraph
_DECODER: Final = msgspec.json.Decoder(tuple[Event, ...])


def read_alone(events: Sequence[Event]) -> tuple[Event, ...]:
    """The same releases for whoever reads them one by one, unmasked: of the noise, one site's share alone."""
    return tuple(msgspec.structs.replace(e, shares=1) if isinstance(e, DiscreteGaussian) else e for e in events)


def encode(events: Sequence[Event]) -> bytes:
    """Events as JSON, always the same bytes for the same events."""
    return msgspec.json.encode(events)


def decode(raw: bytes) -> tuple[Event, ...]:
    """Inverse of `encode`. Raises ValueError for anything that is not exactly a list of events known here."""
    try:
        return _DECODER.decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a list of known privacy events: {error}") from None


def _positive(*values: float) -> None:
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError("sensitivity and noise are finite and above 0; a release without noise is NonPrivate")


def _chance(sampling: float) -> None:
    if not 0 < sampling <= 1:
        raise ValueError("a sampling rate lies above 0 and at most at 1")
