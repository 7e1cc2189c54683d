"""Frames that have arrived and wait to be polled, and what was refused meanwhile."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final, Generic, TypeVar

from protocols.errors import ProtocolError

_T = TypeVar("_T")
_REFUSALS: Final = 64  # kept until somebody asks; a flood fills no memory


class Mailbox(Generic[_T]):
    """From any thread to any thread. Takes what it is given: whoever fills it asks `full` first."""

    def __init__(self, count: int, size: int) -> None:
        """Full at `count` items or `size` bytes."""
        self._count, self._size = count, size
        self._items: deque[_T] = deque()
        self._held = 0
        self._refused: deque[ProtocolError] = deque(maxlen=_REFUSALS)
        self._changed = threading.Condition()

    @property
    def full(self) -> bool:
        return len(self._items) >= self._count or self._held >= self._size

    def put(self, item: _T, size: int) -> None:
        with self._changed:
            self._items.append(item)
            self._held += size
            self._changed.notify()

    def take(self, timeout: float) -> tuple[list[_T], bool]:
        """Everything that waits, up to `timeout` seconds for the first; and whether it was full until now."""
        until = time.monotonic() + timeout
        with self._changed:
            while not self._items:
                left = until - time.monotonic()
                if left <= 0:
                    return [], False
                self._changed.wait(left)
            items, full = list(self._items), self.full
            self._items.clear()
            self._held = 0
            return items, full

    def refuse(self, error: ProtocolError) -> None:
        self._refused.append(error)

    def refusals(self) -> list[ProtocolError]:
        """What was refused since the last call; of a flood, the last."""
        errors = []
        while self._refused:
            errors.append(self._refused.popleft())
        return errors
