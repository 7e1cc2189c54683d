from __future__ import annotations

import pytest

from keys.identity import Identity
from keys.roster import Roster
from protocols.handshake import Party
from protocols.transport.switchboard import Switchboard


def test_a_roster_ends_whom_it_changes_and_keeps_the_others(parties: dict[str, Party], roster: Roster) -> None:
    board = Switchboard(parties["hub"], 10)
    north, south = board.link("north"), board.link("south")
    changed = Roster("hub", {**roster.members, "south": Identity.generate().public, "west": Identity.generate().public})
    assert board.accept(changed) == {"south"}
    assert board.link("north") is north
    assert board.link("south") not in (None, south)
    assert board.names == {"north", "south", "west"}
    assert board.accept(roster) == {"south", "west"}
    assert board.link("west") is None


def test_who_is_revoked_is_gone_until_a_roster_has_it(parties: dict[str, Party], roster: Roster) -> None:
    board = Switchboard(parties["hub"], 10)
    board.revoke("south")
    board.revoke("nobody")
    assert board.link("south") is None
    assert board.accept(roster) == frozenset()
    assert board.link("south") is not None


def test_a_roster_of_another_coordinator_is_refused(parties: dict[str, Party], roster: Roster) -> None:
    board = Switchboard(parties["hub"], 10)
    for other in (
        Roster("north", roster.members),
        Roster("hub", {**roster.members, "hub": Identity.generate().public}),
    ):
        with pytest.raises(ValueError, match="not the coordinator's"):
            board.accept(other)
    assert board.names == {"north", "south"}


def test_there_is_room_for_a_round_and_no_more(parties: dict[str, Party], roster: Roster) -> None:
    board = Switchboard(parties["hub"], 10)
    assert {link.room for name in board.names if (link := board.link(name))} == {30}  # model, target, the other's bank
    board.accept(Roster("hub", {**roster.members, "west": Identity.generate().public}))
    assert {link.room for name in board.names if (link := board.link(name))} == {40}
