"""Who may connect, by channel keys: what the ZAP handler (RFC 27) asks."""

from __future__ import annotations

from collections import deque
from typing import Final

from keys.encoding import z85
from keys.roster import Roster
from protocols.errors import UnknownPeer
from protocols.transport.switchboard import Switchboard

STRANGER: Final = "a stranger"  # no member's name: names have no blank
_RULE: Final = "whoever connects has a channel key of the roster's sites"
_REFUSALS: Final = 64  # kept until somebody asks; a flood fills no memory


class Doorkeeper:
    """The ZAP handler's question, asked in its thread: may this channel key connect?"""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self.names: dict[str, str] = {}  # Z85 text of a channel key -> site; replaced and never changed
        self._past: dict[str, str] = {}  # keys that were let in once
        self._refused: deque[UnknownPeer] = deque(maxlen=_REFUSALS)

    def admit(self, roster: Roster, board: Switchboard) -> None:
        self._past = self._past | self.names
        self.names = {z85(roster.members[site].channel): site for site in roster.sites if site in board.names}

    def dismiss(self, name: str) -> None:
        self._past = self._past | self.names
        self.names = {key: other for key, other in self.names.items() if other != name}

    def callback(self, domain: str, key: bytes) -> bool:
        """domain: the server's; key: Z85 text of the key whose possession the client has proved."""
        text = key.decode("ascii")
        if domain == self._domain and text in self.names:
            return True
        self._refused.append(UnknownPeer(self._past.get(text, STRANGER), _RULE))
        return False

    def refusals(self) -> list[UnknownPeer]:
        """Who was turned away since the last call: by name whom this node once let in, and all others as one."""
        turned_away = []
        while self._refused:
            turned_away.append(self._refused.popleft())
        return turned_away
