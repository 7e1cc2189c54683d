"""A federation of logs: honest ones are vouched for, and two histories leave evidence or no checkpoint."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import Identity
from keys.roster import Roster
from protocols.tlog.checkpoint import (
    Checkpoint,
    compare,
    compare_views,
    countersign,
    encode,
    follow,
    read_checkpoint,
    read_head,
    sign_head,
    viewed,
    witness_of,
)
from protocols.tlog.errors import BadProof, DifferentView, Rollback, SplitView
from protocols.tlog.merkle import EMPTY, Frontier, consistency_proof, leaf_hash, root_of
from protocols.tlog.messages import NO_VIEW, Head, SignedHead

IDENTITIES = {name: Identity.generate() for name in ("hub", "north", "south", "west")}
ROSTER = Roster("hub", {name: identity.public for name, identity in IDENTITIES.items()})
STUDY = bytes(range(32))
LEAVES = [leaf_hash(bytes((index,))) for index in range(40)]


def signed(round_: int, leaves: list[bytes], site: str = "north") -> SignedHead:
    ledger = hashlib.sha256(b"ledger of round %d" % round_).digest()
    head = Head(1, STUDY, site, round_, len(leaves), root_of(leaves), ledger, 0, NO_VIEW)
    return sign_head(IDENTITIES[site], head)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_rounds_with_witnesses_that_rotate(growth: list[int]) -> None:
    """Each round's checkpoint is read by everybody; a witness that missed rounds catches up with one proof."""
    last: dict[str, SignedHead] = {}
    frontier, size = Frontier(), 0
    for round_, grown in enumerate(growth):
        for leaf in LEAVES[size : size + grown]:
            frontier = frontier.append(leaf)
        size += grown
        head = Head(1, STUDY, "north", round_, frontier.size, frontier.root, bytes(32), 0, NO_VIEW)
        raw = encode(sign_head(IDENTITIES["north"], head))
        given_by = []
        for member in ("hub", ("south", "west")[round_ % 2]):
            new = read_head(raw, peer="north", study=STUDY, roster=ROSTER)
            seen = last.get(member)
            proof = consistency_proof(LEAVES[:size], seen.head.size if seen else 0)
            given_by.append(countersign(IDENTITIES[member], member, seen, new, proof, peer="north"))
            last[member] = new
        checkpoint = Checkpoint(new, tuple(given_by))
        assert read_checkpoint(encode(checkpoint), peer="hub", study=STUDY, roster=ROSTER) == checkpoint


@given(st.integers(1, 39), st.integers(0, 39), st.integers(0, 38))
def test_a_log_that_forgot_never_passes_its_witness(seen: int, size: int, at: int) -> None:
    """After a leaf that was seen is lost or changed, a witness refuses; with evidence, if two heads are some."""
    at %= seen
    rewritten = [*LEAVES[:at], leaf_hash(b"another"), *LEAVES[at + 1 :]][:size]
    last, new = signed(1, LEAVES[:seen]), signed(2, rewritten)
    proof = consistency_proof(rewritten, min(seen, size))
    expected = Rollback if size < seen else SplitView if size == seen else BadProof
    with pytest.raises(expected) as caught:
        follow(last, new, proof, peer="north")
    assert caught.value.peer == "north"
    if isinstance(caught.value, SplitView):
        assert caught.value.evidence == (encode(last), encode(new))


def test_two_members_who_were_shown_two_logs_find_out_by_gossip() -> None:
    to_south, to_west = signed(1, LEAVES[:5]), signed(1, [*LEAVES[:4], leaf_hash(b"another")])
    for shown in (to_south, to_west):
        follow(None, shown, (), peer="north")  # neither can know
    told = read_head(encode(to_west), peer="west", study=STUDY, roster=ROSTER)
    with pytest.raises(SplitView, match="north: a member signs one head a round") as caught:
        compare(to_south, told)
    assert caught.value.evidence == (encode(to_south), encode(to_west))


@given(st.integers(1, 8), st.integers(0, 7), st.integers(0, 30))
def test_every_other_site_is_the_witness_in_turn_and_of_different_members(sites: int, author: int, round_: int) -> None:
    names = tuple(f"s{number}" for number in range(sites))
    for who in ("hub", names[author % sites]):
        others = set(names) - {who}
        turns = [witness_of(who, round_ + turn, names) for turn in range(len(others))]
        assert set(turns) - {None} == others
    if not others:
        assert witness_of(who, round_, names) is None


def test_a_view_tells_lists_of_heads_apart() -> None:
    one, two = signed(0, LEAVES[:2]), signed(0, LEAVES[:3], "south")
    views = {NO_VIEW, viewed(NO_VIEW, one), viewed(viewed(NO_VIEW, one), two), viewed(viewed(NO_VIEW, two), one)}
    assert len(views) == 4


def test_mistakes_of_ours() -> None:
    new = signed(1, LEAVES[:3])
    with pytest.raises(ValueError, match="his own witness"):
        countersign(IDENTITIES["north"], "north", None, new, (), peer="north")
    with pytest.raises(ValueError, match="two logs"):
        compare(new, signed(1, LEAVES[:3], "south"))
    with pytest.raises(ValueError, match="root of no leaves"):
        Head(1, STUDY, "north", 1, 0, bytes(32), bytes(32), 0, NO_VIEW)
    with pytest.raises(ValueError, match=">= 0"):
        sign_head(IDENTITIES["north"], Head(1, STUDY, "north", -1, 3, bytes(32), bytes(32), 0, NO_VIEW))


def test_two_sites_that_were_shown_two_lists_find_out_by_each_others_heads() -> None:
    shown = [signed(0, LEAVES[:2]), signed(0, LEAVES[:3], "south")]
    views = [NO_VIEW]
    for each in shown:
        views.append(viewed(views[-1], each))

    def of(seen: int, view: bytes) -> SignedHead:
        return sign_head(IDENTITIES["west"], Head(1, STUDY, "west", 1, 0, EMPTY, bytes(32), seen, view))

    for seen in range(3):
        compare_views(views, of(seen, views[seen]), coordinator="hub")
    compare_views(views, of(3, viewed(views[2], shown[0])), coordinator="hub")  # of a list that is longer
    with pytest.raises(DifferentView, match=r"hub: .* west saw another"):
        compare_views(views, of(1, viewed(NO_VIEW, shown[1])), coordinator="hub")
