"""A malicious coordinator, or site, in a federation of real nodes: what a site refuses, whom it blames, and that its
log says so. That the protocol's steps refuse these, and many more, is in tests/protocols/secagg/test_attacks.py.

The coordinator's own node is honest; what it sends to one site is changed on its way out, and signed by it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import protocols.seal
from fedsecure.config import Study, parse_study
from fedsecure.node.wiring import COORDINATOR
from protocols.codec import encode
from protocols.messages import Message
from protocols.secagg.client import RESULT_LABEL, result_data
from protocols.secagg.manifest import MANIFEST_LABEL, manifest_digest, sign_manifest
from protocols.secagg.messages import (
    AgreedResult,
    CohortMember,
    Input,
    Keyset,
    RelayShares,
    SecAggOpen,
    ShareKeys,
    SumResult,
    Survivors,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.secagg.shares import SHARES_LABEL, _signed_data
from sim.arena import Arena
from sim.chaos import SITES
from sim.instants import SHORT, train_up_to_the_sum
from sim.witness import inexact, read_summed, witnessing
from sim.world import build

VICTIM = "site-1"
Twist = Callable[
    ["Attack", str, Message], "list[tuple[str, Message]]"
]  # what is sent, and to whom, in a message's place


class Attack:
    """Real nodes from the moment in which a sum begins. said: what each site answered, in order."""

    def __init__(self, run: Path, study: Study) -> None:
        self.arena = Arena(run, study)
        self.arena.start(*self.arena.folders)
        self.coordinator: Any = self.arena.shells[COORDINATOR]
        self.sent: dict[tuple[str, str], Any] = {}  # (site, type) -> the first such message
        self.said: list[tuple[str, Message]] = []
        take = self.coordinator._sum.take

        def taking(sender: str, message: Any) -> Any:
            self.said.append((sender, message))
            return take(sender, message)

        self.coordinator._sum.take = taking

    def by(self, twist: Twist) -> None:
        send = self.coordinator._sum._send

        def sending(site: str, message: Message) -> None:
            self.sent.setdefault((site, type(message).__name__), message)
            for recipient, changed in twist(self, site, message):
                send(recipient, changed)

        self.coordinator._sum._send = sending

    @property
    def hub(self) -> Any:
        return self.coordinator._identity

    def refused(self, name: str = VICTIM) -> set[tuple[str, str]]:
        """(peer, rule) of each refusal in a node's log: the lines that its operator reads."""
        lines = map(json.loads, self.arena.logs[name].getvalue().splitlines())
        return {(line["peer"], line["rule"]) for line in lines if line["event"] == "refused"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    folder = tmp_path_factory.mktemp("attacks")
    settings = {**SHORT, "pretrain": {**SHORT["pretrain"], "rounds": 2}}
    study = build(SITES, parse_study(settings), folder / "run", folder / "cache", lambda _: None)
    train_up_to_the_sum(folder / "run", study)
    return folder / "run", study


@pytest.fixture
def attack(trained: tuple[Path, Study], tmp_path: Path) -> Iterator[Attack]:
    run, study = trained
    shutil.copytree(run, tmp_path / "run")
    folders = {path.name: path for path in (tmp_path / "run" / "sites").iterdir()}
    folders[COORDINATOR] = tmp_path / "run" / COORDINATOR
    with witnessing(folders.__getitem__, lambda _: 0):
        begun = Attack(tmp_path / "run", study)
        yield begun
        begun.arena.close()
    opened = read_summed(folders.pop(COORDINATOR))
    assert opened  # whatever was tried, the others' sum came, and is theirs
    assert inexact({name: read_summed(folder) for name, folder in folders.items()}, opened) == 0


def instead(kind: type, change: Callable[[Attack, Any], Any]) -> Twist:
    """The victim gets another message of this kind."""

    def twist(attack: Attack, site: str, message: Message) -> list[tuple[str, Message]]:
        fits = site == VICTIM and isinstance(message, kind)
        return [(site, change(attack, message) if fits else message)]

    return twist


def behind(kind: type, more: Callable[[Attack, Any], Message], to: str = VICTIM) -> Twist:
    """Behind a message of this kind, which goes to `to`, the victim gets one more."""

    def twist(attack: Attack, site: str, message: Message) -> list[tuple[str, Message]]:
        extra = [(VICTIM, more(attack, message))] if site == to and isinstance(message, kind) else []
        return [(site, message), *extra]

    return twist


def manifest(**fields: Any) -> Callable[[Attack, Any], Any]:
    def change(attack: Attack, message: Any) -> SecAggOpen:
        what = replace(message.manifest, **fields)  # `sign_manifest` would not sign all of them
        return SecAggOpen(what, attack.hub.sign(MANIFEST_LABEL, manifest_digest(what)))

    return change


def puppets(attack: Attack, message: Any) -> Any:
    cohort = (message.manifest.cohort[0], *(CohortMember(f"z{m.site}", m.weight) for m in message.manifest.cohort[1:]))
    return sign_manifest(replace(message.manifest, cohort=cohort), attack.hub)


def without_the_last(attack: Attack, _: Any) -> Survivors:
    told = attack.sent[VICTIM, "Survivors"]
    return replace(told, survivors=told.survivors[:-1], dropped=(told.survivors[-1],))


def another_result(attack: Attack, message: Any) -> SumResult:
    digest = manifest_digest(attack.sent[VICTIM, "SecAggOpen"].manifest)
    signature = attack.hub.sign(RESULT_LABEL, result_data(digest, message.keyset, bytes(32)))
    return SumResult(message.keyset, bytes(32), signature)


def substituted(_: Attack, message: Any) -> Any:
    first, *rest = message.advertisements
    return replace(message, advertisements=(replace(first, mask=rest[0].mask), *rest))


def lowered(_: Attack, message: Any) -> Any:
    return replace(message, survivors=message.survivors[:3], dropped=message.survivors[3:])


def again_without(attack: Attack, _: Any) -> SecAggOpen:
    return sign_manifest(replace(attack.sent[VICTIM, "SecAggOpen"].manifest, attempt=1), attack.hub)


ATTACKS: dict[str, tuple[Twist, str]] = {
    "overlapping lists": (
        instead(Survivors, lambda _, m: replace(m, dropped=(0,))), "among the survivors and among the dropped",
    ),
    "a lower threshold in the manifest": (
        instead(SecAggOpen, manifest(threshold=3, holders=3)), "a threshold is above half",
    ),
    "puppets for a cohort": (instead(SecAggOpen, puppets), "a cohort is all sites of the study"),
    "another model": (instead(SecAggOpen, manifest(model=bytes(32))), "the manifest's model is what the site"),
    "another seed or target": (
        instead(SecAggOpen, manifest(inputs=(Input("target", bytes(32)),))), "the manifest's inputs is what the site",
    ),
    "substituted keys": (instead(Keyset, substituted), "an advertisement has the digest"),
    "other survivors behind those that were signed": (
        behind(UnmaskRequest, without_the_last), "one set of survivors is signed for one keyset",
    ),
    "other survivors behind the answer": (
        behind(SumResult, without_the_last), "one set of survivors is signed for one keyset",
    ),
    "a forged result": (
        instead(SumResult, lambda _, m: replace(m, result=bytes(32))), "a result is signed by the coordinator",
    ),
    "a second result": (behind(SumResult, another_result), "one result is told of a sum"),
    "the round again without a site": (behind(AgreedResult, again_without), "summed no more"),
}  # fmt: skip
FAST = {"other survivors behind those that were signed", "the round again without a site"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ATTACKS]
)
def test_a_site_refuses_it_and_its_log_blames_the_coordinator(attack: Attack, name: str) -> None:
    twist, rule = ATTACKS[name]
    attack.by(twist)
    attack.arena.until(lambda: any(rule in said for _, said in attack.refused()))
    assert {peer for peer, _ in attack.refused()} == {COORDINATOR}
    attack.arena.until(lambda: attack.coordinator._state.round == 1)
    given = {encode(message) for site, message in attack.said if site == VICTIM and isinstance(message, UnmaskShares)}
    assert len(given) <= 1


