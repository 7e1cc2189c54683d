"""What a site must have on disk before each of its steps, so that no crash, restart or repetition opens a vector.

    open     before a key is sent            a manifest is opened once; a new attempt ends the one before it
    burn     before the vector is sent       a keyset masks one vector once. A kill before this makes the site a dropout
    sign     before the signature is sent    one set of survivors for one keyset
    answer   before shares are sent          the updates to one model are opened once

Each rule takes the ledger and gives the next one, or raises and changes nothing. What comes with the new ledger is the
token that the client's next step takes: the step cannot be written without the rule. The caller stores the new ledger
in the transaction in which it stores what it is about to send; what it sends again are the stored bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

import msgspec
from msgspec.msgpack import Decoder, Encoder

from protocols.errors import Spent
from protocols.fields import Count, Digest, Name, Wire
from protocols.secagg.manifest import Floors
from protocols.secagg.messages import Manifest


class Stage(IntEnum):
    """How far one sum has come at this site."""

    OPENED = 0
    BURNED = 1
    SIGNED = 2
    ANSWERED = 3


class Entry(Wire, frozen=True):
    """One sum. over: a later attempt took its place, or it was given up: nothing more is sent under it.

    binds_when_signed: in a sparse graph fewer than t sites may open a sum, so that whoever signed its survivors must
    count it as opened.
    """

    manifest: Digest
    study: Digest
    stage: Count
    round: Count
    attempt: Count
    model: Digest
    flows: tuple[Name, ...]
    binds_when_signed: bool
    at: Stage = Stage.OPENED
    keyset: bytes = b""
    survivors: bytes = b""
    over: bool = False

    @property
    def opens_model(self) -> bool:
        """Whether the sum of the updates to this model may be open."""
        return self.at >= (Stage.SIGNED if self.binds_when_signed else Stage.ANSWERED)


_ENCODER: Final = Encoder()
_DECODER: Final = Decoder(tuple[Entry, ...])


@dataclass(frozen=True, slots=True, repr=False)
class Ledger:
    """All sums that this site took part in, oldest first. Every rule returns another ledger."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Raises ValueError unless `to_bytes` gave it: a damaged ledger opens nothing."""
        entries = _DECODER.decode(raw)  # msgspec's errors are ValueErrors
        if _ENCODER.encode(entries) != raw:
            raise ValueError("not a ledger in its one encoding")
        return cls(entries)

    def to_bytes(self) -> bytes:
        return _ENCODER.encode(self.entries)

    def __repr__(self) -> str:
        return f"Ledger({len(self.entries)})"

    def open(self, manifest: Manifest, digest: bytes, floors: Floors, coordinator: str) -> Ledger:
        """A sum begins. Raises Spent(coordinator)."""
        flows = tuple(part.flow for part in manifest.flows)
        place = (manifest.study, manifest.stage, manifest.round)
        of_round = [entry for entry in self.entries if (entry.study, entry.stage, entry.round) == place]
        if any(entry.model == manifest.model and entry.opens_model and set(flows) & set(entry.flows)
               for entry in self.entries):  # fmt: skip
            raise Spent(coordinator, "the updates to one model are opened once: two sums differ by who left")
        if any(entry.attempt >= manifest.attempt for entry in of_round):
            raise Spent(coordinator, "an attempt of a round comes once, and after those before it")
        if len(of_round) >= floors.attempts:
            raise Spent(coordinator, f"a round is begun at most {floors.attempts} times here")
        if sum(entry.opens_model for entry in self.entries) >= floors.sums:
            raise Spent(coordinator, f"at most {floors.sums} sums are opened here")
        entry = Entry(digest, *place, manifest.attempt, manifest.model, flows, manifest.neighbours > 0)
        # Two sums at once would be two chances to be told different survivors.
        ended = tuple(msgspec.structs.replace(old, over=True) for old in self.entries)
        return Ledger((*ended, entry))

    def burn(self, digest: bytes, keyset: bytes, coordinator: str) -> Ledger:
        """The keyset of the sum is used. Raises Spent(coordinator)."""
        entry = self._running(digest, coordinator)
        if entry.at is not Stage.OPENED or any(keyset == old.keyset for old in self.entries):
            raise Spent(coordinator, "a keyset masks one vector once")
        return self._with(entry, at=Stage.BURNED, keyset=keyset)

    def sign(self, digest: bytes, survivors: bytes, coordinator: str) -> Ledger:
        """One set of survivors is signed. Raises Spent(coordinator)."""
        entry = self._running(digest, coordinator)
        if entry.at is not Stage.BURNED:
            raise Spent(coordinator, "one set of survivors is signed for one keyset")
        return self._with(entry, at=Stage.SIGNED, survivors=survivors)

    def answer(self, digest: bytes, survivors: bytes, coordinator: str) -> Ledger:
        """Shares are given away for the survivors that were signed. Raises Spent(coordinator)."""
        entry = self._running(digest, coordinator)
        if entry.at is not Stage.SIGNED or entry.survivors != survivors:
            raise Spent(coordinator, "shares are given away once, for the survivors that were signed")
        return self._with(entry, at=Stage.ANSWERED)

    def give_up(self, digest: bytes) -> Ledger:
        """The sum was aborted, or its secrets were lost. What it used stays used. An unknown sum changes nothing."""
        return Ledger(tuple(msgspec.structs.replace(e, over=True) if e.manifest == digest else e for e in self.entries))

    def _running(self, digest: bytes, coordinator: str) -> Entry:
        if self.entries and self.entries[-1].manifest == digest and not self.entries[-1].over:
            return self.entries[-1]
        raise Spent(coordinator, "a sum that is over, or never began here, gets nothing more")

    def _with(self, entry: Entry, **changes: object) -> Ledger:
        return Ledger((*self.entries[:-1], msgspec.structs.replace(entry, **changes)))
