"""The doctor on the wire: what becomes known of each site's volumes, and that nothing else does."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import pytest

from fedsecure.agreement import (
    AGREEMENTS,
    Agreement,
    Begin,
    Category,
    Digests,
    KeyShare,
    Verdicts,
    digests,
    open_key,
    share_key,
)
from fedsecure.config import Study, parse_study
from fedsecure.node.checks import Finding
from fedsecure.node.comparison import CoordinatorEnd, SiteEnd, _End
from fedsecure.node.membership import Own
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import BadSignature, CannotDecrypt, Malformed, ProtocolError, WrongRecipient

SITES = ("east", "north", "south")
STUDY = parse_study({"sites": [{"name": name, "weight": 3} for name in SITES], "security": {"secagg": False}})
VERSIONS = {"fedsecure": "0.1.0", "torch": "2.13.0+cpu"}
MR = {Category.LABELS: "[null, [0, 1]]", Category.MODALITY: "MR", Category.SPACING: "2 3"}
IDENTITIES = {name: Identity.generate() for name in ("hub", *SITES)}
ROSTER = Roster("hub", {name: identity.public for name, identity in IDENTITIES.items()})


class World:
    """All ends, joined by queues of signed bytes, all of which are kept."""

    def __init__(self, values: Mapping[str, Mapping[Category, str]], wait_s: float = 60.0, **studies: Study) -> None:
        self.wire: list[tuple[str, str, bytes]] = []
        self.queue: list[tuple[str, str, bytes]] = []
        self.notes: list[Agreement] = []
        own = {name: Own(name, IDENTITIES[name], ROSTER) for name in IDENTITIES}
        self.hub = CoordinatorEnd(own["hub"], STUDY, VERSIONS, self.sayer("hub"), os.urandom, wait_s=wait_s)
        self.ends: dict[str, _End] = {"hub": self.hub}
        for name, held in values.items():
            study = studies.get(name, STUDY)
            self.ends[name] = SiteEnd(own[name], study, VERSIONS, self.sayer(name), os.urandom, values=held)

    def sayer(self, name: str):  # type: ignore[no-untyped-def]
        def say(note: Agreement) -> None:
            self.notes.append(note)
            self.queue.append((name, note.recipient, AGREEMENTS.write(note, IDENTITIES[name])))

        return say

    def run(self) -> dict[str, list[Finding]]:
        for end in self.ends.values():
            if isinstance(end, SiteEnd):
                end.tick(time.monotonic())
        while self.queue:
            sender, recipient, raw = self.queue.pop(0)
            self.wire.append((sender, recipient, raw))
            if recipient in self.ends:
                self.ends[recipient].receive(sender, raw)
            self.hub.tick(time.monotonic())
        return {name: end.findings for name, end in self.ends.items()}

    def late(self) -> None:
        """The time to wait is over."""
        self.hub.tick(time.monotonic() + 1e6)


def about(findings: list[Finding], what: str) -> list[str]:
    return [f"{finding.level}: {finding.text}" for finding in findings if finding.what == what]


def test_all_learn_who_is_the_same_in_what() -> None:
    values = {"east": MR, "north": {**MR, Category.MODALITY: "CT"}, "south": MR}
    found = World(values).run()
    for name in ("hub", *SITES):
        assert about(found[name], "label map") == ["ok: the same at east, north, south"]
        assert about(found[name], "modality") == ["warning: not the same: east south | north"]
        assert about(found[name], "spacing") == ["ok: the same at east, north, south"]
    assert len(about(found["hub"], "clock")) == 3
    assert about(found["north"], "study") == ["ok: hub: the same"]


def test_nothing_of_the_categories_is_on_the_wire_and_each_session_has_other_digests() -> None:
    marked = {Category.LABELS: "planted-labels", Category.MODALITY: "PLANTED", Category.SPACING: "planted-spacing"}
    seen = []
    for _ in range(2):
        world = World(dict.fromkeys(SITES, marked))
        world.run()
        everything = b"".join(raw for _, _, raw in world.wire)
        assert b"planted" not in everything.lower()
        seen += [note.digests for note in world.notes if isinstance(note, Digests)]
        # A site never sees another's digests, only the coordinator does, which has no key.
        assert {note.recipient for note in world.notes if isinstance(note, Digests)} == {"hub"}
        assert not [note for note in world.notes if isinstance(note, KeyShare) and note.reader == "hub"]
    assert len(set(seen[:3])) == 1
    assert seen[0] != seen[3]


def test_a_study_that_differs_is_named_by_setting() -> None:
    other = parse_study({**STUDY.model_dump(mode="json"), "seed": 7})
    found = World(dict.fromkeys(SITES, MR), north=other).run()
    assert "failed: north: seed" in about(found["hub"], "study")
    assert about(found["north"], "study") == ["failed: hub: seed"]


def test_who_is_late_is_named_and_the_others_are_compared() -> None:
    world = World({"north": MR, "south": MR})
    world.run()
    assert not world.hub.done
    world.late()
    found = world.run()
    assert about(found["hub"], "site") == ["failed: east did not come"]
    assert about(found["south"], "spacing") == ["ok: the same at north, south"]


def test_alone_nothing_is_compared() -> None:
    world = World({"north": MR})
    world.run()
    world.late()
    assert about(world.hub.findings, "sites") == ["warning: fewer than two answered: nothing was compared"]


SESSION, KEY = bytes(16), b"k" * 32


def shared() -> KeyShare:
    return share_key(KEY, SESSION, "east", IDENTITIES["east"], ROSTER, "north")


def changed(share: KeyShare, **fields: object) -> KeyShare:
    values = {name: getattr(share, name) for name in share.__struct_fields__}
    return KeyShare(**{**values, **fields})


def test_a_key_opens_for_its_reader() -> None:
    assert open_key(shared(), SESSION, "north", IDENTITIES["north"], ROSTER) == KEY


@pytest.mark.parametrize(
    ("share", "session", "error", "blamed"),
    [
        (changed(shared(), session=b"x" * 16), SESSION, Malformed, "hub"),
        (shared(), b"x" * 16, Malformed, "hub"),
        # The coordinator's own key would let it try categories.
        (share_key(KEY, SESSION, "hub", IDENTITIES["hub"], ROSTER, "north"), SESSION, Malformed, "hub"),
        (changed(share_key(KEY, SESSION, "hub", IDENTITIES["hub"], ROSTER, "north"), author="east"), SESSION,
         BadSignature, "hub"),
        (share_key(KEY, SESSION, "east", IDENTITIES["east"], ROSTER, "south"), SESSION, WrongRecipient, "hub"),
        (changed(shared(), sealed=b"s" * 80), SESSION, BadSignature, "hub"),
    ],
)  # fmt: skip
def test_a_key_that_could_be_the_coordinators_is_refused(
    share: KeyShare, session: bytes, error: type[ProtocolError], blamed: str
) -> None:
    with pytest.raises(error) as refusal:
        open_key(share, session, "north", IDENTITIES["north"], ROSTER)
    assert refusal.value.peer == blamed


def test_a_key_that_does_not_open_is_its_makers_fault() -> None:
    stranger = Roster("hub", {**ROSTER.members, "north": Identity.generate().public})
    share = share_key(KEY, SESSION, "east", IDENTITIES["east"], stranger, "north")
    with pytest.raises(CannotDecrypt) as refusal:
        open_key(share, SESSION, "north", IDENTITIES["north"], ROSTER)
    assert refusal.value.peer == "east"


def test_a_digest_is_bound_to_category_session_and_key() -> None:
    same = dict.fromkeys(Category, "x")
    made = digests(KEY, SESSION, same)
    assert len({*made, *digests(KEY, b"y" * 16, same), *digests(b"l" * 32, SESSION, same)}) == 9


def test_what_does_not_hold_is_a_finding_and_changes_nothing() -> None:
    world = World(dict.fromkeys(SITES, MR))
    north = world.ends["north"]
    north.receive("hub", AGREEMENTS.write(Begin("hub", "north", SESSION, False), IDENTITIES["south"]))
    north.receive("mallory", b"")
    north.receive("hub", AGREEMENTS.write(Verdicts("hub", "north", SESSION, SITES, ((0,),) * 3), IDENTITIES["hub"]))
    assert [finding.text for finding in north.findings] == ["hub: a note is signed by its sender"]
    assert not north.done


@pytest.mark.parametrize(
    ("sites", "groups"),
    [(SITES, ((0, 0), (0, 0), (0, 0))), (("puppet",), ((0,), (0,), (0,))), (SITES, ((0, 0, 0, 0),) * 3)],
    ids=["too few numbers", "a site that is none", "too many numbers"],
)
def test_verdicts_that_do_not_fit_the_sites_are_the_coordinators_fault(
    sites: tuple[str, ...], groups: tuple[tuple[int, ...], ...]
) -> None:
    end = World({"north": MR}).ends["north"]
    for note in (Begin("hub", "north", bytes(16), False), Verdicts("hub", "north", bytes(16), sites, groups)):
        end.receive("hub", AGREEMENTS.write(note, IDENTITIES["hub"]))
    assert not end.done
    assert [finding.text for finding in end.findings if finding.level == "failed"] == [
        "hub: verdicts have a number for each site, and sites of the roster"
    ]
