"""A running node follows the trust file of its folder, and ends when there is no roster to act on."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fedsecure.config import Member, Run, SecuritySettings, Site, Study
from fedsecure.node import membership
from fedsecure.node.membership import IDENTITY, accept, load_trust, open_own, update_trust
from fedsecure.node.roster_watch import LOOK_S, RosterWatch
from fedsecure.node.shell import Shell
from fedsecure.node.vitals import read
from fedsecure.node.wiring import build_coordinator, build_site, inline_trainer, lay_out, run_site
from fedsecure.plan import frame_limit
from keys import amend, keystore
from keys.edition import Edition, Reason
from keys.errors import IdentityError, RosterError
from keys.roster import Roster
from protocols.messages import LeaveReason
from protocols.transport.memory import MemoryHub
from sim.ceremony import enrol

NAMES = ("hub", "north", "south", "east")
THREE = Study(sites=tuple(Member(name=name, weight=1) for name in NAMES[1:]), security=SecuritySettings(secagg=False))


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in NAMES}
    for folder in made.values():
        folder.mkdir()
    enrol(made, "hub")
    for folder in made.values():  # three sites vouch for each other; two of them are enough
        update_trust(folder, lambda trust: type(trust)(trust.federation, trust.me, 2, trust.pins, trust.accepted))
    return made


def without(folders: dict[str, Path], name: str) -> Edition:
    """The next roster, in which `name` is revoked and which the other sites have signed."""
    edition = load_trust(folders["hub"]).accepted
    assert edition is not None
    following = amend.revoke(edition, name, Reason.COMPROMISED, edition.issued, membership.now())
    for site in following.sites:
        following = following.signed(site, keystore.load(folders[site] / IDENTITY))
    return following


class Node:
    """A watch, the time it goes by, and what it has told."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.told: list[Roster] = []
        self.watch = RosterWatch(folder, open_own(folder), self.told.append, lambda: self.now)

    def look(self) -> None:
        self.now += LOOK_S
        self.watch.look()


def test_a_node_is_told_of_another_roster_once(folders: dict[str, Path]) -> None:
    node = Node(folders["north"])
    node.look()
    assert node.told == []
    accept(folders["north"], without(folders, "south"))
    node.watch.look()  # not a second yet
    assert node.told == []
    node.look()
    node.look()
    assert [sorted(roster.members) for roster in node.told] == [["east", "hub", "north"]]


def test_a_roster_that_expires_ends_a_running_node(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(folders["north"])
    later = membership.now() + timedelta(days=90)
    node.look()
    monkeypatch.setattr(membership, "now", lambda: later)
    with pytest.raises(RosterError, match="has expired"):
        node.look()


def test_a_trust_file_that_is_damaged_or_gone_ends_it(folders: dict[str, Path]) -> None:
    north, south = Node(folders["north"]), Node(folders["south"])
    (folders["north"] / "trust").write_bytes(b"nonsense")
    (folders["south"] / "trust").unlink()
    with pytest.raises(RosterError, match="damaged"):
        north.look()
    with pytest.raises(RosterError, match="cannot read"):
        south.look()


def test_other_keys_for_the_node_itself_end_it(folders: dict[str, Path]) -> None:
    node = Node(folders["north"])
    replacement = folders["north"].parent / "other"
    replacement.mkdir()
    others = {name: replacement if name == "north" else folder for name, folder in folders.items()}
    for name in ("hub", "south", "east"):
        (folders[name] / IDENTITY).unlink()
    enrol(others, "hub")
    (replacement / "trust").replace(folders["north"] / "trust")
    with pytest.raises(IdentityError, match="start the node anew"):
        node.look()
    assert node.told == []


@pytest.fixture
def shells(folders: dict[str, Path]) -> Iterator[dict[str, Shell]]:
    study = THREE
    hub = MemoryHub(frame_limit(study))
    made: dict[str, Shell] = {}
    for name, folder in folders.items():
        lay_out(folder, study, Run(), None if name == "hub" else Site(name=name, source="folder:x", coordinator="x"))
        parts = inline_trainer(folder, lambda _: None), lambda _: None
        if name == "hub":
            made[name] = build_coordinator(folder, open_own(folder), hub.server, *parts)
        else:
            made[name] = build_site(folder, open_own(folder), hub.client, *parts)
    yield made
    for shell in made.values():
        shell.close()


def test_a_running_coordinator_drops_who_was_revoked(folders: dict[str, Path], shells: dict[str, Shell]) -> None:
    hub, south = shells["hub"], shells["south"]
    for name in ("north", "south"):  # not all: the study waits for east, and nobody trains
        shells[name].pump(0)
    hub.pump(0)
    assert hub._state.joined == {"north", "south"}  # type: ignore[attr-defined]
    following = without(folders, "south")
    for name in ("hub", "north"):
        watch = RosterWatch(folders[name], open_own(folders[name]), shells[name].follow)
        accept(folders[name], following)
        watch.look()
    hub.pump(0)
    assert hub._state.left == {"south": LeaveReason.VETOED}  # type: ignore[attr-defined]
    assert set(hub._state.cohort) == {"north", "east"}  # type: ignore[attr-defined]
    south._transport.send(b"still here?")  # type: ignore[attr-defined]
    assert hub._channel().poll(0) == []
    assert set(shells["north"]._gate._readers) == {"east"}


def test_who_was_revoked_while_the_coordinator_was_down_is_not_waited_for(
    folders: dict[str, Path], shells: dict[str, Shell]
) -> None:
    shells.pop("hub").close()
    accept(folders["hub"], without(folders, "south"))
    study = THREE
    hub = MemoryHub(frame_limit(study))
    folder = folders["hub"]
    parts = inline_trainer(folder, lambda _: None), lambda _: None
    again = build_coordinator(folder, open_own(folder), hub.server, *parts)
    again.pump(0)
    assert again._state.left == {"south": LeaveReason.VETOED}
    assert set(again._state.cohort) == {"north", "east"}
    again.close()


def test_a_running_node_whose_roster_ends_says_so_in_log_and_status(folders: dict[str, Path]) -> None:
    south, stream = folders["south"], io.StringIO()
    study = THREE
    lay_out(south, study, Run(), Site(name="south", source="folder:x", coordinator="tcp://127.0.0.1:1"))
    (south / "trust").rename(south / "aside")
    threading.Timer(1.0, (south / "trust").write_bytes, [b"nonsense"]).start()
    shutil.copy(south / "aside", south / "trust")
    with pytest.raises(RosterError, match="damaged"):
        run_site(south, log=stream)
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["event"], last["level"], last["reason"]) == ("stopped", "error", "roster")
    assert "damaged" in str(read(south).stopped)
