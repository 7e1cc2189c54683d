"""Who may speak: two nodes that greet each other, with everything that can be wrong between them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fedsecure.audit.log import Entry
from fedsecure.config import Study, parse_study
from fedsecure.egress import FREE, SentRow
from fedsecure.greeting import GREETINGS, Greeting, Verdict
from fedsecure.node import introductions
from fedsecure.node.introductions import AGAIN_EVERY_S, GREET_EVERY_S, OLDER_COPY, Introductions
from fedsecure.node.store import Store
from keys.identity import Identity
from keys.roster import Roster

ALONE = {"sites": [{"name": "north", "weight": 3}], "security": {"secagg": False}}
STUDY = parse_study(ALONE)


class Node:
    """One node: its folder, the real introductions, and what they asked for."""

    def __init__(self, folder: Path, name: str, identity: Identity, roster: Roster, study: Study = STUDY) -> None:
        self.name, self.identity = name, identity
        self.store = Store(folder)
        self.out: list[bytes] = []
        self.refused: list[str] = []
        self.stopped: list[str] = []
        self.renewed: list[str] = []
        boot = self.store.next_boot()
        self.it = Introductions(
            name, study, identity, roster, self.store, boot, os.urandom(16),
            say=self._say, refuse=lambda peer, rule: self.refused.append(f"{peer}: {rule}"),
            stop=self.stopped.append, renewed=self.renewed.append,
        )  # fmt: skip

    def _say(self, greeting: Greeting) -> None:
        frame = GREETINGS.write(greeting, self.identity)
        self.store.log(
            SentRow("control", "Greeting", FREE, 0, 0, greeting.recipient, len(frame), b"d" * 32), Entry(b"")
        )
        self.out.append(frame)

    def sends(self, frames: int = 1) -> None:
        """Something of a study leaves."""
        for _ in range(frames):
            self.store.log(SentRow("control", "Hello", FREE, 0, 0, "hub", 10, b"d" * 32), Entry(b""))


def talk(site: Node, hub: Node, turns: int = 4) -> None:
    """Hand greetings over, in both directions, until neither says anything or one has stopped."""
    for _ in range(turns):
        for frame in (frames := site.out.copy()):
            hub.it.receive(site.name, frame)
        site.out = site.out[len(frames) :]
        for frame in (frames := hub.out.copy()):
            site.it.receive(hub.name, frame)
        hub.out = hub.out[len(frames) :]


class World:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.identities = {name: Identity.generate() for name in ("hub", "north")}
        self.nodes: list[Node] = []

    @property
    def roster(self) -> Roster:
        return Roster("hub", {name: identity.public for name, identity in self.identities.items()})

    def start(self, name: str, study: Study = STUDY) -> Node:
        for node in self.nodes:
            if node.name == name:
                node.store.close()
        self.nodes = [node for node in self.nodes if node.name != name]
        self.nodes.append(Node(self.path / name, name, self.identities[name], self.roster, study))
        return self.nodes[-1]

    def copy(self, name: str) -> None:
        shutil.copytree(self.path / name, self.path / f"{name}.copy")

    def restore(self, name: str) -> None:
        for node in self.nodes:
            if node.name == name:
                node.store.close()
        shutil.rmtree(self.path / name)
        shutil.move(self.path / f"{name}.copy", self.path / name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def greeted(world: World) -> tuple[Node, Node]:
    north, hub = world.start("north"), world.start("hub")
    north.it.tick(0.0)
    talk(north, hub)
    assert north.it.welcome("hub")
    assert hub.it.welcome("north")
    return north, hub


def test_a_site_greets_until_it_is_answered_and_then_now_and_then(world: World) -> None:
    north, hub = world.start("north"), world.start("hub")
    for now in (0.0, 0.1, GREET_EVERY_S):
        north.it.tick(now)
    assert len(north.out) == 2
    talk(north, hub)
    for now in (2 * GREET_EVERY_S, 2 * GREET_EVERY_S + AGAIN_EVERY_S - 0.1):
        north.it.tick(now)
    assert len(north.out) == 1
    hub.it.tick(0.0)
    assert hub.out == []  # it does not know where sites are
    assert (north.refused, hub.refused, north.stopped, hub.stopped) == ([], [], [], [])


def test_whoever_speaks_without_greeting_is_asked_to_but_not_at_every_frame(world: World) -> None:
    north, _ = greeted(world)
    hub = world.start("hub")  # and has forgotten who is there
    assert not hub.it.welcome("north")
    for now in (0.0, 0.1, 0.2):
        hub.it.stranger("north", now)
    assert len(hub.out) == 1
    talk(north, hub)
    assert hub.it.welcome("north")


def test_a_restart_is_no_return_to_an_older_copy(world: World) -> None:
    for _ in range(3):
        north, hub = greeted(world)
        north.sends(5)
        hub.sends(5)
    assert (north.refused, hub.refused) == ([], [])


def test_another_study_stops_the_site_and_says_what_differs(world: World) -> None:
    other = parse_study({**ALONE, "pretrain": {"rounds": 99}})
    north, hub = world.start("north", other), world.start("hub")
    north.it.tick(0.0)
    talk(north, hub)
    assert hub.refused == ["north: nodes of one study hold one study file: it differs in pretrain.rounds"]
    assert north.stopped == [
        "this node's study file and hub's differ in pretrain.rounds: ask its operator for the file that was agreed on"
    ]
    assert hub.stopped == []
    assert not hub.it.welcome("north")


def test_a_digest_that_no_setting_explains_is_said_to_be_that(world: World) -> None:
    north, hub = world.start("north"), world.start("hub")
    north.it.tick(0.0)
    greeting = GREETINGS.open(north.out.pop(), peer="north", me="hub", public=north.identity.public)
    forged = msgspec.structs.replace(greeting, study=bytes(32))
    hub.it.receive("north", GREETINGS.write(forged, north.identity))
    assert hub.refused == [
        "north: nodes of one study hold one study file: its digest is of another, and no setting it names is"
    ]


def test_another_version_is_refused_on_both_sides(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    north, hub = world.start("north"), world.start("hub")
    said = iter(["0.2.0"])  # what the site's greeting is made with; everybody else is what is installed
    installed = introductions.software()
    monkeypatch.setattr(introductions, "software", lambda: next(said, installed))
    north.it.tick(0.0)
    monkeypatch.setattr(introductions, "software", lambda: installed)
    hub.it.receive("north", north.out.pop())
    assert hub.refused == ["north: nodes of one study run one major.minor version of the software"]
    monkeypatch.setattr(introductions, "software", lambda: "0.2.0")
    north.it.receive("hub", hub.out.pop())
    assert "this node runs fedsecure 0.2.0 and hub 0.1" in north.stopped[0]


@pytest.mark.parametrize("taken", ["before a start", "while it ran"])
def test_an_older_copy_of_a_sites_folder_is_refused_and_the_site_stops(world: World, taken: str) -> None:
    north, hub = greeted(world)
    world.copy("north")
    if taken == "before a start":
        north = world.start("north")
    north.sends()
    north.it.soon()
    north.it.tick(1.0)
    talk(north, hub)
    world.restore("north")
    north = world.start("north")
    north.sends(50)  # what the copy does after it was started hides nothing
    north.it.tick(0.0)
    talk(north, hub)
    assert not hub.it.welcome("north")
    assert "north: a node's folder never goes back" in hub.refused[-1]
    assert north.stopped[0] == OLDER_COPY
    assert hub.stopped == []


def test_an_older_copy_of_the_coordinators_folder_is_refused_by_sites_and_it_stops(world: World) -> None:
    north, _ = greeted(world)
    world.copy("hub")
    hub = world.start("hub")
    north.it.soon()
    north.it.tick(1.0)
    talk(north, hub)
    world.restore("hub")
    hub = world.start("hub")
    north.it.soon()
    north.it.tick(2.0)
    talk(north, hub)
    assert set(hub.stopped) == {OLDER_COPY}
    assert not north.it.welcome("hub")
    assert any("hub: a node's folder never goes back" in line for line in north.refused)
    assert north.stopped == []


def test_two_copies_that_run_at_once_are_noticed(world: World) -> None:
    _, hub = greeted(world)
    twin = Node(world.path / "twin", "north", world.identities["north"], world.roster)
    twin.it.tick(0.0)
    talk(twin, hub)
    assert twin.stopped == [OLDER_COPY]


@pytest.mark.parametrize("shown", ["nothing", "a stranger's", "its own of this start"])
def test_a_claim_without_proof_stops_nobody(world: World, shown: str) -> None:
    north, hub = greeted(world)
    north.it.soon()
    north.it.tick(1.0)
    lie = Greeting(
        "hub", "north", STUDY.digest(), (), "0.1.0", 1, bytes(16), 0, 0, 0, Verdict.RESTORED,
        {"nothing": b"", "a stranger's": GREETINGS.write(_far_ahead(), Identity.generate()),
         "its own of this start": north.out[-1]}[shown],
    )  # fmt: skip
    north.it.receive("hub", GREETINGS.write(lie, hub.identity))
    assert north.stopped == []
    assert "shows what its node has signed" in north.refused[-1]


def _far_ahead() -> Greeting:
    return Greeting("north", "hub", STUDY.digest(), (), "0.1.0", 99, bytes(16), 9, 9, 0, Verdict.UNKNOWN)


def test_new_keys_begin_anew(world: World) -> None:
    """The way back for a site whose folder was lost: the roster gives it new keys, and nothing is an older copy."""
    greeted(world)
    world.start("north")
    shutil.rmtree(world.path / "north")
    world.identities["north"] = Identity.generate()
    north, hub = world.start("north"), world.start("hub")
    north.it.tick(0.0)
    talk(north, hub)
    assert hub.renewed == ["north"]
    assert hub.it.welcome("north")


def test_another_roster_has_whoever_it_changes_greet_anew(world: World) -> None:
    site, hub = greeted(world)
    hub.it.follow(world.roster)
    assert hub.it.welcome("north")
    hub.it.follow(Roster("hub", {**world.roster.members, "north": Identity.generate().public}))
    assert not hub.it.welcome("north")
    site.it.tick(AGAIN_EVERY_S + 1)
    talk(site, hub)
    assert not hub.it.welcome("north")  # by the keys before
    hub.it.follow(Roster("hub", {"hub": world.roster.members["hub"], "south": Identity.generate().public}))
    hub.refused.clear()
    site.it.tick(2 * AGAIN_EVERY_S + 2)
    talk(site, hub)
    assert hub.refused
    assert not hub.it.welcome("north")


def test_only_members_greet(world: World) -> None:
    _, hub = greeted(world)
    for peer in ("mallory", "hub"):
        hub.it.receive(peer, GREETINGS.write(_far_ahead(), Identity.generate()))
    hub.it.receive("north", GREETINGS.write(_far_ahead(), Identity.generate()))
    assert hub.refused == [
        "mallory: whoever greets is another member of the roster",
        "hub: whoever greets is another member of the roster",
        "north: a note is signed by its sender",
    ]
    assert hub.out == []
    assert hub.it.welcome("north")  # nobody is put out by what another sends


def test_clocks_that_differ_are_noted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[], float] = introductions.time.time
    north, hub = world.start("north"), world.start("hub")
    monkeypatch.setattr(introductions.time, "time", lambda: real() + 3600)
    north.it.tick(0.0)
    monkeypatch.setattr(introductions.time, "time", real)
    hub.it.receive("north", north.out.pop())
    assert 3590 < hub.it.skews["north"] < 3610
    assert hub.refused == ["north: clocks of one study differ by at most 10 minutes"]
    assert hub.it.welcome("north")


def test_what_is_remembered_is_on_disk_before_the_answer(world: World) -> None:
    greeted(world)
    hub = world.start("hub")
    held = hub.store.get("peers")
    assert held is not None
    assert set(msgspec.msgpack.decode(held)) == {"north"}
