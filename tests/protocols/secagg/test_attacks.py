"""Attacks, each with who refuses and whom it blames. A coordinator lies in `down`, a site in `up`."""

from __future__ import annotations

import itertools
from dataclasses import replace as changed
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from party import FLOORS, MODEL, Site, expected, manifest, names, party, plain_sum, run

from keys.encoding import prefixed, u64
from keys.hybrid import HybridKey
from protocols.errors import (
    BadShare,
    BadSignature,
    BelowFloor,
    CannotDecrypt,
    Inconsistent,
    Malformed,
    ProtocolError,
    Spent,
    TooFew,
    UnexpectedMessage,
    UnknownPeer,
)
from protocols.secagg import client, setup
from protocols.secagg.keyset import (
    ADVERTISE_LABEL,
    advertisement,
    advertisement_digest,
    draw_secrets,
    pair_keys,
    seed_commitment,
)
from protocols.secagg.manifest import MANIFEST_LABEL, Cohort, Floors, manifest_digest, sign_manifest
from protocols.secagg.messages import Held, KeyDigest, Keyset, RelayShares, SecAggOpen, UnmaskRequest
from protocols.secagg.messages import Signed as SignedBy
from protocols.secagg.shares import SHARES_LABEL, _signed_data, recover
from protocols.shamir import PRIME, share_bytes, split

A, B, C, D, E = names(5)


def refused(done: Any, who: str, what: type[ProtocolError], blamed: str, rule: str) -> None:
    found = [error for name, error in done.refusals if name == who]
    assert found, f"{who} refused nothing: {done.refusals}"
    assert type(found[0]) is what, found[0]
    assert found[0].peer == blamed
    assert rule in found[0].rule


def aborted(members: Any, hub: Any, roster: Any, what: Any, **hands: Any) -> list[tuple[str, ProtocolError]]:
    """A run that must not give a sum. What was refused on the way is in the list."""
    refusals: list[tuple[str, ProtocolError]] = []

    def down(step: str, name: str, message: Any) -> Any:
        return hands.get("down", lambda *a: a[2])(step, name, message)

    for site in members.values():  # note what each one refuses
        for step in ("open", "share", "mask", "check", "unmask"):
            _note(site, step, refusals)
    with pytest.raises(TooFew):
        run(members, hub, roster, what, down=down, up=hands.get("up", lambda *a: a[2]), drop=hands.get("drop"))
    return refusals


def _note(site: Site, step: str, refusals: list[tuple[str, ProtocolError]]) -> None:
    method = getattr(site, step)

    def noting(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except ProtocolError as error:
            refusals.append((site.name, error))
            raise

    setattr(site, step, noting)


def on(step: str, change: Any, *sites: str) -> Any:
    """A hand that changes the message of one step, for these sites or for all."""

    def hand(at: str, name: str, message: Any) -> Any:
        return change(message) if at == step and (not sites or name in sites) else message

    return hand


# --- the coordinator ------------------------------------------------------------------------------------------


def test_overlapping_lists() -> None:
    """A site in both lists would have both secrets opened."""
    members, hub, roster = party(5)
    both = on("check", lambda m: replace(m, dropped=(*m.dropped, m.survivors[-1])))
    refusals = aborted(members, hub, roster, manifest(5), down=both)
    assert len(refusals) == 5
    for name, error in refusals:
        refused(SimpleNamespace(refusals=[(name, error)]), name, Inconsistent, "hub", "among the survivors and")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda m: replace(m, survivors=m.survivors[:-1]), "all who shared keys"),
        (lambda m: replace(m, survivors=(*m.survivors, 900)), "all who shared keys"),
        (lambda m: replace(m, survivors=m.survivors[:4], dropped=(4, 7)), "all who shared keys"),
    ],
)
def test_lists_that_are_not_the_keyset(change: Any, rule: str) -> None:
    members, hub, roster = party(5)
    refusals = aborted(members, hub, roster, manifest(5), down=on("check", change, A, B, C, D))
    assert {(type(error), error.peer) for _, error in refusals} == {(Inconsistent, "hub")}
    assert all(rule in error.rule for _, error in refusals)


def test_duplicated_ids() -> None:
    """The codec refuses lists that do not ascend: no id counts twice towards a threshold."""
    members, hub, roster = party(5)
    for step, twice in (
        ("check", lambda m: replace(m, survivors=(m.survivors[0], *m.survivors))),
        ("unmask", lambda m: replace(m, signatures=(m.signatures[0], *m.signatures))),
    ):
        with pytest.raises(ValueError, match="ascending"):
            run(members, hub, roster, manifest(5, round=1), down=on(step, twice))
        members, hub, roster = party(5)


