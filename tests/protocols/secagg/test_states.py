"""What a restart goes on from, and that no state shows a secret."""

from __future__ import annotations

from dataclasses import replace as again
from typing import Any

import pytest
from msgspec.structs import replace
from party import FLOORS, manifest, names, party, plain_sum, run

from keys.ratchet import Ratchet
from protocols.secagg import client, setup
from protocols.secagg.ledger import Ledger
from protocols.secagg.states import Answering, Burned, Masked


def test_a_site_restarts_between_its_vector_and_its_answer() -> None:
    """From what it stored under the round's ratchet; before, its secrets are gone and it is a dropout."""
    members, hub, roster = party(5)
    ratchet = Ratchet(b"r" * 32)
    first = names(5)[0]

    def restart(step: str, name: str, message: Any) -> Any:
        if step == "check" and name == first:
            sealed = ratchet.seal(members[name].state.to_bytes(), b"masked", bytes)
            members[name].state = Masked.from_bytes(ratchet.open(sealed, b"masked"), roster, name, FLOORS)
        return message

    done = run(members, hub, roster, manifest(5), down=restart, drop={"mask": [names(5)[4]]})
    assert not done.refusals
    assert done.total == plain_sum(members, done.survivors)
    assert first in done.survivors


def test_what_is_not_this_sites_state() -> None:
    members, hub, roster = party(3)
    kept: list[bytes] = []

    def keep(step: str, name: str, message: Any) -> Any:
        if step == "check" and not kept:
            kept.append(members[name].state.to_bytes())
        return message

    run(members, hub, roster, manifest(3), down=keep)
    for raw, me in ((kept[0][:-1], names(3)[0]), (b"", names(3)[0]), (kept[0], "stranger")):
        with pytest.raises(ValueError, match="this site's part"):
            Masked.from_bytes(raw, roster, me, FLOORS)


def test_what_would_give_a_secret_away_is_used_once() -> None:
    """Whatever a caller does with the ledger: another keyset, vector, set of survivors or result comes too late."""
    members, hub, roster = party(5)
    site = members[names(5)[0]]
    before: dict[str, tuple[Any, Any, Ledger]] = {}

    def keep(step: str, name: str, message: Any) -> Any:
        if name == site.name:
            before[step] = (site.state, message, site.ledger)
        return message

    run(members, hub, roster, manifest(5), down=keep, drop={"mask": [names(5)[4]]})
    used = pytest.raises(RuntimeError, match="used again")
    state, message, _ = before["share"]
    with used:
        setup.share_keys(state, message, site.identity)
    shared, message, ledger = before["mask"]
    with used:
        setup.accept_shares(shared, message)
    burned, _ = client.burn(setup.accept_shares(again(shared), message), ledger)
    client.mask_input(burned, site.fill)
    for two_time_pad in (burned, Burned(burned.keyed)):
        with used:
            client.mask_input(two_time_pad, lambda _, words: words.fill(0))
    masked, message, _ = before["check"]
    other = client.hear_survivors(masked, replace(message, survivors=(0, 1, 2, 3, 4), dropped=()))
    with used:
        client.unmask(Answering(other))
    answered, message, _ = before["hear"]
    with used:
        client.hear_result(answered, message, site.identity)


def test_no_state_prints_what_it_holds() -> None:
    members, hub, roster = party(3)
    printed: list[str] = []

    def look(step: str, name: str, message: Any) -> Any:
        printed.append(repr(members[name].state))
        return message

    done = run(members, hub, roster, manifest(3), down=look)
    assert set(printed) == {"None", "Advertised()", "Shared()", "Masked()", "Signed()", "Answered()"}
    assert "bytes" not in repr(done.state)
    assert len(repr(done.state)) < 300
    assert repr(replace(done.said["unmask", names(3)[0]])) == "UnmaskShares()"
