"""A site that is killed between any two steps of a sum: it goes on from what it stored, or is a dropout for good."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsecure.node.store import Store
from fedsecure.node.sums import Sums
from protocols.errors import Spent
from protocols.messages import Hello
from protocols.secagg import client, setup

_SPEC = importlib.util.spec_from_file_location(
    "sum_party", Path(__file__).parents[1] / "protocols" / "secagg" / "party.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None


@pytest.fixture(scope="module")
def party() -> Any:
    import sys

    module = importlib.util.module_from_spec(_SPEC)
    sys.modules[_SPEC.name] = module  # dataclasses look there
    _SPEC.loader.exec_module(module)
    return module


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def play(party: Any, store: Store, kill_before: str = "") -> tuple[Any, Any, list[Any]]:
    """A sum of four in which the first site keeps everything in `store` and is killed once before a step."""
    members, hub, roster = party.party(4)
    what, me = party.manifest(4), party.names(4)[0]
    site, sums, vectors = members[me], [Sums(store)], []

    def killed(step: str) -> None:
        if step == kill_before:
            sums[0] = Sums(store)
            site.state = sums[0].restore(roster, me, site.floors)

    def open_(message: Any) -> Any:
        answer = type(site).open(site, message)
        sums[0].begin(site.ledger)
        sums[0].keep("advertise-keys", answer, site.ledger)
        return answer

    def share(message: Any) -> Any:
        killed("share")
        if site.state is None:
            return None
        site.state, answer = setup.share_keys(site.state, message, site.identity)
        sums[0].keep("share-keys", answer, site.ledger)
        return answer

    def mask(message: Any) -> Any:
        killed("mask")
        if site.state is None:
            return None
        burned, ledger = client.burn(setup.accept_shares(site.state, message), sums[0].ledger)
        site.state, answer = client.mask_input(burned, site.fill)
        sums[0].keep("masked-input", answer, ledger, site.state)
        return answer

    def check(message: Any) -> Any:
        killed("check")
        vectors.append(sums[0].kept("masked-input"))
        signing, ledger = client.sign(client.hear_survivors(site.state, message), sums[0].ledger)
        site.state, answer = client.sign_survivors(signing, site.identity)
        sums[0].keep("consistency-check", answer, ledger)
        return answer

    def unmask(message: Any) -> Any:
        answering, ledger = client.answer(client.verify_agreement(site.state, message), sums[0].ledger)
        site.state, answer = client.unmask(answering)
        sums[0].keep("unmask-shares", answer, ledger)
        return answer

    site.open, site.share, site.mask, site.check, site.unmask = open_, share, mask, check, unmask
    return party.run(members, hub, roster, what), sums[0], vectors


def test_a_kill_after_masking_costs_nothing(party: Any, store: Store) -> None:
    done, sums, (kept,) = play(party, store, "check")
    assert kept == done.said["mask", party.names(4)[0]]  # the stored bytes are what may be sent again
    assert done.survivors == set(party.names(4))
    assert done.total == party.plain_sum(done.sites, done.survivors)
    assert sums.kept("unmask-shares") == done.said["unmask", party.names(4)[0]]


@pytest.mark.parametrize("before", ["share", "mask"])
def test_a_kill_before_masking_makes_a_dropout_for_good(party: Any, store: Store, before: str) -> None:
    done, sums, _ = play(party, store, before)
    assert done.survivors == set(party.names(4)[1:])
    assert done.total == party.plain_sum(done.sites, done.survivors)
    assert sums.ledger.entries[-1].over
    with pytest.raises(Spent, match="over"):
        sums.ledger.burn(sums.ledger.entries[-1].manifest, bytes(32), "hub")


def test_after_the_answer_no_share_is_left(party: Any, store: Store) -> None:
    done, sums, _ = play(party, store)
    assert store.get("sums-state") == b""
    again = Sums(store)
    assert again.ledger == sums.ledger
    assert again.restore(done.sites[party.names(4)[0]].roster, party.names(4)[0], party.FLOORS) is None


def test_a_copy_of_the_database_without_its_ratchet_opens_nothing(party: Any, store: Store, tmp_path: Path) -> None:
    _, _, roster = party.party(4)
    copies: list[bytes] = []
    keep = Sums.keep

    def copying(self: Sums, step: str, message: Any, ledger: Any, state: Any = None) -> None:
        keep(self, step, message, ledger, state)
        copies.append(store.get("sums-state") or b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sums, "keep", copying)
        play(party, store)
    sealed = next(copy for copy in copies if copy)
    path = tmp_path / "sums.ratchet"
    assert path.stat().st_mode & 0o777 == 0o600
    sums = Sums(store)
    sums.begin(sums.ledger)  # the next sum
    store.put(**{"sums-state": sealed})
    assert sums.restore(roster, party.names(4)[0], party.FLOORS) is None


def test_only_a_sites_answers_are_kept(store: Store) -> None:
    with pytest.raises(ValueError, match="a site answers"):
        Sums(store).keep("survivors", Hello(0, -1, -1, False), Sums(store).ledger)


def test_a_damaged_ledger_stops_the_site(store: Store) -> None:
    store.put(**{"sums-ledger": b"\x91"})
    with pytest.raises(ValueError):  # noqa: PT011  msgspec's text
        Sums(store)