def test_fewer_signatures_than_the_threshold() -> None:
    members, hub, roster = party(5)
    few = on("unmask", lambda m: replace(m, signatures=m.signatures[:3]))
    refusals = aborted(members, hub, roster, manifest(5), down=few)
    assert {(type(e), e.peer) for _, e in refusals} == {(Inconsistent, "hub")}


def test_made_up_signatures() -> None:
    members, hub, roster = party(5)
    forged = on("unmask", lambda m: replace(m, signatures=(*m.signatures[:4], SignedBy(4, bytes(64)))))
    refusals = aborted(members, hub, roster, manifest(5), down=forged)
    assert {(type(e), e.peer) for _, e in refusals} == {(BadSignature, "hub")}


def test_different_survivors_to_different_sites() -> None:
    """A is told that E dropped, the others that E is there. Nobody has four equal signatures but for one set."""
    members, hub, roster = party(5)
    split_view = on("check", lambda m: replace(m, survivors=m.survivors[:4], dropped=(4,)), A, B)
    done_refusals = []
    state: dict[str, Any] = {}

    def up(step: str, name: str, message: Any) -> Any:
        if step == "check":
            state[name] = message
        return message

    with pytest.raises(TooFew, match="ConsistencyCheck"):
        run(members, hub, roster, manifest(5), down=split_view, up=up)
    # A coordinator that goes on all the same, with all signatures that it has:
    request = UnmaskRequest(state[A].keyset, tuple(SignedBy(r, state[n].signature) for r, n in enumerate(names(5))))
    for name in (A, C):
        with pytest.raises(BadSignature, match="same survivors") as caught:
            members[name].unmask(request)
        done_refusals.append(caught.value.peer)
    assert done_refusals == ["hub", "hub"]


@pytest.mark.parametrize("field", ["model", "inputs", "schema", "terms", "code", "clip", "noise", "flows", "study"])
def test_a_manifest_that_is_not_of_what_the_site_received(field: str) -> None:
    members, hub, _ = party(5)
    what = manifest(5)
    other = {"inputs": (), "flows": manifest(5, 4).flows, "clip": bytes(8), "noise": bytes(8)}.get(field, b"\1" * 32)
    opened = sign_manifest(replace(what, **{field: other}), hub)
    with pytest.raises(Inconsistent, match=f"the manifest's {field} is what the site") as caught:
        members[A].open(opened, expected(what))
    assert caught.value.peer == "hub"


def test_another_model_to_one_site() -> None:
    """Pasquini et al., CCS 2022. The victim is sent a model of its own, with a manifest that fits it: its advertisement
    says so, and the others drop it before anything is masked."""
    members, hub, _ = party(5)
    mine, theirs = manifest(5), manifest(5, model=b"\1" * 32)
    members[E].first = theirs.model  # whatever made it take this for the study's
    keys = {n: members[n].open(sign_manifest(theirs if n == E else mine, hub)) for n in members}
    digests = tuple(KeyDigest(rank, advertisement_digest(keys[n])) for rank, n in enumerate(names(5)))
    keyset = Keyset(Cohort(mine).digest, bytes(range(32)), digests, tuple(keys[n] for n in (B, C, D, E)))
    dealt = members[A].share(keyset)
    assert [entry.holder for entry in dealt.shares] == [0, 1, 2, 3]
    assert members[A].state.strangers == {4}
    (blamed,) = members[A].state.blamed
    refused(SimpleNamespace(refusals=[(A, blamed)]), A, Inconsistent, "hub", f"{E} advertised for another manifest")
    # Named among those who shared all the same, it is the coordinator's lie.
    with pytest.raises(Inconsistent, match="for this manifest") as caught:
        setup.accept_shares(members[A].state, RelayShares(dealt.keyset, (0, 1, 2, 3, 4), ()))
    assert caught.value.peer == "hub"
    # The victim is sent a keyset of another manifest than it advertised for, or finds itself alone.
    with pytest.raises(UnexpectedMessage, match="the manifest that the site advertised for"):
        members[E].share(keyset)
    with pytest.raises(TooFew, match="AdvertiseKeys needs 4 sites, 1 are left"):
        members[E].share(
            replace(keyset, manifest=Cohort(theirs).digest, advertisements=tuple(map(keys.get, (A, B, C, D))))
        )


