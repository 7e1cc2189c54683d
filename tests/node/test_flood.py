"""What one member can make a node do: little, however much it says."""

from __future__ import annotations

import msgspec

from fedsecure.greeting import GREETINGS
from fedsecure.node.introductions import SPACING_S
from fedsecure.node.shell import MANY, MAXIMUM_KINDS

from .test_introductions import World, greeted, world  # noqa: F401  its fixture
from .test_roster_watch import Shell, folders, shells  # noqa: F401  its fixtures


def test_a_flood_of_greetings_is_answered_a_few_times(world: World) -> None:  # noqa: F811
    north, hub = greeted(world)
    north.it.tick(100.0)
    (frame,) = north.out
    before = hub.store.head()
    for _ in range(1000):
        hub.it.receive("north", frame)
    assert hub.store.head() - before < 20
    assert "north: a node greets no more often than it could need" in hub.refused
    assert hub.it.welcome("north")
    hub.it.tick(100.0)  # and later it is heard again
    hub.refused.clear()
    hub.it.receive("north", frame)
    assert hub.refused == []


def test_an_honest_node_is_never_over_the_pace(world: World) -> None:  # noqa: F811
    north, hub = greeted(world)
    for turn in range(1, 2000):
        now = turn * 0.01
        hub.it.tick(now)
        north.it.soon()
        north.it.tick(now)
        for frame in north.out:
            hub.it.receive("north", frame)
        north.out.clear()
    assert hub.refused == []
    assert SPACING_S > 0.01


def test_rules_without_end_are_noted_as_one(shells: dict[str, Shell]) -> None:  # noqa: F811
    hub = shells["hub"]
    for number in range(10 * MAXIMUM_KINDS):
        hub._refused("north", f"nodes of one study hold one study file: it differs in {number}")
    hub._refused("south", "another peer's is noted")
    assert len(hub._refusals) == MAXIMUM_KINDS + 2
    assert ("north", MANY) in hub._refusals


def test_a_greeting_says_which_settings_differ_in_the_studys_own_words(world: World) -> None:  # noqa: F811
    north, hub = greeted(world)
    north.it.tick(100.0)
    honest = GREETINGS.open(north.out[-1], peer="north", me="hub", public=north.identity.public)
    other = msgspec.structs.replace(honest, study=bytes(32), parts=(b"planted!", *honest.parts[1:]))
    hub.it.receive("north", GREETINGS.write(other, north.identity))
    assert "planted" not in "".join(hub.refused)
