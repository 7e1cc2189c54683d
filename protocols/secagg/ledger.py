"""What a site must have on disk before each of its steps, so that no crash, restart or repetition opens a vector.

    open     before a key is sent            the model is the one that is next; a new attempt ends the one before
    burn     before the vector is sent       a keyset masks one vector once. A kill before this makes the site a dropout
    sign     before the signature is sent    one set of survivors for one keyset, and for all sums of one model
    answer   before shares are sent          for the survivors that were signed
    confirm  before the next round           the result of a sum is the next model

Each rule takes the ledger and gives the next one, or raises and changes nothing. What comes with the new ledger is the
token that the client's next step takes: the step cannot be written without the rule. The caller stores the new ledger
in the transaction in which it stores what it is about to send; what it sends again are the stored bytes.

Two sums of one model whose survivors differ by one site differ by its vector. A site that has answered cannot know
whether the sum was opened, so that it takes it for open; the same model is summed again only over the same survivors,
which shows the same sum of all once more. SPEC.md, *Ledger*, says what follows and what only noise can give.
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
    count it as opened. told: the survivors as a bit for each rank, the lowest in the first bit of the first byte;
    survivors: what was signed. result: what t sites say came of it, empty until then. regrouped: of other survivors
    than an earlier sum of the model.
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
    told: bytes = b""
    result: bytes = b""
    regrouped: bool = False
    over: bool = False

    @property
    def place(self) -> tuple[int, int]:
        return self.stage, self.round

    @property
    def opens_model(self) -> bool:
        """Whether the sum of the updates to this model may be open."""
        return self.at >= (Stage.SIGNED if self.binds_when_signed else Stage.ANSWERED)

    @property
    def survivor_ranks(self) -> frozenset[int]:
        """Whose sum was signed; none before."""
        return _ranks(self.told)

    def overlaps(self, other: Entry) -> bool:
        """Whether both sum updates to the same model."""
        return self.model == other.model and bool(set(self.flows) & set(other.flows))


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

    def open(self, manifest: Manifest, digest: bytes, floors: Floors, coordinator: str, initial: bytes) -> Ledger:
        """A sum begins. initial: digest of the model with which the stage begins. Raises Spent(coordinator)."""
        entry = _entry(manifest, digest)
        mine = self._of(entry.study)
        if any(old.place > entry.place for old in mine):
            raise Spent(coordinator, "rounds of a study ascend")
        of_round = [old for old in mine if old.place == entry.place]
        if any(old.attempt >= entry.attempt for old in of_round):
            raise Spent(coordinator, "an attempt of a round comes once, and after those before it")
        if len(of_round) >= floors.attempts:
            raise Spent(coordinator, f"a round is begun at most {floors.attempts} times here")
        self._require_next(entry, initial, coordinator)
        if sum(old.opens_model for old in mine) >= floors.sums:
            raise Spent(coordinator, f"at most {floors.sums} sums of a study are opened here")
        # Two sums at once would be two chances to be told different survivors.
        return Ledger((*(msgspec.structs.replace(old, over=True) for old in self.entries), entry))

    def _require_next(self, entry: Entry, initial: bytes, coordinator: str) -> None:
        """The model is the last one that came of a sum, or the other flows' of that round; and nothing came of it yet.

        So a coordinator that would sum again without a victim cannot name a model of its own for it, a bit away.
        """
        done = [old for old in self._of(entry.study) if old.stage == entry.stage and old.result]
        last = [old for old in done if old.round == max(known.round for known in done)]
        of_round = [old for old in last if old.round == entry.round]
        allowed = {old.model for old in of_round} or {old.result for old in last} or {initial}
        if entry.model not in allowed:
            raise Spent(coordinator, "a round's model is what came of the round before it, or the study's first")
        for old in self.entries:
            if old.overlaps(entry):
                if old.result:
                    raise Spent(coordinator, "a model of which a sum came is summed no more")
                if old.opens_model and old.study != entry.study:
                    raise Spent(coordinator, "a model is summed in one study")

    def burn(self, digest: bytes, keyset: bytes, coordinator: str) -> Ledger:
        """The keyset of the sum is used. Raises Spent(coordinator)."""
        entry = self._running(digest, coordinator)
        if entry.at is not Stage.OPENED or any(keyset == old.keyset for old in self.entries):
            raise Spent(coordinator, "a keyset masks one vector once")
        return self._with(entry, at=Stage.BURNED, keyset=keyset)

    def sign(
        self, digest: bytes, survivors: bytes, told: frozenset[int], coordinator: str,
        revoked: frozenset[int] = frozenset(), regroups: int = 0,
    ) -> Ledger:  # fmt: skip
        """One set of survivors is signed. Raises Spent(coordinator).

        survivors: what is signed; told: their ranks. revoked: ranks of sites that are no longer in the roster.
        regroups: how many sums of the study may be of other survivors than an earlier one of their model.
        The same may be signed again: a site that restarts before it answers goes on.
        """
        entry = self._running(digest, coordinator)
        if entry.at is not Stage.BURNED and (entry.at, entry.survivors) != (Stage.SIGNED, survivors):
            raise Spent(coordinator, "one set of survivors is signed for one keyset")
        before = [old for old in self._of(entry.study) if old is not entry and old.opens_model and old.overlaps(entry)]
        regrouped = any(_ranks(old.told) - revoked != told for old in before)
        if regrouped and sum(old.regrouped for old in self._of(entry.study) if old is not entry) >= regroups:
            raise Spent(coordinator, "sums of one model have the same survivors: others differ by who left")
        return self._with(entry, at=Stage.SIGNED, survivors=survivors, told=_bits(told), regrouped=regrouped)

    def answer(self, digest: bytes, survivors: bytes, coordinator: str) -> Ledger:
        """Shares are given away for the survivors that were signed. Raises Spent(coordinator)."""
        entry = self._running(digest, coordinator)
        if entry.at is not Stage.SIGNED or entry.survivors != survivors:
            raise Spent(coordinator, "shares are given away once, for the survivors that were signed")
        return self._with(entry, at=Stage.ANSWERED)

    def confirm(
        self, manifest: Manifest, digest: bytes, result: bytes, coordinator: str, initial: bytes
    ) -> Ledger:  # fmt: skip
        """t sites say that this came of the sum: the next round's model. Also of one that this site was no part of.

        Raises Spent(coordinator) if the sum is not of the model that is next here.
        """
        entry = next((old for old in self.entries if old.manifest == digest), _entry(manifest, digest))
        self._require_next(entry, initial, coordinator)
        done = msgspec.structs.replace(entry, result=result, over=True)
        others = tuple(old for old in self.entries if old.manifest != digest)
        return Ledger((*others, done))

    def give_up(self, digest: bytes) -> Ledger:
        """The sum was aborted, or its secrets were lost. What it used stays used. An unknown sum changes nothing."""
        return Ledger(tuple(msgspec.structs.replace(e, over=True) if e.manifest == digest else e for e in self.entries))

    def _of(self, study: bytes) -> list[Entry]:
        return [entry for entry in self.entries if entry.study == study]

    def _running(self, digest: bytes, coordinator: str) -> Entry:
        if self.entries and self.entries[-1].manifest == digest and not self.entries[-1].over:
            return self.entries[-1]
        raise Spent(coordinator, "a sum that is over, or never began here, gets nothing more")

    def _with(self, entry: Entry, **changes: object) -> Ledger:
        return Ledger((*self.entries[:-1], msgspec.structs.replace(entry, **changes)))


def _entry(manifest: Manifest, digest: bytes) -> Entry:
    flows = tuple(part.flow for part in manifest.flows)
    place = (manifest.stage, manifest.round, manifest.attempt)
    return Entry(digest, manifest.study, *place, manifest.model, flows, manifest.neighbours > 0)


def _bits(ranks: frozenset[int]) -> bytes:
    return sum(1 << rank for rank in ranks).to_bytes(max(ranks, default=0) // 8 + 1, "little")


def _ranks(bits: bytes) -> frozenset[int]:
    number = int.from_bytes(bits, "little")
    return frozenset(rank for rank in range(number.bit_length()) if number >> rank & 1)