def test_masks_do_not_cancel_between_manifests() -> None:
    """Two sites with different models, everything else the same, and the same keys: what is left is no sum."""
    members, _, _ = party(3)
    one, other = Cohort(manifest(3)), Cohort(manifest(3, model=b"\1" * 32))
    secrets = [draw_secrets(lambda size, k=k: bytes([k]) * size) for k in (1, 2)]
    public = advertisement(secrets[1], one, 1, members[B].identity).mask
    here, there = (pair_keys(view, bytes(32), secrets[0].mask, 0, {1: (public, b"")})[1] for view in (one, other))
    assert here != there


def test_substituted_keys() -> None:
    """The coordinator puts keys of its own in a site's place."""
    members, hub, roster = party(5)
    what = manifest(5)
    own = advertisement(draw_secrets(lambda size: b"\7" * size), Cohort(what), 4, hub)

    def advertisements(m: Any) -> Any:
        return tuple(own if entry.rank == 4 else entry for entry in m.advertisements)

    forged = on("share", lambda m: replace(m, advertisements=advertisements(m)), A)
    done = run(members, hub, roster, what, down=forged)
    refused(done, A, Inconsistent, "hub", "digest that the keyset says")
    assert done.survivors == {B, C, D, E}

    members, hub, roster = party(5)

    def both(m: Any) -> Any:
        digests = tuple(KeyDigest(4, advertisement_digest(own)) if d.rank == 4 else d for d in m.digests)
        return replace(m, digests=digests, advertisements=advertisements(m))

    done = run(members, hub, roster, what, down=on("share", both, A))
    refused(done, A, BadSignature, "hub", "signed by the site whose they are")


def test_a_sites_own_keys_substituted() -> None:
    members, hub, roster = party(5)
    mine = on("share", lambda m: replace(m, digests=(KeyDigest(0, bytes(32)), *m.digests[1:])), A)
    done = run(members, hub, roster, manifest(5), down=mine)
    refused(done, A, Inconsistent, "hub", "as it advertised them")


def test_shares_replayed_from_an_earlier_round() -> None:
    members, hub, roster = party(5)
    first: dict[str, Any] = {}

    def keep(step: str, name: str, message: Any) -> Any:
        return first.setdefault(name, message) if step == "mask" else message

    run(members, hub, roster, manifest(5), down=keep)
    next_ = manifest(5, round=1, model=members[A].ledger.entries[-1].result)
    replayed = on("mask", lambda m: replace(m, shares=first[A].shares), A)
    done = run(members, hub, roster, next_, down=replayed)
    refused(done, A, BadSignature, "hub", "signed by their dealer for this keyset")
    members, hub, roster = party(5)
    whole = on("mask", lambda m: first[B], B)
    done = run(members, hub, roster, manifest(5), down=whole)
    refused(done, B, UnexpectedMessage, "hub", "of the keyset")


def test_a_second_unmask() -> None:
    """Asked again, a site has its stored answer and nothing to make another one from; and the ledger says no."""
    members, hub, roster = party(5)
    request: dict[str, Any] = {}
    ledgers: dict[str, Any] = {}

    def keep(step: str, name: str, message: Any) -> Any:
        if step == "unmask":
            request[name] = (message, members[name].state)
        if step == "hear":
            ledgers[name] = members[name].ledger
        return message

    run(members, hub, roster, manifest(5), down=keep)
    message, before = request[A]
    agreed = client.verify_agreement(before, message)
    with pytest.raises(Spent, match="given away once") as caught:
        client.answer(agreed, ledgers[A])
    assert caught.value.peer == "hub"


def test_a_round_again_without_one_site() -> None:
    """The difference of both sums would be the vector of who was left out."""
    members, hub, roster = party(5)
    run(members, hub, roster, manifest(5))
    refusals = aborted(members, hub, roster, manifest(5, attempt=1), drop={"open": [E]})
    assert {(type(e), e.peer) for _, e in refusals} == {(Spent, "hub")}
    assert all("summed no more" in e.rule for _, e in refusals)
    refusals = aborted(members, hub, roster, manifest(5, round=7), drop={"open": [E]})  # another round, the same model
    assert {type(e) for _, e in refusals} == {Spent}
    assert manifest(5).model == MODEL


