"""Three members who know each other, and a study."""

from __future__ import annotations

import pytest

from keys.identity import Identity
from keys.roster import Roster
from protocols.handshake import Party

NAMES = ("hub", "north", "south")


@pytest.fixture(scope="session")
def identities() -> dict[str, Identity]:
    return {name: Identity.generate() for name in NAMES}


@pytest.fixture(scope="session")
def roster(identities: dict[str, Identity]) -> Roster:
    return Roster("hub", {name: identity.public for name, identity in identities.items()})


@pytest.fixture(scope="session")
def study() -> bytes:
    return bytes(range(32))


@pytest.fixture(scope="session")
def parties(identities: dict[str, Identity], roster: Roster, study: bytes) -> dict[str, Party]:
    """Everybody at their first start."""
    return {name: Party(name, identity, roster, study, 1) for name, identity in identities.items()}
