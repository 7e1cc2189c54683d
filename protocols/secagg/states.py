"""A site's states during one sum: a type for each step, so that a skipped step does not type-check.

    Opened -> Advertised -> Shared -> Keyed -burn-> Burned -> Masked -> Told -sign-> Signing -> Signed
           -> Agreed -answer-> Answering -> Answered -> Informed

`Masked` and what follows hold no secret of the site's own but its own shares; before, a restart loses the sum.
What would give a secret away if it were used twice (another keyset, vector, set of survivors or result) can be used
once: it has a `Once`, which whoever comes second finds used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import msgspec
from msgspec.msgpack import Decoder, Encoder

from keys.encoding import prefixed, u64
from keys.roster import Roster
from protocols.errors import Inconsistent
from protocols.fields import Digest, Wire
from protocols.secagg.keyset import Secrets
from protocols.secagg.manifest import Cohort, Floors
from protocols.secagg.messages import AdvertiseKeys, Manifest, Rank, Ranks, Share
from protocols.secagg.shares import Pair


class Once:
    """A flag that is raised once. A second use is a mistake in our own code, whatever the ledger says."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used = False

    def use(self) -> None:
        """Raises RuntimeError from the second time on."""
        if self._used:
            raise RuntimeError("a state of a sum that is used once was used again")
        self._used = True


class _Quiet:
    """States hold secrets: their `repr` is their name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@dataclass(frozen=True, slots=True, repr=False)
class Opened(_Quiet):
    """The manifest is checked. `me` is this site's rank."""

    cohort: Cohort
    me: int
    roster: Roster
    floors: Floors

    @property
    def coordinator(self) -> str:
        return self.roster.coordinator


@dataclass(frozen=True, slots=True, repr=False)
class Advertised(_Quiet):
    """once: shares of these secrets are dealt for one keyset. Of two, one could open the seed and one the mask key."""

    opened: Opened
    secrets: Secrets
    message: AdvertiseKeys
    once: Once = field(default_factory=Once, init=False, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class Shared(_Quiet):
    """keyset: its digest. present: ranks that advertised; peers: neighbours whose keys hold; strangers: neighbours that
    advertised for another manifest, which this site knows nothing of any more. once: masks with one set of peers."""

    opened: Opened
    secrets: Secrets
    keyset: bytes
    present: frozenset[int]
    peers: Mapping[int, AdvertiseKeys]
    strangers: frozenset[int]
    kept: Pair
    once: Once = field(default_factory=Once, init=False, compare=False)

    @property
    def blamed(self) -> tuple[Inconsistent, ...]:
        """One for each stranger, for the log: the coordinator must leave out whoever advertised for another manifest,
        and what it passed on instead, signed by the stranger, shows that it gave out more than one."""
        rule, names = "advertised for another manifest, and was passed on", self.opened.cohort.names
        return tuple(Inconsistent(self.opened.coordinator, f"{names[r]} {rule}") for r in sorted(self.strangers))


@dataclass(frozen=True, slots=True, repr=False)
class Keyed(_Quiet):
    """All mask keys are here. plus, minus: keys of 32 bytes; held: dealer -> shares, the site's own among them.

    once: they mask one vector. The flag is here and not with `Burned`, of which anybody could make another.
    """

    opened: Opened
    keyset: bytes
    sharers: frozenset[int]
    held: Mapping[int, Pair]
    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]
    once: Once = field(default_factory=Once, init=False, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class Burned(_Quiet):
    """`Keyed`, and the ledger that says so is to be on disk before what is masked is sent."""

    keyed: Keyed


class _HeldRow(Wire, frozen=True):
    dealer: Rank
    seed: Share
    key: Share


class _MaskedFile(Wire, frozen=True):
    manifest: Manifest
    keyset: Digest
    sharers: Ranks
    held: tuple[_HeldRow, ...]


_ENCODER = Encoder()
_DECODER = Decoder(_MaskedFile)


@dataclass(frozen=True, slots=True, repr=False)
class Masked(_Quiet):
    """The vector is masked; mask keys and vector are gone. What a restart goes on from.

    once: shares are given away for one set of survivors. Here and not with `Answering`, for the same reason.
    """

    opened: Opened
    keyset: bytes
    sharers: frozenset[int]
    held: Mapping[int, Pair]
    once: Once = field(default_factory=Once, init=False, compare=False)

    def to_bytes(self) -> bytes:
        """Secret: sealed under the round's ratchet before it is stored."""
        rows = tuple(_HeldRow(dealer, pair.seed, pair.key) for dealer, pair in sorted(self.held.items()))
        return _ENCODER.encode(_MaskedFile(self.opened.cohort.manifest, self.keyset, tuple(sorted(self.sharers)), rows))

    @classmethod
    def from_bytes(cls, raw: bytes, roster: Roster, me: str, floors: Floors) -> Self:
        """Raises ValueError unless `to_bytes` gave it, at this site."""
        try:
            file = _DECODER.decode(raw)
            cohort = Cohort(file.manifest)
            held = {row.dealer: Pair(row.seed, row.key) for row in file.held}
            return cls(Opened(cohort, cohort.rank[me], roster, floors), file.keyset, frozenset(file.sharers), held)
        except (msgspec.DecodeError, KeyError):
            raise ValueError("not this site's part of a sum") from None


def survivors_data(cohort: Cohort, keyset: bytes, survivors: frozenset[int], dropped: frozenset[int]) -> bytes:
    """What everybody signs who was told the same: manifest, keyset, and both sets."""
    return prefixed(cohort.digest, keyset, *(b"".join(map(u64, sorted(ranks))) for ranks in (survivors, dropped)))


@dataclass(frozen=True, slots=True, repr=False)
class Told(_Quiet):
    """The survivors are plausible, and not yet known to be what the others were told."""

    masked: Masked
    survivors: frozenset[int]
    dropped: frozenset[int]

    @property
    def signed_data(self) -> bytes:
        return survivors_data(self.masked.opened.cohort, self.masked.keyset, self.survivors, self.dropped)


@dataclass(frozen=True, slots=True, repr=False)
class Signing(_Quiet):
    """`Told`, and the ledger that says so is to be on disk before the signature is sent."""

    told: Told


@dataclass(frozen=True, slots=True, repr=False)
class Signed(_Quiet):
    told: Told


@dataclass(frozen=True, slots=True, repr=False)
class Agreed(_Quiet):
    """At least t sites of the survivors signed the same."""

    told: Told


@dataclass(frozen=True, slots=True, repr=False)
class Answering(_Quiet):
    """`Agreed`, and the ledger that says so is to be on disk before a share is sent."""

    told: Told


@dataclass(frozen=True, slots=True, repr=False)
class Answered(_Quiet):
    """All shares are given away or forgotten. once: one result is signed."""

    opened: Opened
    keyset: bytes
    survivors: frozenset[int]
    once: Once = field(default_factory=Once, init=False, compare=False)


@dataclass(frozen=True, slots=True, repr=False)
class Informed(_Quiet):
    """The coordinator's result is signed by it, and not yet known to be what the others were told."""

    answered: Answered
    result: bytes