@pytest.mark.parametrize("step", ["open", "share", "mask"])
def test_a_sum_said_to_have_failed_again_without_one_site(step: str) -> None:
    """The coordinator has all answers and says that it has none: in the next round the same model, without E."""
    members, hub, roster = party(5)
    with pytest.raises(TooFew, match="ResultAgreement"):
        run(members, hub, roster, manifest(5), drop={"hear": names(5)})
    refusals = aborted(members, hub, roster, manifest(5, round=1), drop={step: [E]})
    assert {(type(e), e.peer) for _, e in refusals} == {(Spent, "hub")}
    assert all("same survivors" in e.rule for _, e in refusals)


def test_a_model_one_bit_away_without_one_site() -> None:
    """Its updates are those of the model itself, so that the sums of both differ by the vector of who was left out."""
    members, hub, roster = party(5)
    run(members, hub, roster, manifest(5))
    flipped = bytes([MODEL[0] ^ 1]) + MODEL[1:]
    refusals = aborted(members, hub, roster, manifest(5, round=1, model=flipped), drop={"mask": [E]})
    assert {(type(e), e.peer) for _, e in refusals} == {(Spent, "hub")}
    assert all("what came of the round before" in e.rule for _, e in refusals)


def test_a_bad_dealer_is_left_behind() -> None:
    """A site that answered does not sum the model again without the bad dealer, whose vector would show, until the
    sites revoke it."""
    members, hub, roster = party(6)
    bad = names(6)[5]
    share = members[bad].share

    def dealt_wrong(message: Any) -> Any:
        members[bad].state = changed(
            members[bad].state, secrets=changed(members[bad].state.secrets, self_seed=bytes(32))
        )
        return share(message)

    members[bad].share = dealt_wrong  # type: ignore[method-assign]
    with pytest.raises(BadShare, match="the seed that was committed to"):
        run(members, hub, roster, manifest(6))
    refusals = aborted(members, hub, roster, manifest(6, round=1), drop={"open": [bad]})
    assert {type(e) for _, e in refusals} == {Spent}
    without = changed(roster, members={n: m for n, m in roster.members.items() if n != bad})
    for site in members.values():
        site.roster = without
    done = run(members, hub, without, manifest(6, round=2), drop={"open": [bad]})
    assert done.total == plain_sum(members, names(6)[:5])


def test_a_result_is_shown_to_who_was_away() -> None:
    """Of a sum that it was no part of: with it the next round's model is the next here too. Not with fewer than t."""
    members, hub, roster = party(5)
    what, said = manifest(5), {}

    def keep(step: str, name: str, message: Any) -> Any:
        said[step] = message
        return message

    done = run(members, hub, roster, what, drop={"open": [E]}, down=keep)
    next_ = manifest(5, round=1, model=done.result)
    with pytest.raises(Spent, match="what came of the round before"):
        members[E].open(sign_manifest(next_, hub))
    agreed = done.agreed
    place: Any = {"expected": expected(what), "floors": FLOORS, "roster": roster, "me": E}
    opened, result, ledger = sign_manifest(what, hub), said["hear"], members[E].ledger
    few = replace(agreed, signatures=agreed.signatures[:3])
    with pytest.raises(Inconsistent, match="at least 4 survivors sign"):
        client.catch_up(opened, result, few, ledger, **place)
    data = client.result_data(Cohort(what).digest, result.keyset, bytes(32))
    lie = replace(result, result=bytes(32), signature=hub.sign(client.RESULT_LABEL, data))
    with pytest.raises(BadSignature, match="all survivors sign the same result"):
        client.catch_up(opened, lie, agreed, ledger, **place)
    with pytest.raises(BadSignature, match="signed by the coordinator"):
        client.catch_up(opened, replace(result, result=bytes(32)), agreed, ledger, **place)
    members[E].ledger = client.catch_up(opened, result, agreed, ledger, **place)
    done = run(members, hub, roster, next_)
    assert done.survivors == set(names(5))
    assert done.total == plain_sum(members, members)


def test_another_set_of_survivors_for_one_keyset() -> None:
    members, hub, roster = party(5)
    told: dict[str, Any] = {}
    ledgers: dict[str, Any] = {}

    def keep(step: str, name: str, message: Any) -> Any:
        if step == "check":
            told[name] = (message, members[name].state)
        if step == "unmask":
            ledgers[name] = members[name].ledger
        return message

    run(members, hub, roster, manifest(5), down=keep)
    message, masked = told[A]
    other = client.hear_survivors(masked, replace(message, survivors=message.survivors[:4], dropped=(4,)))
    with pytest.raises(Spent, match="one set of survivors") as caught:
        client.sign(other, ledgers[A])
    assert caught.value.peer == "hub"


