"""How often a peer may have a node write something down."""

from __future__ import annotations

from typing import Final

BURST: Final = 4096.0  # messages in a row: a round of a thousand sites opens with as many boxes
PER_S: Final = 50.0  # and how many a second for long


class Pace:
    """A bucket for each peer: each message that is taken becomes a leaf of the log, and none may fill the disk."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # peer -> (messages that it still may send, as of when)

    def allows(self, peer: str, now: float) -> bool:
        """Whether one more message of this peer is within what an honest one says. now: in seconds, monotonic."""
        left, at = self._left.get(peer, (BURST, now))
        left = min(BURST, left + (now - at) * PER_S)
        self._left[peer] = (max(left - 1, 0.0), now)
        return left >= 1
