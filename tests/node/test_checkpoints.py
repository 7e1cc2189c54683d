"""Nodes sign, pass on and check heads: what is honest comes through whatever is lost, and what is not is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fedsecure.audit.log import Entry
from fedsecure.audit.testimony import Status
from fedsecure.audit.verify import verify
from fedsecure.bench.logs import HUB, LogNode, LogWorld
from fedsecure.node.checkpoints import CONTRADICTIONS
from fedsecure.node.membership import load_trust, save_trust
from keys.edition import Member, Reason, Revoked
from keys.identity import Identity
from keys.roster import Roster
from protocols.messages import LogHead, LogHeads, LogWitness
from protocols.tlog.checkpoint import Checkpoint, encode, read_checkpoint, read_head, sign_head
from protocols.tlog.errors import BadProof, DifferentView, Rollback, SplitView
from protocols.tlog.messages import NO_VIEW, Countersignature, Shown, SignedHead, Vouch

A, B, C = "site-000", "site-001", "site-002"


@pytest.fixture
def world(tmp_path: Path) -> LogWorld:
    return LogWorld(tmp_path / "run", 3, 8)


def faults(world: LogWorld) -> dict[str, list[str]]:
    return {name: [type(error).__name__ for error in node.faults] for name, node in world.nodes.items() if node.faults}


def kept(node: LogNode) -> list[Shown]:
    return [msgspec.msgpack.decode(raw, type=Shown) for raw in node.store.heads()]


def restarted(world: LogWorld, name: str, boot: int) -> LogNode:
    """The node as it is after a kill: from its folder alone."""
    before = world.nodes[name]
    before.store.close()
    world.nodes[name] = LogNode(world, name, boot)
    world.nodes[name].replay = before.replay
    return world.nodes[name]


def test_each_head_becomes_a_checkpoint_that_anybody_can_read(world: LogWorld) -> None:
    for number in range(4):
        world.round(number)
    assert faults(world) == {}
    hub = world.nodes[HUB]
    vouches = {(author, round_): (member, raw) for author, round_, member, raw in hub.store.vouches()}
    shown = [each for each in kept(hub) if each.signed.head.round < 3]
    assert len(shown) == 3 * 4
    witnesses: dict[str, set[str]] = {}
    for each in shown:
        head = each.signed.head
        member, signature = vouches[head.member, head.round]
        witnesses.setdefault(head.member, set()).add(member)
        by = sorted((*each.countersigned, Countersignature(member, signature)), key=lambda one: one.member)
        raw = encode(Checkpoint(each.signed, tuple(by)))
        assert read_checkpoint(raw, peer=HUB, study=world.study.digest(), roster=world.roster).signed == each.signed
    assert witnesses == {HUB: {A, B, C}, A: {B, C}, B: {A, C}, C: {A, B}}
    for site in (A, B, C):
        assert kept(world.nodes[site]) == kept(hub)[: len(kept(world.nodes[site]))]


@pytest.mark.parametrize("lost", ["list", "head", "vouch"])
def test_what_is_lost_on_its_way_is_made_up_for(world: LogWorld, lost: str) -> None:
    world.round(0)
    tag = {"list": LogHeads, "head": LogHead, "vouch": LogWitness}[lost]
    drop, hand_over = [True], world.hand_over

    def drops(sender: str, recipient: str, frame: bytes) -> None:
        if drop[0] and A in (sender, recipient) and str(tag.__struct_config__.tag).encode() in frame:
            return
        hand_over(sender, recipient, frame)

    world.hand_over = drops  # type: ignore[method-assign]
    world.round(1)
    drop[0] = False
    for number in (2, 3, 4):
        world.round(number)
    assert faults(world) == {}
    hub = world.nodes[HUB]
    assert [each.signed.head.round for each in kept(hub) if each.signed.head.member == A][-1] == 4
    assert len(kept(world.nodes[A])) == len(kept(world.nodes[B]))


def test_nodes_that_are_killed_go_on_and_a_round_done_again_has_one_head(world: LogWorld) -> None:
    world.round(0)
    site, hub = restarted(world, A, 2), restarted(world, HUB, 2)
    site.checkpoints.round_done(0, 0)
    hub.checkpoints.round_opens(0, 0)
    world.deliver()
    world.round(1)
    site = restarted(world, A, 3)
    world.round(2)
    assert faults(world) == {}
    assert list(site.store.own()) == [0, 1, 2]
    rounds = [(each.signed.head.member, each.signed.head.round) for each in kept(hub)]
    assert len(rounds) == len(set(rounds)) == 12


def rewrite(node: LogNode, leaves: list[bytes]) -> None:
    """What whoever owns the folder can do: another log, under the same keys."""
    node.store._db.execute("DELETE FROM leaves")
    node.store.note(*map(Entry, leaves))


def test_a_site_whose_log_lost_leaves_is_told_to_have_rolled_back(world: LogWorld) -> None:
    for number in range(2):
        world.round(number)
    site = world.nodes[A]
    rewrite(site, list(site.store.leaves_from(0))[:3])
    restarted(world, A, 2)
    world.at = (0, 2)
    world.nodes[HUB].checkpoints.round_opens(0, 2)
    with pytest.raises(ValueError, match="smaller"):  # by its own software it does not even get so far
        world.nodes[A].checkpoints.round_done(0, 2)
    head = kept(world.nodes[HUB])[-1].signed.head
    forged = sign_head(site.identity, msgspec.structs.replace(
        next(each.signed.head for each in reversed(kept(world.nodes[HUB])) if each.signed.head.member == A),
        round=2, size=3, root=b"r" * 32, seen=head.seen, view=head.view,
    ))  # fmt: skip
    world.nodes[HUB].checkpoints.take(A, LogHead(forged, ()))
    (error,) = world.nodes[HUB].faults
    assert isinstance(error, Rollback)
    assert str(error) == f"{A}: a log loses no leaf"
    evidence = (world.nodes[HUB].folder / CONTRADICTIONS / f"{A}-rollback").read_bytes()
    first = int.from_bytes(evidence[:4], "big")
    pair = evidence[4 : 4 + first], evidence[8 + first :]
    for raw in pair:  # whoever has the roster sees the same
        read_head(raw, peer="anybody", study=world.study.digest(), roster=world.roster)


def last_of(world: LogWorld, name: str) -> SignedHead:
    return next(each.signed for each in reversed(kept(world.nodes[HUB])) if each.signed.head.member == name)


def test_two_logs_of_a_site_and_a_history_that_was_rewritten(world: LogWorld) -> None:
    world.round(0)
    world.at = (0, 1)
    hub, site = world.nodes[HUB], world.nodes[A]
    hub.checkpoints.round_opens(0, 1)
    hub.checkpoints.show(A)
    world.deliver()
    before = kept(hub)
    size = last_of(world, A).head.size
    head = msgspec.structs.replace(
        last_of(world, A).head, round=1, root=b"r" * 32, seen=len(before), view=hub.checkpoints._views[-1]
    )
    hub.checkpoints.take(A, LogHead(sign_head(site.identity, head), ()))
    grown = msgspec.structs.replace(head, size=size + 2)
    hub.checkpoints.take(A, LogHead(sign_head(site.identity, grown), (b"x" * 32,)))
    assert [type(error) for error in hub.faults] == [SplitView, BadProof]
    assert kept(hub) == before
    hub.faults.clear()
    hub.checkpoints.take(A, LogHead(sign_head(world.nodes[B].identity, grown), ()))
    hub.checkpoints.take(B, LogHead(last_of(world, A), ()))
    hub.checkpoints.take(B, LogHead(sign_head(world.nodes[B].identity, msgspec.structs.replace(
        last_of(world, B).head, round=1, view=b"v" * 32, seen=1)), ()))  # fmt: skip
    hub.checkpoints.take(B, LogHead(sign_head(world.nodes[B].identity, msgspec.structs.replace(
        last_of(world, B).head, round=5)), ()))  # fmt: skip
    assert [type(error).__name__ for error in hub.faults] == [
        "BadSignature", "UnexpectedMessage", "Inconsistent", "UnexpectedMessage",
    ]  # fmt: skip


def test_a_coordinator_that_shows_sites_different_lists_is_found_out_by_their_heads(world: LogWorld) -> None:
    """It leaves C out of what it shows A; the heads that A then signs tell B."""
    world.round(0)
    hub = world.nodes[HUB]
    world.at = (0, 1)
    hub.checkpoints.round_opens(0, 1)
    honest = kept(hub)[1:]
    for_a = tuple(each for each in honest if each.signed.head.member != C)
    world.nodes[A].checkpoints.take(HUB, LogHeads(1, for_a))
    world.nodes[B].checkpoints.take(HUB, LogHeads(1, tuple(honest)))
    world.nodes[A].checkpoints.round_done(0, 1)
    world.wire.clear()
    mine = world.nodes[A].checkpoints._own[1]
    countersigned = world.nodes[HUB].checkpoints._countersign(mine.signed, mine.proof, A)
    shown = Shown(mine.signed, mine.proof, (countersigned,))
    world.nodes[B].checkpoints.take(HUB, LogHeads(len(honest) + 1, (shown,)))
    assert faults(world) == {B: ["DifferentView"]}
    assert isinstance(world.nodes[B].faults[0], DifferentView)
    assert str(world.nodes[B].faults[0]).startswith(f"{HUB}: all members are shown one list of heads, and {A} saw")


def test_a_folder_that_is_older_than_the_heads_it_is_shown_says_so(world: LogWorld) -> None:
    world.round(0)
    site = world.nodes[A]
    site.store._db.execute("DELETE FROM own")
    restarted(world, A, 2)
    world.nodes[HUB].checkpoints.show(A)
    world.deliver()
    assert [str(error) for error in world.nodes[A].faults] == [
        f"{A}: a log is signed as it is kept here: this folder is an older copy"
    ]


def test_a_site_that_joins_anew_with_new_keys_has_a_new_log(world: LogWorld, tmp_path: Path) -> None:
    world.round(0)
    world.nodes[A].store.close()
    lost = Revoked(A, A, world.identities[A].public, world.edition.issued, Reason.LOST)
    world.identities[A] = Identity.generate()
    world.roster = Roster(HUB, {**world.roster.members, A: world.identities[A].public})
    members = {name: Member(name, public) for name, public in world.roster.members.items()}
    edition = replace(world.edition, version=2, members=members, revoked=(lost,), signatures={})
    for name in (A, B, C):
        edition = edition.signed(name, world.identities[name])
    (tmp_path / "run" / "sites" / A).rename(tmp_path / "lost")
    (tmp_path / "run" / "sites" / A).mkdir()
    save_trust(world.folder_of(A), replace(load_trust(world.nodes[HUB].folder), me=A, accepted=edition))
    world.nodes[A] = LogNode(world, A)
    for name in (HUB, B, C):
        trust = load_trust(world.nodes[name].folder)
        save_trust(world.nodes[name].folder, replace(trust, accepted=edition))
        world.nodes[name].checkpoints.follow(world.roster)
        world.nodes[name].replay = type(world.nodes[name].replay)()
        world.nodes[A].replay = type(world.nodes[name].replay)()
    world.nodes[HUB].checkpoints.renewed(A)
    for name in (HUB, B, C):
        restarted(world, name, 2)
    for number in (1, 2, 3):
        world.round(number)
    assert faults(world) == {}
    assert last_of(world, A).head.round == 3
    assert kept(world.nodes[A]) == []
    world.close()
    found = verify(world.folder, edition)
    assert [one for one in found if one.status is Status.FAILED] == []
    assert [one.status for one in found if one.check == "heads"] == [Status.OPEN]  # the log that is lost with its keys
    assert [one.status for one in found if (one.check, one.node) == ("both ends", A)] == [Status.OPEN]


def test_what_a_witness_may_not_say(world: LogWorld) -> None:
    world.round(0)
    hub = world.nodes[HUB]
    hub.checkpoints.take(A, LogWitness(99, ()))
    hub.checkpoints.take(A, LogWitness(1, (Vouch(B, 7, bytes(64)),)))
    hub.checkpoints.take(A, LogWitness(1, (Vouch(B, 0, bytes(64)),)))
    assert [type(error).__name__ for error in hub.faults] == ["Inconsistent", "Inconsistent", "BadSignature"]


def test_a_list_does_not_grow_by_heads_that_are_in_it_or_of_no_round(world: LogWorld) -> None:
    for number in range(2):
        world.round(number)
    site, hub = world.nodes[A], world.nodes[HUB]
    before, (own,) = len(kept(site)), [each for each in kept(hub) if each.signed.head.member == HUB][-1:]
    unmoved = Shown(own.signed, world.nodes[HUB].checkpoints._tree.consistency(own.signed.head.size), ())
    for shown in (own, unmoved):
        site.checkpoints.take(HUB, LogHeads(before, (shown,)))
    late = msgspec.structs.replace(own.signed.head, round=2**31 - 1, seen=0, view=NO_VIEW)
    site.checkpoints.take(HUB, LogHeads(before, (Shown(sign_head(hub.identity, late), unmoved.proof, ()),)))
    assert len(kept(site)) == before
    assert [(error.peer, error.rule) for error in site.faults] == [
        *[(HUB, "the list has one head of a member and a round")] * 2,
        (HUB, "a head of the list is of a round of the study"),
    ]


def test_what_a_site_said_to_hold_it_holds(world: LogWorld) -> None:
    for number in range(2):
        world.round(number)
    hub = world.nodes[HUB]
    held = hub.checkpoints._held[A]
    hub.checkpoints.take(A, LogWitness(0, ()))
    assert hub.checkpoints._held[A] == held > 0