def test_a_forged_result() -> None:
    members, hub, roster = party(5)
    done_with = on("hear", lambda m: replace(m, result=bytes(32)), A)
    done = run(members, hub, roster, manifest(5), down=done_with)
    refused(done, A, BadSignature, "hub", "signed by the coordinator")


def test_different_results_to_different_sites() -> None:
    """Signed by the coordinator, both of them; but too few say the same."""
    members, hub, roster = party(5)
    lie: dict[str, Any] = {}

    def down(step: str, name: str, message: Any) -> Any:
        if step == "hear" and name in (A, B):
            data = client.result_data(members[name].state.opened.cohort.digest, message.keyset, bytes(32))
            lie[name] = replace(message, result=bytes(32), signature=hub.sign(client.RESULT_LABEL, data))
            return lie[name]
        return message

    with pytest.raises(TooFew, match="ResultAgreement"):
        run(members, hub, roster, manifest(5), down=down)
    assert len(lie) == 2


@pytest.mark.parametrize(
    ("changes", "floors", "rule"),
    [
        ({"threshold": 3}, FLOORS, "above half"),
        ({"corrupted": 0, "threshold": 4}, FLOORS, "corrupted sites as this one"),
        ({"holders": 2}, FLOORS, "the graph is that"),
        ({"neighbours": 2}, FLOORS, "the graph is that"),
        ({}, changed(FLOORS, sites=6), "at least 6 sites"),
        ({"attempt": 3}, FLOORS, "begun at most 3 times"),
    ],
)
def test_less_than_a_sites_floors(changes: dict[str, Any], floors: Floors, rule: str) -> None:
    members, hub, _ = party(5)
    members[A].floors = floors
    what = replace(manifest(5), **changes)
    opened = SecAggOpen(what, hub.sign(MANIFEST_LABEL, manifest_digest(what)))
    with pytest.raises(BelowFloor, match=rule) as caught:
        members[A].open(opened, expected(what))
    assert caught.value.peer == "hub"


def test_puppets() -> None:
    """Sites that the coordinator made up are not in the study; those it got into study and roster are not verified."""
    members, hub, roster = party(5)
    what = manifest(5)
    made_up = (what.cohort[0], *(replace(member, site=f"z{member.site}") for member in what.cohort[1:]))
    puppets = replace(what, cohort=made_up)
    with pytest.raises(Inconsistent, match="all sites of the study") as caught:
        members[A].open(sign_manifest(puppets, hub), expected(what))
    assert caught.value.peer == "hub"
    members[A].floors = changed(FLOORS, known=frozenset({A, B, "friend-1", "friend-2"}), least_known=2)
    with pytest.raises(BelowFloor, match="verified") as caught_too:
        members[A].open(sign_manifest(what, hub), expected(what))
    assert caught_too.value.peer == "hub"
    # One friend is in the study, but the coordinator says that it dropped out.
    members, hub, roster = party(6)
    members[A].floors = changed(FLOORS, known=frozenset({E}))
    done = run(members, hub, roster, manifest(6), drop={"mask": [E]})
    refused(done, A, BelowFloor, "hub", "survivors have as many sites that this one verified")
    for nobody in ({"known": frozenset()}, {"known": frozenset({B}), "least_known": 0}):
        with pytest.raises(ValueError, match="at least one site"):
            Floors(**nobody)


def small(of: int, some: list[str], hub: Any) -> tuple[Any, Any]:
    """The manifest of a cohort that is a part of a study of `of` sites; and what a site of the study expects."""
    whole, part = manifest(of), manifest(len(some))
    what = replace(part, cohort=tuple(member for member in whole.cohort if member.site in some))
    return sign_manifest(what, hub), expected(what, study=of)


