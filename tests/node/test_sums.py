"""A site that is killed between any two steps of a sum: it goes on from what it stored, or is a dropout for good."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsecure.errors import SettingsError
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
    store.put(**{"sums-state": sealed})  # the answer is given, and the ratchet went on with it
    assert sums.restore(roster, party.names(4)[0], party.FLOORS) is None


def test_only_a_sites_answers_are_kept(store: Store) -> None:
    with pytest.raises(ValueError, match="a site answers"):
        Sums(store).keep("survivors", Hello(0, -1, -1, False), Sums(store).ledger)


def test_a_damaged_ledger_stops_the_site(store: Store) -> None:
    store.put(**{"sums-ledger": b"\x91"})
    with pytest.raises(ValueError):  # noqa: PT011  msgspec's text
        Sums(store)


def test_the_ratchet_goes_on_when_a_sum_is_given_up(party: Any, store: Store, tmp_path: Path) -> None:
    states: list[tuple[bytes, bytes]] = []
    keep = Sums.keep

    def copying(self: Sums, step: str, message: Any, ledger: Any, state: Any = None) -> None:
        keep(self, step, message, ledger, state)
        states.append((store.get("sums-state") or b"", (tmp_path / "sums.ratchet").read_bytes()))
        if step == "masked-input":
            self.give_up()
            assert (tmp_path / "sums.ratchet").read_bytes()[:32] != states[-1][1][:32]
            assert store.get("sums-state") == b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sums, "keep", copying)
        done, _, _ = play(party, store)
    assert [type(error) for _, error in done.refusals] == [Spent]
    assert states[-1][0]


def backup(store: Store) -> dict[str, bytes]:
    names = ("sums-ledger", "sums-state", "sums-masked-input")
    return {name: value for name in names if (value := store.get(name)) is not None}


def test_an_older_database_is_noticed(party: Any, store: Store) -> None:
    """With the ledger of before its answer a site would answer again, for other survivors."""
    kept: list[dict[str, bytes]] = []
    keep = Sums.keep

    def copying(self: Sums, step: str, *arguments: Any) -> None:
        kept.append(backup(store))
        keep(self, step, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sums, "keep", copying)
        _, sums, _ = play(party, store)
    newest = backup(store)
    for older in kept:
        store.put(**older)
        if older.get("sums-ledger") != newest["sums-ledger"]:
            with pytest.raises(SettingsError, match="not the last one"):
                Sums(store)
    assert len({older["sums-ledger"] for older in kept}) == 3  # opened, burned, signed
    store.put(**newest)
    assert Sums(store).ledger == sums.ledger


def test_a_record_that_is_gone_is_noticed(party: Any, store: Store, tmp_path: Path) -> None:
    play(party, store)
    path = tmp_path / "sums.ratchet"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(SettingsError, match="damaged"):
        Sums(store)
    path.unlink()
    with pytest.raises(SettingsError, match="missing"):
        Sums(store)
    store.close()
    for gone in tmp_path.glob("node.db*"):
        gone.unlink()
    path.write_bytes(raw)
    path.chmod(0o600)
    empty = Store(tmp_path)
    with pytest.raises(SettingsError, match="not the last one"):
        Sums(empty)
    empty.close()


class Killed(Exception):
    pass


@pytest.mark.parametrize("write", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_kill_inside_a_write(party: Any, store: Store, write: int, place: int) -> None:
    """File, database, file: killed before any of them, in the first three writes of a sum. The ledger is the old one
    or the new one, and what comes next is written as ever."""
    members, hub, roster = party.party(4)
    me, what = members[party.names(4)[0]], party.manifest(4)
    sums, ledgers, messages = Sums(store), [Sums(store).ledger], []

    def open_(message: Any) -> Any:
        answer = type(me).open(me, message)
        messages.append(answer)
        ledgers.append(me.ledger)
        return answer

    me.open = open_
    party.run(members, hub, roster, what)
    ledgers += [ledgers[-1].burn(ledgers[-1].entries[-1].manifest, bytes(32), "hub")]
    steps = [
        lambda s: s.begin(ledgers[1]),
        lambda s: s.keep("masked-input", messages[0], ledgers[2]),
        lambda s: s.give_up(),
    ]
    for step in steps[:write]:
        step(sums)
    before, calls = sums.ledger, iter(range(9))

    def dying(call: Any) -> Any:
        def put(*arguments: Any, **values: Any) -> Any:
            if next(calls) == place:
                raise Killed
            return call(*arguments, **values)

        return put

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "_put", dying(sums._put))
        patch.setattr(store, "put", dying(store.put))
        with pytest.raises(Killed):
            steps[write](sums)
    again = Sums(store)
    assert (again.ledger == before) == (place < 2)
    for step in steps[write:] if again.ledger == before else steps[write + 1 :]:
        step(again)
    assert Sums(store).ledger.entries[-1].over