@pytest.mark.slow
def test_too_few_survivors_are_no_survivors_and_nobody_is_to_blame(attack: Attack) -> None:
    """A lower threshold at the end: the site counts itself, and stops."""
    attack.by(instead(Survivors, lowered))
    attack.arena.until(lambda: attack.coordinator._state.round == 1)
    assert any("ConsistencyCheck needs 4 sites, 3 are left" in rule for _, rule in attack.refused())
    assert not [m for site, m in attack.said if site == VICTIM and isinstance(m, UnmaskShares)]


@pytest.mark.slow
def test_different_survivors_to_different_sites(attack: Attack) -> None:
    """The victim signs what it was told; asked to open what the others signed, it refuses."""

    def twist(attack: Attack, site: str, message: Message) -> list[tuple[str, Message]]:
        if site == VICTIM and isinstance(message, Survivors):
            attack.sent[VICTIM, "Survivors"] = message
            return [(site, without_the_last(attack, message))]
        asked = [(VICTIM, message)] if site == "site-2" and isinstance(message, UnmaskRequest) else []
        return [(site, message), *asked]

    attack.by(twist)
    attack.arena.until(lambda: bool(attack.refused()))
    assert {peer for peer, _ in attack.refused()} == {COORDINATOR}
    assert any("all survivors sign the same survivors" in rule for _, rule in attack.refused())
    attack.arena.until(lambda: attack.coordinator._state.round == 1)
    assert not [m for site, m in attack.said if site == VICTIM and isinstance(m, UnmaskShares)]


