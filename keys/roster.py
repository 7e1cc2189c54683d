"""Who takes part: names with their pinned public keys. What a node acts on, once `keys.trust` has accepted it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from keys.encoding import NAME_PATTERN, prefixed
from keys.errors import RosterError
from keys.identity import PublicIdentity


@dataclass(frozen=True, repr=False)
class Roster:
    """One coordinator and at least one site. Raises RosterError if a name or any key stands twice.

    It says nothing about who vouches for it: a node gets its roster from `keys.trust.Trust.roster` and nowhere else.
    """

    coordinator: str
    members: Mapping[str, PublicIdentity]

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", MappingProxyType(dict(self.members)))
        if not all(re.search(NAME_PATTERN, name) for name in self.members):
            raise RosterError("a name has 1 to 32 of a-z, 0-9 and -, and does not begin with -")
        if self.coordinator not in self.members:
            raise RosterError("the coordinator is not among the members")
        if not self.sites:
            raise RosterError("there is no site")
        all_different(self.members.values())

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """All names but the coordinator's, sorted."""
        return tuple(sorted(name for name in self.members if name != self.coordinator))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the coordinator's name and every member's name and keys: 32 bytes, the same for all who believe
        the same of each other."""
        parts = [self.coordinator.encode()]
        for name, public in sorted(self.members.items()):
            parts += [name.encode(), *public.keys, public.quantum]
        return hashlib.sha256(prefixed(b"fedsecure/members/v1", *parts)).digest()

    def __repr__(self) -> str:
        return f"Roster(coordinator={self.coordinator}, sites={len(self.sites)})"


def all_different(identities: Iterable[PublicIdentity]) -> None:
    """Raises RosterError if a key, in whatever use, stands twice."""
    keys = [key for identity in identities for key in (*identity.keys, identity.quantum) if key]
    if len(set(keys)) != len(keys):
        raise RosterError("a key stands twice: two members, or two uses, would be one")
