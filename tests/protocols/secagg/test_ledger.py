"""All orders of the ledger's rules, and what a restart finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import party
import pytest
from party import MODEL, manifest

from protocols.errors import Spent
from protocols.secagg.ledger import Ledger, Stage
from protocols.secagg.manifest import Floors, manifest_digest
from protocols.secagg.messages import FlowPart, Manifest

FLOORS, HUB = replace(party.FLOORS, attempts=2, sums=3), "hub"
FOUR = frozenset({0, 1, 2, 3})


def opened(ledger: Ledger, what: Manifest, floors: Floors = FLOORS) -> Ledger:
    return ledger.open(what, manifest_digest(what), floors, HUB, MODEL)


def through(ledger: Ledger, what: Manifest) -> Ledger:
    digest = manifest_digest(what)
    ledger = opened(ledger, what).burn(digest, b"k" + digest[1:], HUB)
    return ledger.sign(digest, b"s", FOUR, HUB).answer(digest, b"s", HUB)


RULES: dict[str, Any] = {
    "burn": lambda ledger, digest: ledger.burn(digest, b"k" * 32, HUB),
    "sign": lambda ledger, digest: ledger.sign(digest, b"s", FOUR, HUB),
    "answer": lambda ledger, digest: ledger.answer(digest, b"s", HUB),
    "give up": lambda ledger, digest: ledger.give_up(digest),
}


@pytest.mark.parametrize("order", list(product(RULES, repeat=3)))
def test_only_one_order_goes_through(order: tuple[str, ...]) -> None:
    """Of all sequences of three rules after `open`, each step is allowed exactly if it is the next one due."""
    digest = manifest_digest(manifest(5))
    ledger, due, over = opened(Ledger(), manifest(5)), iter(("burn", "sign", "answer")), False
    next_due = next(due)
    order_before = ""
    for rule in order:
        if rule == "give up":
            ledger, over = RULES[rule](ledger, digest), True
        elif rule == order_before == "sign" and next_due == "answer" and not over:
            assert RULES[rule](ledger, digest) == ledger  # the same once more
        elif rule == next_due and not over:
            ledger, next_due = RULES[rule](ledger, digest), next(due, "")
        else:
            with pytest.raises(Spent) as caught:
                RULES[rule](ledger, digest)
            assert caught.value.peer == HUB
            return
        order_before = rule


def confirmed(ledger: Ledger, what: Manifest, result: bytes, initial: bytes = MODEL) -> Ledger:
    return ledger.confirm(what, manifest_digest(what), result, HUB, initial)


NEXT, LATER = b"\1" * 32, b"\2" * 32


def test_a_model_of_which_a_sum_came_is_summed_no_more() -> None:
    ledger = confirmed(through(Ledger(), manifest(5)), manifest(5), NEXT)
    for again in (manifest(5, attempt=1), manifest(5, study=b"\1" * 32)):
        with pytest.raises(Spent, match="summed no more"):
            opened(ledger, again)
    with pytest.raises(Spent, match="what came of the round before"):
        opened(ledger, manifest(5, round=1))
    with pytest.raises(Spent, match="summed no more"):
        confirmed(ledger, manifest(5), LATER)
    other = opened(ledger, manifest(5, attempt=1, flows=(FlowPart("target", 3),)))  # the round's other sum
    with pytest.raises(Spent, match="summed no more"):
        opened(other, manifest(5, attempt=2, flows=(FlowPart("target", 3), FlowPart("weights", 3))), SPACIOUS)
    with pytest.raises(Spent, match="summed in one study"):
        opened(through(Ledger(), manifest(5)), manifest(5, study=b"\1" * 32))


def test_each_model_is_what_came_of_the_one_before() -> None:
    flipped = bytes([MODEL[0] ^ 1]) + MODEL[1:]
    with pytest.raises(Spent, match="or the study's first"):
        opened(Ledger(), manifest(5, model=flipped))
    ledger = confirmed(through(Ledger(), manifest(5)), manifest(5), NEXT)
    for number, model in ((1, flipped), (1, LATER), (2, MODEL)):
        with pytest.raises(Spent, match="what came of the round before"):
            opened(ledger, manifest(5, round=number, model=model))
    second = manifest(5, round=3, model=NEXT)  # rounds may be left out, but not come back
    ledger = through(ledger, second)
    with pytest.raises(Spent, match="rounds of a study ascend"):
        opened(ledger, manifest(5, round=2, model=NEXT))
    ledger = confirmed(ledger, second, LATER)
    with pytest.raises(Spent, match="what came of the round before"):
        opened(ledger, manifest(5, round=4, model=NEXT))
    assert opened(ledger, manifest(5, round=4, model=LATER)).entries[-1].model == LATER
    stage = manifest(5, stage=1, model=b"\3" * 32)
    with pytest.raises(Spent, match="or the study's first"):
        opened(ledger, stage)  # whose first model this site computes itself
    assert ledger.open(stage, manifest_digest(stage), FLOORS, HUB, b"\3" * 32)


def test_who_was_not_there_follows() -> None:
    """It learns the result of a sum that it was no part of, and of no other model than its next one."""
    ledger = confirmed(Ledger(), manifest(5), NEXT)
    with pytest.raises(Spent, match="what came of the round before"):
        confirmed(ledger, manifest(5, round=2, model=LATER), b"\3" * 32)
    ledger = confirmed(ledger, manifest(5, round=1, model=NEXT), LATER)
    assert opened(ledger, manifest(5, round=2, model=LATER))
    assert not any(entry.opens_model for entry in ledger.entries)


SPACIOUS = replace(FLOORS, attempts=9, sums=9)


def signs(ledger: Ledger, what: Manifest, told: frozenset[int], **more: Any) -> Ledger:
    digest = manifest_digest(what)
    ledger = opened(ledger, what, SPACIOUS).burn(digest, b"k" + digest[1:], HUB)
    return ledger.sign(digest, bytes(told), told, HUB, **more)


def test_sums_of_one_model_have_the_same_survivors() -> None:
    """After an answer nobody knows whether the sum was opened: again it is of the same sites, or of none."""
    ledger = through(Ledger(), manifest(5))
    for again in (manifest(5, attempt=1), manifest(5, round=1), manifest(5, round=9, attempt=3)):
        assert signs(ledger, again, FOUR).entries[-1].at is Stage.SIGNED
        for other in (FOUR - {2}, FOUR | {4}, FOUR - {2} | {4}, frozenset({9})):
            with pytest.raises(Spent, match="others differ by who left"):
                signs(ledger, again, other)
    # The others revoked one of them: its vector can show, and its alone.
    assert signs(ledger, manifest(5, round=1), FOUR - {2}, revoked=frozenset({2, 4}))
    for other in (FOUR - {2, 3}, FOUR):
        with pytest.raises(Spent, match="others differ by who left"):
            signs(ledger, manifest(5, round=1), other, revoked=frozenset({2}))
    # Before an answer the sum cannot be open: fewer than t others would have answered without an honest one.
    digest = manifest_digest(manifest(5))
    unanswered = opened(Ledger(), manifest(5)).burn(digest, b"k" * 32, HUB).sign(digest, b"s", FOUR, HUB)
    assert signs(unanswered, manifest(5, attempt=1), FOUR - {2})


def test_other_survivors_only_where_a_site_allows_it() -> None:
    ledger = through(Ledger(), manifest(5))
    ledger = signs(ledger, manifest(5, round=1), FOUR - {1}, regroups=1)
    assert [entry.regrouped for entry in ledger.entries] == [False, True]
    with pytest.raises(Spent, match="others differ by who left"):
        signs(ledger, manifest(5, round=2), FOUR - {2}, regroups=1)
    assert signs(ledger, manifest(5, round=2), FOUR - {2}, regroups=2)


def test_who_restarts_signs_the_same_again() -> None:
    digest = manifest_digest(manifest(5))
    ledger = opened(Ledger(), manifest(5)).burn(digest, b"k" * 32, HUB).sign(digest, b"s", FOUR, HUB)
    assert ledger.sign(digest, b"s", FOUR, HUB) == ledger
    with pytest.raises(Spent, match="one set of survivors"):
        ledger.sign(digest, b"o", FOUR - {3}, HUB)
    ledger = ledger.answer(digest, b"s", HUB)
    with pytest.raises(Spent, match="one set of survivors"):
        ledger.sign(digest, b"s", FOUR, HUB)


def test_an_aborted_attempt_leaves_the_model_and_ends_before_the_next() -> None:
    first, second = manifest(5), manifest(5, attempt=1)
    ledger = opened(Ledger(), first).burn(manifest_digest(first), b"k" * 32, HUB)
    ledger = opened(ledger, second)
    with pytest.raises(Spent, match="over"):
        ledger.sign(manifest_digest(first), b"s", FOUR, HUB)
    with pytest.raises(Spent, match="masks one vector once"):
        ledger.burn(manifest_digest(second), b"k" * 32, HUB)  # the keyset of the first
    ledger = ledger.burn(manifest_digest(second), b"K" * 32, HUB)
    with pytest.raises(Spent, match="comes once"):
        opened(ledger, second)
    with pytest.raises(Spent, match="at most 2 times"):
        opened(ledger, manifest(5, attempt=2))


def test_in_a_sparse_graph_a_signature_counts_as_an_answer() -> None:
    """There fewer than t sites can open a sum: who signed must take it for opened."""
    what = manifest(5, neighbours=22)
    digest = manifest_digest(what)
    ledger = opened(Ledger(), what).burn(digest, b"k" * 32, HUB).sign(digest, b"s", FOUR, HUB)
    assert ledger.entries[0].at is Stage.SIGNED
    with pytest.raises(Spent, match="others differ by who left"):
        signs(ledger, manifest(5, round=1), FOUR - {2})
    assert signs(ledger, manifest(5, round=1), FOUR)


def test_answers_are_for_what_was_signed() -> None:
    digest = manifest_digest(manifest(5))
    ledger = opened(Ledger(), manifest(5)).burn(digest, b"k" * 32, HUB).sign(digest, b"s", FOUR, HUB)
    with pytest.raises(Spent, match="that were signed"):
        ledger.answer(digest, b"other", HUB)


def test_sums_are_capped_in_a_study() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger = through(ledger, manifest(5, round=number))
    with pytest.raises(Spent, match="at most 3 sums of a study"):
        opened(ledger, manifest(5, round=3))
    other = manifest(5, study=b"\1" * 32, model=NEXT)
    assert ledger.open(other, manifest_digest(other), FLOORS, HUB, NEXT)


def test_what_is_on_disk_is_the_ledger() -> None:
    ledger = through(Ledger(), manifest(5))
    raw = ledger.to_bytes()
    assert Ledger.from_bytes(raw) == ledger
    assert Ledger.from_bytes(Ledger().to_bytes()) == Ledger()
    for damaged in (b"", raw[:-1], raw + b"\0", b"\x90\xc0", raw.replace(b"\xc2", b"\xc0")):
        with pytest.raises(ValueError):  # noqa: PT011  msgspec's texts
            Ledger.from_bytes(damaged)
    assert repr(ledger) == "Ledger(1)"
