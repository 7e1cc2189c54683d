"""Whole sums: exact for whoever is left, for every way in which sites can drop out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace as again  # states are used once, and ways branch: a copy for each
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from party import FLOORS, OPENING, expected, manifest, names, party, plain_sum, run

from protocols.errors import TooFew
from protocols.ring import signed
from protocols.secagg import client, server, setup, unmasking
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import assumed_corrupted, least_threshold

STEPS = ("open", "share", "mask", "check", "unmask")


def subsets(of: Any) -> Iterator[tuple[Any, ...]]:
    members = sorted(of)
    for size in range(len(members) + 1):
        yield from combinations(members, size)


@pytest.mark.parametrize("sites", [3, 4, 5, pytest.param(6, marks=pytest.mark.slow)])
def test_every_dropout_at_every_step(sites: int) -> None:
    """All ways in which sites can leave before each of the five steps. Steps are pure, so that the ways branch."""
    members, hub, roster = party(sites, length=2, ring=16)
    what = manifest(sites, length=2, ring=16)
    floors, least = FLOORS, least_threshold(sites, assumed_corrupted(sites))
    state, opened = server.open_sum(what, OPENING, roster, hub)
    keys, ledgers = {}, {}
    for name, site in members.items():
        place: Any = {"expected": expected(what), "floors": floors, "roster": roster, "me": name}
        begun, ledgers[name] = client.open_sum(opened, Ledger(), **place)
        keys[name] = client.advertise_keys(begun, site.identity)

    sums = 0
    for first in subsets(members):
        advertising = state
        for name in first:
            advertising = server.take_keys(advertising, name, keys[name][1])
        if len(first) < least:
            with pytest.raises(TooFew, match="AdvertiseKeys"):
                server.close_keys(advertising)
            continue
        sharing_, keysets = server.close_keys(advertising)
        shared = {n: setup.share_keys(again(keys[n][0]), keysets[n], members[n].identity) for n in first}
        for second in subsets(first):
            sharing = sharing_
            for name in second:
                sharing = server.take_shares(sharing, name, shared[name][1])
            if len(second) < least:
                with pytest.raises(TooFew, match="ShareKeys"):
                    server.close_shares(sharing)
                continue
            masking_, relays = server.close_shares(sharing)
            masked, burned = {}, {}
            for name in second:
                token, burned[name] = client.burn(
                    setup.accept_shares(again(shared[name][0]), relays[name]), ledgers[name]
                )
                masked[name] = client.mask_input(token, members[name].fill)
            for third in subsets(second):
                masking = masking_
                for name in third:
                    masking = server.take_vector(masking, name, masked[name][1])
                if len(third) < least:
                    with pytest.raises(TooFew, match="MaskedInput"):
                        server.close_vectors(masking)
                    continue
                sums += _to_the_end(masking, members, masked, burned, third, least)
    # Every way with at least t left at each step: whoever is missing left before one of five steps.
    assert sums == sum(_ways(sites, gone) for gone in range(sites - least + 1))


def _to_the_end(masking: Any, members: Any, masked: Any, burned: Any, third: Any, least: int) -> int:
    sums = 0
    checking_, told = server.close_vectors(masking)
    signed_by = {}
    for name in third:
        signing, ledger = client.sign(client.hear_survivors(again(masked[name][0]), told), burned[name])
        signed_by[name] = (*client.sign_survivors(signing, members[name].identity), ledger)
    for fourth in subsets(third):
        checking = checking_
        for name in fourth:
            checking = server.take_check(checking, name, signed_by[name][1])
        if len(fourth) < least:
            with pytest.raises(TooFew, match="ConsistencyCheck"):
                server.close_checks(checking)
            continue
        unmasking_, request = server.close_checks(checking)
        answers = {}
        for name in fourth:
            told_again = again(signed_by[name][0].told, masked=again(signed_by[name][0].told.masked))
            agreed = client.verify_agreement(again(signed_by[name][0], told=told_again), request)
            answering, _ = client.answer(agreed, signed_by[name][2])
            answers[name] = client.unmask(answering)[1]
        for fifth in subsets(fourth):
            state = unmasking_
            for name in fifth:
                state = server.take_unmask(state, name, answers[name])
            if len(fifth) < least:
                with pytest.raises(TooFew, match="Unmask"):
                    unmasking.open_masks(state)
                continue
            cohort = state.masking.sum.cohort
            words = unmasking.sum_vectors(cohort, [masked[name][1].vector for name in third])
            unmasking.remove_masks(cohort, words, unmasking.open_masks(state))
            assert signed(cohort.ring, words).tolist() == plain_sum(members, third)
            sums += 1
    return sums


def _ways(sites: int, gone: int) -> int:
    return len(list(combinations(range(sites), gone))) * len(STEPS) ** gone


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_larger_parties(data: st.DataObject) -> None:
    sites = data.draw(st.integers(7, 12))
    ring = data.draw(st.sampled_from((16, 20, 24, 32)))
    length = data.draw(st.integers(1, 9))
    members, hub, roster = party(sites, length, seed=data.draw(st.integers(0, 1000)), ring=ring)
    spare = sites - least_threshold(sites, assumed_corrupted(sites))
    gone = data.draw(st.lists(st.sampled_from(names(sites)), max_size=spare, unique=True))
    drop: dict[str, list[str]] = {}
    for name in gone:
        drop.setdefault(data.draw(st.sampled_from(STEPS)), []).append(name)
    done = run(members, hub, roster, manifest(sites, length, ring=ring), drop=drop)
    assert done.survivors == set(names(sites)) - {n for step in STEPS[:3] for n in drop.get(step, ())}
    assert done.total == plain_sum(members, done.survivors)
    assert not done.refusals


@pytest.mark.slow
def test_a_sparse_graph_sums_as_well() -> None:
    """101 sites, 52 neighbours each."""
    members, hub, roster = party(101, length=2)
    what = manifest(101, 2, corrupted=20)
    assert what.neighbours == 52
    drop = {"mask": names(101)[3:6], "unmask": names(101)[50:52]}
    done = run(members, hub, roster, what, drop=drop)
    assert done.total == plain_sum(members, done.survivors)
    assert len(done.survivors) == 98
    assert not done.refusals
    assert len(done.said["share", names(101)[0]].shares) == 53


def test_a_sum_longer_than_a_chunk() -> None:
    length = (1 << 18) + 7
    members, hub, roster = party(3, length)
    done = run(members, hub, roster, manifest(3, length))
    assert done.total == plain_sum(members, members)


@pytest.mark.parametrize("step", STEPS)
def test_the_next_round_begins_clean_after_an_abort(step: str) -> None:
    """With the same model, as nothing came of it; after answers were given, of the same sites."""
    members, hub, roster = party(5)
    with pytest.raises(TooFew):
        run(members, hub, roster, manifest(5), drop={step: names(5)[:2]})
    gone = names(5)[4:] if step != "unmask" else []
    done = run(members, hub, roster, manifest(5, round=1), drop={"open": gone})
    assert done.total == plain_sum(members, names(5)[: 5 - len(gone)])
    done = run(members, hub, roster, manifest(5, round=2, model=done.result), drop={"open": gone})
    assert not done.refusals


def test_answers_that_come_late_open_the_sum_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five are silent when they are asked to open; as no other sum began, what they send later counts."""
    members, hub, roster = party(5)
    request: dict[str, Any] = {}

    def keep(step: str, name: str, message: Any) -> Any:
        if step == "unmask":
            request[name] = message
            return None if name in names(5)[:2] else message
        return message

    states: list[Any] = []
    open_masks = unmasking.open_masks
    monkeypatch.setattr(unmasking, "open_masks", lambda state: states.append(state) or open_masks(state))
    with pytest.raises(TooFew, match="Unmask needs 4 sites, 3 are left"):
        run(members, hub, roster, manifest(5), down=keep)
    (state,) = states
    for name in names(5)[:2]:
        state = server.take_unmask(state, name, members[name].unmask(request[name]))
    assert len(open_masks(state).added) == 5


def test_one_masked_vector_alone_is_uniform() -> None:
    """What a coordinator sees of one site does not depend on its vector: zeros look as random as anything else."""
    members, hub, roster = party(4, length=4096)
    for site in members.values():
        site.vector = [0] * 4096
    done = run(members, hub, roster, manifest(4, 4096))
    for packed in done.vectors.values():
        ones = sum(byte.bit_count() for byte in packed)
        assert abs(ones - 4 * len(packed)) < 6 * (2 * len(packed)) ** 0.5  # six deviations
    assert len(set(done.vectors.values())) == 4