def test_a_victim_among_colluders() -> None:
    """A study of 26 sites, of which 5 may be corrupted. In a cohort of the victim and 4 of these c would be 1, t 4, and
    the sum less the colluders' vectors would be the victim's."""
    members, hub, _ = party(26)
    opened, knows = small(26, names(26)[:5], hub)
    assert (opened.manifest.corrupted, opened.manifest.threshold) == (1, 4)
    with pytest.raises(Inconsistent, match="all sites of the study") as caught:
        members[A].open(opened, knows)
    assert caught.value.peer == "hub"
    # The same by dropouts: of 26 sites 16 must stay, of whom at least 11 are honest.
    members, hub, roster = party(26)
    with pytest.raises(TooFew, match="16 sites, 5 are left"):
        run(members, hub, roster, manifest(26), drop={"mask": names(26)[5:]})


def test_disjoint_cohorts_of_one_round() -> None:
    """A study of 20 sites in four cohorts of 5: four sums of 5 instead of one of 20."""
    members, hub, _ = party(20)
    for first in range(0, 20, 5):
        some = names(20)[first : first + 5]
        opened, knows = small(20, some, hub)
        for name in some:
            with pytest.raises(Inconsistent, match="all sites of the study"):
                members[name].open(opened, knows)


def test_a_revoked_site() -> None:
    """It stays in the cohort, so that n and t are the study's, and is a dropout of every sum."""
    members, hub, roster = party(5)
    members[A].roster = changed(roster, members={n: m for n, m in roster.members.items() if n != E})
    done = run(members, hub, roster, manifest(5))  # by a coordinator that goes on with it
    refused(done, A, UnknownPeer, "hub", "keys are of sites of the roster")


def test_the_graph_is_opened_as_it_was_committed_to() -> None:
    members, hub, roster = party(5)
    done = run(members, hub, roster, manifest(5), down=on("share", lambda m: replace(m, opening=bytes(32)), A))
    refused(done, A, Inconsistent, "hub", "graph is opened")


# --- sites ----------------------------------------------------------------------------------------------------


def resigned(message: Any, holder: int, dealer: Site, **fields: Any) -> Any:
    """One entry of a dealer's changed and signed again by it."""

    def again(entry: Any) -> Any:
        wrong = replace(entry, **fields)
        return replace(wrong, signature=dealer.identity.sign(SHARES_LABEL, _signed_data(wrong, message.keyset)))

    return replace(message, shares=tuple(again(e) if e.holder == holder else e for e in message.shares))


def test_malformed_shares_are_their_dealers_fault() -> None:
    """A dealer whose sealed shares do not fit its commitments, all of it signed: whoever it dealt to blames it."""
    members, hub, roster = party(5)
    wrong = on("share", lambda m: resigned(m, 0, members[E], seed_commitment=bytes(32)), E)
    done = run(members, hub, roster, manifest(5), up=wrong)
    refused(done, A, BadShare, E, "its dealer committed to")
    assert done.survivors == {B, C, D, E}
    assert done.total == plain_sum(members, done.survivors)


def test_shares_sealed_to_nobody_are_their_dealers_fault() -> None:
    members, hub, roster = party(5)
    wrong = on("share", lambda m: resigned(m, 0, members[E], sealed=bytes(len(m.shares[0].sealed))), E)
    done = run(members, hub, roster, manifest(5), up=wrong)
    refused(done, A, CannotDecrypt, E, "shares open for their holder")


def test_a_share_passed_on_wrong_is_its_holders_fault() -> None:
    members, hub, roster = party(5)
    wrong = on("unmask", lambda m: replace(m, seeds=(Held(0, share_bytes(1)), *m.seeds[1:])), B)
    done = run(members, hub, roster, manifest(5), up=wrong)
    refused(done, "hub", BadShare, B, "shares that it was dealt")
    assert done.total == plain_sum(members, members)  # four are enough


def test_a_share_outside_the_field() -> None:
    members, hub, roster = party(5)
    outside = on("unmask", lambda m: replace(m, seeds=(Held(0, share_bytes(PRIME)), *m.seeds[1:])), B)
    done = run(members, hub, roster, manifest(5), up=outside)
    refused(done, "hub", BadShare, B, "shares that it was dealt")


