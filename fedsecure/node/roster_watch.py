"""A running node acts on the roster that its operator accepted last: it looks at its trust file while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fedsecure.node import membership
from fedsecure.node.membership import TRUST, Own, load_trust
from keys.errors import IdentityError
from keys.roster import Roster

LOOK_S: Final = 1.0


class RosterWatch:
    """Tells a node of every other roster, once, and ends it when there is none to act on."""

    def __init__(
        self, folder: Path, own: Own, follow: Callable[[Roster], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """own: what the node began with; follow: has it act on another roster."""
        self._folder, self._own, self._follow, self._clock = folder, own, follow, clock
        self._seen = self._stamp()
        self._trust = load_trust(folder)  # after the stamp: what comes in between is seen at the first look
        self._roster = own.roster
        self._look_at = clock()

    def look(self) -> None:
        """Called every turn, looks once a second.

        Raises RosterError when the roster is over, revokes this node or cannot be read, and IdentityError when it has
        other keys for it. Nothing is right to act on then, and the node ends.
        """
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_S
        if (stamp := self._stamp()) != self._seen:
            self._seen, self._trust = stamp, load_trust(self._folder)
        roster = self._trust.roster(membership.now())
        if roster.digest == self._roster.digest:
            return
        if roster.members.get(self._own.name) != self._own.identity.public:
            raise IdentityError(f"the roster has other keys for {self._own.name} by now: start the node anew")
        self._follow(roster)
        self._roster = roster

    def _stamp(self) -> tuple[int, int, int] | None:
        """Another one for every change: the file is replaced, never written to."""
        try:
            found = (self._folder / TRUST).stat()
        except OSError:
            return None  # reading it will say why
        return found.st_ino, found.st_mtime_ns, found.st_size