@pytest.mark.slow
def test_an_id_that_counts_twice_is_no_message(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    """No node of ours can write one: the bytes are changed before they are signed."""

    def twice(message: Message) -> bytes:
        raw = encode(message)
        if isinstance(message, Survivors) and not attack.refused():
            assert raw.count(b"\x95\0\1\2\3\4") == 1
            return raw.replace(b"\x95\0\1\2\3\4", b"\x95\0\0\2\3\4")
        return raw

    monkeypatch.setattr(protocols.seal, "encode", twice)
    attack.arena.until(lambda: bool(attack.refused()))
    assert {peer for peer, _ in attack.refused()} == {COORDINATOR}
    attack.arena.until(lambda: attack.coordinator._state.round == 1)


@pytest.mark.slow
@pytest.mark.parametrize("forged", [False, True], ids=["as they were", "under the new keyset"])
def test_shares_of_an_earlier_round(attack: Attack, forged: bool) -> None:
    def twist(attack: Attack, site: str, message: Message) -> list[tuple[str, Message]]:
        old = attack.sent[site, type(message).__name__]
        if site == VICTIM and isinstance(message, RelayShares) and old is not message:
            return [(site, replace(old, keyset=message.keyset) if forged else old)]
        return [(site, message)]

    attack.by(twist)
    attack.arena.finish()
    rule = "shares are signed by their dealer for this keyset" if forged else "of the keyset that the site is in"
    assert [peer for peer, said in attack.refused() if rule in said] == [COORDINATOR]
    assert set(attack.arena.outcomes().values()) == {"finished"}


@pytest.mark.slow
def test_malformed_shares_are_blamed_on_the_site_that_dealt_them(attack: Attack) -> None:
    dealer: Any = attack.arena.shells["site-5"]
    share = dealer._gate.share

    def dealing(recipient: str, message: Any, *place: int) -> None:
        if isinstance(message, ShareKeys):
            first, *rest = message.shares
            wrong = replace(first, seed_commitment=bytes(32))
            wrong = replace(wrong, signature=dealer._identity.sign(SHARES_LABEL, _signed_data(wrong, message.keyset)))
            message = replace(message, shares=(wrong, *rest))
        share(recipient, message, *place)

    dealer._gate.share = dealing
    attack.arena.until(lambda: attack.coordinator._state.round == 1)
    assert {peer for peer, _ in attack.refused()} == {"site-5"}
    assert any("its dealer committed to" in rule for _, rule in attack.refused())
