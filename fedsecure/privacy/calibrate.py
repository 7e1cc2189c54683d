"""From (epsilon, delta) to noise, and from noise to what each site adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from fedsecure.privacy.accountant import quick, spent
from fedsecure.privacy.events import Event, Gaussian

_MARGIN: Final = 1e-4  # relative, of a multiplier
_PLD_MARGIN: Final = 2e-3
_PLD_AT_BEST: Final = 0.8  # a PLD needs no less noise than this share of what RDP needs


def multiplier_for(epsilon: float, delta: float, events_at: Callable[[float], Sequence[Event]]) -> float:
    """The least noise multiplier z, to a part in 10^4, at which `events_at(z)` costs at most `epsilon` at `delta`.

    events_at: the whole of what will be released, with noise multiplier z. Raises ValueError where no noise is enough.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError("noise is calibrated to a finite epsilon above 0")

    def over(z: float) -> bool:
        return quick(events_at(z), delta) > epsilon

    def over_in_full(z: float) -> bool:
        return spent(events_at(z), delta, reference=False).epsilon > epsilon

    low, high = 0.05, 0.1
    while over(high):
        low, high = high, 4 * high
        if high > 1e9:
            raise ValueError("no noise is enough: something released has no guarantee, or delta is used up")
    found = _least(over, low, high, _MARGIN)
    if any(isinstance(event, Gaussian) and event.sampling < 1 for event in events_at(found)):
        # RDP was the quick bound; a PLD, which takes its time, allows a few per cent less noise.
        return _least(over_in_full, found * _PLD_AT_BEST, found, _PLD_MARGIN)
    while over_in_full(found):
        found *= 1 + _MARGIN
    return found


def _least(over: Callable[[float], bool], low: float, high: float, margin: float) -> float:
    """By bisection, as epsilon may be infinite at one end; `high` is not over, and neither is what is returned."""
    while high > low * (1 + margin):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if over(middle) else (low, middle)
    return high


def share_sigma(multiplier: float, sensitivity: float, least: int, colluders: int) -> float:
    """Standard deviation that each site adds: (z Delta)^2 / (U_min - c) is its variance.

    least: survivors below which no sum is unmasked, U_min; colluders: sites that may tell their own noise, c, after
    dropouts. Raises ValueError if no honest site would be left.
    """
    if least - colluders < 1:
        raise ValueError(f"U_min - c = {least} - {colluders}: no honest site's noise would be in the sum")
    return multiplier * sensitivity / math.sqrt(least - colluders)


def signal_to_noise(count: float, sensitivity_in_clips: float, multiplier: float, dimension: int) -> float:
    """Norm of the most that `count` contributions of norm C add up to, by the noise's: N C / (z Delta sqrt(d)).

    sensitivity_in_clips: Delta / C: 2 for site updates and 1 for sums over patients, and more on a coarse grid.
    """
    return count / (sensitivity_in_clips * multiplier * math.sqrt(dimension))
