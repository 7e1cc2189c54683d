"""The coordinator's links by name, as long as the roster has the name: what both server transports share."""

from __future__ import annotations

from typing import Final

from keys.roster import Roster
from protocols.handshake import Party
from protocols.link import Responder
from protocols.session import Buffers

_QUEUE: Final = 256  # frames waiting for one site
_ROUND: Final = 2  # the largest frames waiting for one site: a round's model and its target network; and every bank


class Switchboard:
    """Who may be talked to. `accept` and `revoke` take effect with their return."""

    def __init__(self, party: Party, maximum: int) -> None:
        """Raises ValueError if `party` is not the coordinator of its roster."""
        self._maximum = maximum
        self._buffers = Buffers()
        self._links: dict[str, Responder] = {}
        self._party = party
        self.accept(party.roster)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._links)

    def link(self, name: str) -> Responder | None:
        """None if `name` is not, or no longer, a site."""
        return self._links.get(name)

    def revoke(self, name: str) -> None:
        """Until a roster with this name is accepted, there is no such site."""
        self._links.pop(name, None)

    def accept(self, roster: Roster) -> frozenset[str]:
        """Act on `roster` from now on. Returns whose connections must end: their keys are no longer what they were."""
        before = self._party.roster
        if self._party.name != roster.coordinator or roster.members[roster.coordinator] != self._party.identity.public:
            raise ValueError("the server's identity is not the coordinator's of this roster")
        self._party = self._party._replace(roster=roster)
        ended = frozenset(name for name in self._links if roster.members.get(name) != before.members[name])
        for name in ended:
            del self._links[name]
        room = (_ROUND + len(roster.sites) - 1) * self._maximum
        for name in roster.sites:
            if name not in self._links:
                self._links[name] = Responder(
                    self._party, name, maximum=self._maximum, queue=_QUEUE, room=room, buffers=self._buffers
                )
            self._links[name].follow(self._party)
            self._links[name].room = room
        return ended
