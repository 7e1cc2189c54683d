"""The one place where bound, noise and event meet, and where the guarantee is stated. It runs inside the gate.

    Bounded (grid integers, each contribution of norm <= bound)  ->  Mechanism.apply  ->  Privatised (values, event)

Clipping, rotation and rounding come before and hand over a bound that holds AFTER rounding; masking comes after. The
guarantee, of one `apply` at each site and one sum of at least U_min sites of which c tell their noise: what is unmasked
is a Gaussian mechanism with multiplier z for any one patient of any honest site (accountant.py says up to what, and how
it adds up). Under secure aggregation a site clips and adds noise by itself: one that lies takes its share of noise away
from everybody, which is what c is for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedsecure.privacy import noise
from fedsecure.privacy.accountant import Spent
from fedsecure.privacy.calibrate import share_sigma
from fedsecure.privacy.events import Contribution, DiscreteGaussian, NonPrivate, sensitivity_of
from fedsecure.privacy.noise import Entropy, OsEntropy

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bounded:
    """values: [d] int64, in grid units: a sum of contributions of L2 norm at most `bound` grid units each, rounded.

    SITE_UPDATE: the values are the one contribution, whoever trained on it. PATIENT_SUM and PROTOTYPES: a sum of
    `patients` of them, of which each one's bound is the caller's promise: a sum does not show its terms.
    """

    values: Integers
    bound: float
    contribution: Contribution
    patients: int = 1

    def __repr__(self) -> str:
        return f"Bounded({self.contribution}, bound={self.bound})"


@dataclass(frozen=True, slots=True)
class Privatised:
    """values: [d] int64 with this site's share of noise; to be masked or sealed. event: what the ledger is charged."""

    values: Integers = field(repr=False)
    event: DiscreteGaussian | NonPrivate


class Mechanism:
    """One flow's mechanism. Everything that its guarantee rests on is fixed when it is made."""

    def __init__(
        self,
        flow: str,
        contribution: Contribution,
        bound: float,
        dimension: int,
        multiplier: float,
        *,
        least: int,
        colluders: int,
        sampling: float = 1.0,
    ) -> None:
        """bound: grid units; multiplier: z; least: U_min; colluders: c. A site that releases alone has (1, 0).

        Raises ValueError, saying what to change, where no honest site is left or the noise does not fit the grid.
        """
        if sampling < 1 and contribution is Contribution.SITE_UPDATE:
            raise ValueError(
                "sampled patients change a site's whole update: sampling amplifies sums over patients only"
            )
        sensitivity = sensitivity_of(contribution, bound)
        self._table = noise.table(share_sigma(multiplier, sensitivity, least, colluders))
        self._bound, self._contribution = bound, contribution
        self.event = DiscreteGaussian(
            flow=flow,
            sensitivity=sensitivity,
            share_sigma=self._table.sigma,
            shares=least - colluders,
            dimension=dimension,
            distance=self._table.distance,
            sampling=sampling,
        )

    def apply(self, bounded: Bounded, tape: Entropy | None = None) -> Privatised:
        """Add this site's share of noise, from the operating system; an empty draw's zeros get theirs like any other.

        tape: recorded entropy, for tests alone; what was made with it has no guarantee and says so. Raises ValueError
        for a vector that is not what this mechanism was made for.
        """
        # Written so that what is not a number is refused as well.
        if bounded.contribution is not self._contribution or not bounded.bound <= self._bound:
            raise ValueError(f"{self.event.flow}: bounded another way, or by more, than this mechanism is made for")
        if bounded.values.shape != (self.event.dimension,) or bounded.values.dtype != np.int64:
            raise ValueError(f"{self.event.flow}: not {self.event.dimension} integers")
        # What can be seen of the promise is checked: a site's update is one vector, a sum of k has norm at most k b.
        terms = 1 if self._contribution is Contribution.SITE_UPDATE else bounded.patients
        if not _norm(bounded.values) <= bounded.bound * terms:
            raise ValueError(f"{self.event.flow}: larger than its bound: it was not clipped, or not after rounding")
        drawn = self._table.draw(self.event.dimension, OsEntropy() if tape is None else tape)
        if tape is None:
            return Privatised(bounded.values + drawn, self.event)
        return Privatised(bounded.values + drawn, NonPrivate(flow=self.event.flow, reason="noise from a recorded tape"))


def statement(spent: Spent, alone: Spent, flows: str) -> str:
    """What holds and against whom, or that nothing does.

    spent: against whoever sees sums over sites alone; alone: of the same events `read_alone`, against the coordinator
    as long as it reads each site's release unmasked. One sentence where both are the same.
    """
    if spent.infinite:
        return f"No guarantee (epsilon is infinite): {'; '.join(spent.infinite)}."
    who = "anybody" if spent.shares in (None, 1) else "whoever sees nothing but sums over sites"
    said = (
        f"Whether any one patient, with all volumes, frames, slices and views, took part changes what {who} can "
        f"learn from {flows} by at most epsilon = {spent.epsilon:.3g} at delta = {spent.delta:.1e} "
        f"(zero-out of one patient; {spent.accountant})."
    )
    if spent.shares in (None, 1):
        return said
    holds = "nothing is bounded" if alone.infinite else f"it is epsilon = {alone.epsilon:.3g}"
    return (
        f"{said} It rests on the noise of U_min - c = {spent.shares} honest sites in each sum. For whoever reads "
        f"releases one by one, as the coordinator does without secure aggregation, {holds}."
    )


def _norm(values: Integers) -> float:
    """L2 norm, from an exact sum of squares."""
    if not len(values):
        return 0.0
    largest = max(abs(int(values.min())), abs(int(values.max())))
    if largest**2 * len(values) >= 2**63:
        return float("inf")  # no clipped vector on any grid here is that large
    return float(np.sqrt(float(np.dot(values, values))))
