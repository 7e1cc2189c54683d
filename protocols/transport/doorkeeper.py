"""Who may connect, by channel keys: what the ZAP handler (RFC 27) asks."""

from __future__ import annotations

from keys.encoding import z85
from keys.roster import Roster
from protocols.transport.switchboard import Switchboard


class Doorkeeper:
    """The ZAP handler's question, asked in its thread: may this channel key connect?"""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self.names: dict[str, str] = {}  # Z85 text of a channel key -> site; replaced and never changed

    def admit(self, roster: Roster, board: Switchboard) -> None:
        self.names = {z85(roster.members[site].channel): site for site in roster.sites if site in board.names}

    def dismiss(self, name: str) -> None:
        self.names = {key: other for key, other in self.names.items() if other != name}

    def callback(self, domain: str, key: bytes) -> bool:
        """domain: the server's; key: Z85 text of the key whose possession the client has proved."""
        return domain == self._domain and key.decode("ascii") in self.names
