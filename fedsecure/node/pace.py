"""How often a peer is answered what costs it little to ask: a few times in a row, and then no more than so often.

A pace is set so that what an honest node asks again, because the answer may have been lost, is within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rooms = Mapping[str, tuple[float, float]]  # peer -> (answers that it may still ask for in a row, as of when)


@dataclass(frozen=True, slots=True)
class Pace:
    """A token bucket for each peer: `burst` answers in a row, `per_s` of them a second for long."""

    burst: float
    per_s: float

    def spend(self, rooms: Rooms, peer: str, now: float) -> tuple[bool, Rooms]:
        """Whether the peer is answered once more, and what is left then. now: seconds of a clock that does not fall."""
        left, at = rooms.get(peer, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_s)
        answered = left >= 1
        return answered, {**rooms, peer: (left - 1 if answered else left, now)}
