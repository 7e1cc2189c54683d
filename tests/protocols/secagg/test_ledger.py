"""All orders of the ledger's rules, and what a restart finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import party
import pytest
from party import manifest

from protocols.errors import Spent
from protocols.secagg.ledger import Ledger, Stage
from protocols.secagg.manifest import Floors, manifest_digest
from protocols.secagg.messages import FlowPart, Manifest

FLOORS, HUB = replace(party.FLOORS, attempts=2, sums=3), "hub"


def opened(ledger: Ledger, what: Manifest, floors: Floors = FLOORS) -> Ledger:
    return ledger.open(what, manifest_digest(what), floors, HUB)


def through(ledger: Ledger, what: Manifest) -> Ledger:
    digest = manifest_digest(what)
    ledger = opened(ledger, what).burn(digest, b"k" + digest[1:], HUB)
    return ledger.sign(digest, b"s", HUB).answer(digest, b"s", HUB)


RULES: dict[str, Any] = {
    "burn": lambda ledger, digest: ledger.burn(digest, b"k" * 32, HUB),
    "sign": lambda ledger, digest: ledger.sign(digest, b"s", HUB),
    "answer": lambda ledger, digest: ledger.answer(digest, b"s", HUB),
    "give up": lambda ledger, digest: ledger.give_up(digest),
}


@pytest.mark.parametrize("order", list(product(RULES, repeat=3)))
def test_only_one_order_goes_through(order: tuple[str, ...]) -> None:
    """Of all sequences of three rules after `open`, each step is allowed exactly if it is the next one due."""
    digest = manifest_digest(manifest(5))
    ledger, due, over = opened(Ledger(), manifest(5)), iter(("burn", "sign", "answer")), False
    next_due = next(due)
    for rule in order:
        if rule == "give up":
            ledger, over = RULES[rule](ledger, digest), True
        elif rule == next_due and not over:
            ledger, next_due = RULES[rule](ledger, digest), next(due, "")
        else:
            with pytest.raises(Spent) as caught:
                RULES[rule](ledger, digest)
            assert caught.value.peer == HUB
            return


def test_one_model_and_flow_is_opened_once() -> None:
    ledger = through(Ledger(), manifest(5))
    for again in (manifest(5, attempt=1), manifest(5, round=1), manifest(5, stage=1), manifest(5, study=b"\1" * 32)):
        with pytest.raises(Spent, match="opened once"):
            opened(ledger, again)
    opened(ledger, manifest(5, round=1, model=b"\1" * 32))
    opened(ledger, manifest(5, round=1, flows=(FlowPart("target", 3),)))
    with pytest.raises(Spent, match="opened once"):
        opened(ledger, manifest(5, round=1, flows=(FlowPart("target", 3), FlowPart("weights", 3))))


def test_an_aborted_attempt_leaves_the_model_and_ends_before_the_next() -> None:
    first, second = manifest(5), manifest(5, attempt=1)
    ledger = opened(Ledger(), first).burn(manifest_digest(first), b"k" * 32, HUB)
    ledger = opened(ledger, second)
    with pytest.raises(Spent, match="over"):
        ledger.sign(manifest_digest(first), b"s", HUB)
    with pytest.raises(Spent, match="masks one vector once"):
        ledger.burn(manifest_digest(second), b"k" * 32, HUB)  # the keyset of the first
    ledger = ledger.burn(manifest_digest(second), b"K" * 32, HUB)
    with pytest.raises(Spent, match="comes once"):
        opened(ledger, second)
    with pytest.raises(Spent, match="at most 2 times"):
        opened(ledger, manifest(5, attempt=2))


def test_in_a_sparse_graph_a_signature_counts_as_an_answer() -> None:
    """There fewer than t sites can open a sum: who signed must take it for opened."""
    for neighbours, refused in ((0, False), (22, True)):
        what = manifest(5, neighbours=neighbours)
        digest = manifest_digest(what)
        ledger = opened(Ledger(), what).burn(digest, b"k" * 32, HUB).sign(digest, b"s", HUB)
        assert ledger.entries[0].at is Stage.SIGNED
        if refused:
            with pytest.raises(Spent, match="opened once"):
                opened(ledger, manifest(5, round=1))
        else:
            opened(ledger, manifest(5, round=1))


def test_answers_are_for_what_was_signed() -> None:
    digest = manifest_digest(manifest(5))
    ledger = opened(Ledger(), manifest(5)).burn(digest, b"k" * 32, HUB).sign(digest, b"s", HUB)
    with pytest.raises(Spent, match="that were signed"):
        ledger.answer(digest, b"other", HUB)


def test_sums_are_capped() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger = through(ledger, manifest(5, round=number, model=bytes([number]) * 32))
    with pytest.raises(Spent, match="at most 3 sums"):
        opened(ledger, manifest(5, round=3, model=b"\7" * 32))


def test_what_is_on_disk_is_the_ledger() -> None:
    ledger = through(Ledger(), manifest(5))
    raw = ledger.to_bytes()
    assert Ledger.from_bytes(raw) == ledger
    assert Ledger.from_bytes(Ledger().to_bytes()) == Ledger()
    for damaged in (b"", raw[:-1], raw + b"\0", b"\x90\xc0", raw.replace(b"\xc2", b"\xc0")):
        with pytest.raises(ValueError):  # noqa: PT011  msgspec's texts
            Ledger.from_bytes(damaged)
    assert repr(ledger) == "Ledger(1)"