def test_shares_of_no_secret_are_their_dealers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of another seed than the one committed to. All holders find theirs as it should be; opening does not."""
    members, hub, roster = party(5)
    share = members[E].share

    def dealt_wrong(message: Any) -> Any:
        state = members[E].state
        members[E].state = changed(state, secrets=changed(state.secrets, self_seed=bytes(32)))
        return share(message)

    monkeypatch.setattr(members[E], "share", dealt_wrong)
    with pytest.raises(BadShare, match="the seed that was committed to") as caught:
        run(members, hub, roster, manifest(5))
    assert caught.value.peer == E


def test_an_offer_that_does_not_open_is_its_makers_fault() -> None:
    """Its holder refuses and drops out; and the coordinator, who needs it in the holder's place, cannot open it."""
    members, hub, roster = party(5)
    refusals: list[tuple[str, ProtocolError]] = []
    _note(members[B], "mask", refusals)
    wrong = on("share", lambda m: resigned(m, 1, members[A], offer=bytes(len(m.shares[1].offer))), A)
    with pytest.raises(CannotDecrypt, match="an offer opens") as caught:
        run(members, hub, roster, manifest(5), up=wrong)
    assert caught.value.peer == A
    refused(SimpleNamespace(refusals=refusals), B, CannotDecrypt, A, "an offer opens")


def test_a_reflected_key() -> None:
    """A site that advertises another's mask key as its own."""
    members, hub, roster = party(5)
    seen: dict[str, Any] = {}

    def reflect(step: str, name: str, message: Any) -> Any:
        if step != "open":
            return message
        seen[name] = message
        if name != B:
            return message
        data = prefixed(message.manifest, u64(1), seen[A].mask, message.seal, message.seed_commitment)
        return replace(message, mask=seen[A].mask, signature=members[B].identity.sign(ADVERTISE_LABEL, data))

    done = run(members, hub, roster, manifest(5), up=reflect)
    refused(done, "hub", Malformed, B, "no two keys")


# --- who learns what ------------------------------------------------------------------------------------------


def test_colluders_below_the_threshold_learn_nothing_of_a_secret() -> None:
    """Every subset of shares below t fits every secret: for each candidate there is a polynomial (in a tiny field)."""
    prime, threshold, points = 7, 3, (1, 2, 3, 4)
    for known in itertools.combinations(points, threshold - 1):
        views: dict[tuple[int, ...], set[int]] = {}
        for secret, one, two in itertools.product(range(prime), repeat=3):
            draws = iter((one, two))
            shares = split(secret, points, threshold, lambda size, d=draws: next(d).to_bytes(size, "big"), prime)
            views.setdefault(tuple(shares[x] for x in known), set()).add(secret)
        assert all(fits == set(range(prime)) for fits in views.values())


@pytest.mark.parametrize("colluders", [1, 2, 3])
def test_coordinator_and_colluders_try_to_read_a_site(colluders: int) -> None:
    """They pool all shares of A that they hold. With t = 4 of 5 neither of its secrets opens, whatever they put
    together; and without them what A sent is its vector under a one-time pad that nobody has."""
    members, hub, roster = party(5)
    held: dict[str, Any] = {}

    def keep(step: str, name: str, message: Any) -> Any:
        if step == "check":
            held[name] = members[name].state.held[0]
        return message

    done = run(members, hub, roster, manifest(5), down=keep)
    pooled = {rank: held[name] for rank, name in enumerate((B, C, D), 1) if rank <= colluders}
    advertised = done.said["open", A]
    for which in ("seed", "key"):
        shares = {rank: getattr(pair, which) for rank, pair in pooled.items()}
        with pytest.raises(ValueError, match="fewer shares"):
            recover(shares, 4)
        guess = recover_or_none(shares, colluders)  # as if fewer were enough
        assert guess is None or HybridKey(guess).public != advertised.mask
        assert guess is None or seed_commitment(guess, advertised.manifest, 0) != advertised.seed_commitment
    with_fourth = {**{rank: held[name].seed for rank, name in enumerate((B, C, D, E), 1)}}
    opened = recover(with_fourth, 4)  # t of them: the seed of a survivor, which is meant to open
    assert seed_commitment(opened, advertised.manifest, 0) == advertised.seed_commitment


def recover_or_none(shares: dict[int, bytes], threshold: int) -> bytes | None:
    try:
        return recover(shares, threshold)
    except ValueError:
        return None


def test_all_that_a_survivor_learns_is_the_sum_of_the_others() -> None:
    """Which is one other's vector where only two are left: THREATS.md says so, and the floor is 5 sites."""
    members, hub, roster = party(5)
    done = run(members, hub, roster, manifest(5), drop={"mask": [E]})
    assert done.total is not None
    others = [total - mine for total, mine in zip(done.total, members[A].vector, strict=True)]
    assert others == plain_sum(members, [B, C, D])
    assert Floors(known=frozenset({B})).sites == 5
