from __future__ import annotations

import pytest

from keys.errors import RosterError
from keys.identity import Identity
from keys.roster import Roster

MEMBERS = {name: Identity.generate().public for name in ("hub", "north", "south")}
ROSTER = Roster("hub", MEMBERS)


def test_sites_are_sorted_and_without_the_coordinator() -> None:
    assert Roster("north", dict(reversed(MEMBERS.items()))).sites == ("hub", "south")


def test_a_roster_does_not_change() -> None:
    source = dict(MEMBERS)
    roster = Roster("hub", source)
    source["east"] = Identity.generate().public
    assert "east" not in roster.members
    with pytest.raises(TypeError):
        roster.members["east"] = source["east"]  # type: ignore[index]  # what must fail


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a" * 33, "a\n", "é", "../a", "a.b"])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(RosterError, match="1 to 32"):
        Roster("hub", {**MEMBERS, name: Identity.generate().public})


def test_who_must_be_there() -> None:
    with pytest.raises(RosterError, match="coordinator is not"):
        Roster("west", MEMBERS)
    with pytest.raises(RosterError, match="no site"):
        Roster("hub", {"hub": MEMBERS["hub"]})


def test_one_identity_under_two_names() -> None:
    with pytest.raises(RosterError, match="stands twice"):
        Roster("hub", {**MEMBERS, "puppet": MEMBERS["north"]})


def test_the_digest_is_of_everything_that_is_believed() -> None:
    assert Roster("hub", dict(reversed(MEMBERS.items()))).digest == ROSTER.digest
    others = [
        Roster("north", MEMBERS),
        Roster("hub", {"hub": MEMBERS["hub"], "north": MEMBERS["north"]}),
        Roster("hub", {**MEMBERS, "south": Identity.generate().public}),
        Roster("hub", {"hub": MEMBERS["hub"], "north": MEMBERS["south"], "south": MEMBERS["north"]}),
        Roster("hub", {**MEMBERS, "south": Identity.generate(post_quantum=True).public}),
    ]
    assert len({roster.digest for roster in (ROSTER, *others)}) == 1 + len(others)
