"""A site's part of secure sums on disk: the ledger, what was sent, and the one state that a restart goes on from.

Ledger, message and state are written in one transaction, before the message leaves. The state holds shares of others:
it is sealed under a key that is ratcheted forward when a sum begins and when it is over for this site. The ratchet is a
file of its own, for its owner alone, so that a copy of the database gives nobody an earlier one.

An older ledger would permit again what was used up. So the ratchet's file says which ledger is the last one, and a site
whose database says another does not start. A copy of the whole folder, both put back together, no file of the folder
can tell: that is seen where others keep the head of the site's log.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final, NamedTuple

from fedsecure.errors import SettingsError
from fedsecure.node.store import Store
from keys.encoding import u64
from keys.errors import CannotOpen
from keys.files import read_private, replace_private
from keys.kdf import KEY_SIZE
from keys.ratchet import Ratchet
from keys.roster import Roster
from protocols.codec import decode, encode
from protocols.messages import Kind, Message, kind_of
from protocols.secagg.ledger import Ledger, Stage
from protocols.secagg.manifest import Cohort, Floors
from protocols.secagg.messages import SecAggOpen, SumResult
from protocols.secagg.states import Answered, Informed, Masked, Opened

_RATCHET: Final = "sums.ratchet"
_CONTEXT: Final = b"masked"
_STEPS: Final = (
    "advertise-keys", "share-keys", "masked-input", "consistency-check", "unmask-shares", "result-agreement",
)  # fmt: skip
_OPENED: Final = "opened"
_SAID: Final = "said"
_LAST: Final = "unmask-shares"  # in which a secret is used
_DIGEST: Final = 32
_SIZE: Final = KEY_SIZE + 8 + 2 * _DIGEST


class _Witness(NamedTuple):
    """The ratchet's file: the key's 32 bytes, its step as u64, and the digests of two ledgers.

    They are the same but for the moment in which a write to the database is under way: then it has `before` or `after`.
    """

    ratchet: Ratchet
    before: bytes
    after: bytes

    def to_bytes(self) -> bytes:
        return self.ratchet.key + u64(self.ratchet.step) + self.before + self.after


class Sums:
    """Of one site, in its store. Everything is on disk when a call returns."""

    def __init__(self, store: Store) -> None:
        """Raises ValueError for a damaged ledger: without it nothing may be masked or opened. Raises SettingsError if
        ledger and ratchet are not of the same moment, or one of both is missing."""
        self._store = store
        self._path = store.folder / _RATCHET
        raw = store.get("sums-ledger")
        self.ledger = Ledger() if raw is None else Ledger.from_bytes(raw)
        if self._path.exists():
            self._compare(self._witness())
        elif raw is not None:
            raise SettingsError("the key beside the record of secure sums is missing: enrol this site anew")

    def begin(self, ledger: Ledger, opened: SecAggOpen | None = None) -> None:
        """A sum was opened: the ratchet goes forward, and what was kept of the sum before is gone. opened: what it was
        opened by, without which a restart does not go on behind the site's last secret."""
        empty = dict.fromkeys((f"sums-{step}" for step in (*_STEPS, _OPENED, _SAID)), b"")
        if opened is not None:
            empty[f"sums-{_OPENED}"] = _raw(opened)
        self._write(ledger, forward=True, **empty)

    def keep(
        self, step: str, message: Message, ledger: Ledger, state: Masked | None = None, said: SumResult | None = None
    ) -> None:
        """What is about to be sent in `step`, with the ledger that permits it. state: from masked-input on, until
        unmask-shares is kept, which forgets it, key and all. said: what a result-agreement agrees to: no other result
        is signed after a restart."""
        if step not in _STEPS:
            raise ValueError(f"a site answers {', '.join(_STEPS)}")
        values = {f"sums-{step}": _raw(message)}
        if said is not None:
            values[f"sums-{_SAID}"] = _raw(said)
        if state is not None:
            values["sums-state"] = self._witness().ratchet.seal(state.to_bytes(), _CONTEXT, os.urandom)
        self._write(ledger, forward=step == _LAST, **values)

    def kept(self, step: str) -> Message | None:
        """What was sent in `step` of the running sum: to be sent again, never made again."""
        raw = self._store.get(f"sums-{step}")
        return decode(list(Kind)[raw[0]], raw[1:], "store") if raw else None

    def restore(self, roster: Roster, me: str, floors: Floors) -> Masked | Answered | Informed | None:
        """The state that a restart goes on from. None: the site is a dropout of whatever sum was running, for good."""
        if (answered := self._answered(roster, me, floors)) is not None:
            return answered
        sealed = self._store.get("sums-state")
        try:
            if sealed and not self.ledger.entries[-1].over:
                return Masked.from_bytes(self._witness().ratchet.open(sealed, _CONTEXT), roster, me, floors)
        except (CannotOpen, ValueError, IndexError):
            pass  # whatever was lost, it must not be made up
        if self.ledger.entries:
            self.give_up()
        return None

    def _answered(self, roster: Roster, me: str, floors: Floors) -> Answered | Informed | None:
        """Behind the last secret: nothing is used up but the one result that is signed."""
        entry = self.ledger.entries[-1] if self.ledger.entries else None
        opened, said = self.kept(_OPENED), self.kept(_SAID)
        if entry is None or entry.at is not Stage.ANSWERED or entry.over or not isinstance(opened, SecAggOpen):
            return None
        cohort = Cohort(opened.manifest)
        answered = Answered(Opened(cohort, cohort.rank[me], roster, floors), entry.keyset, entry.survivor_ranks)
        return Informed(answered, said.result) if isinstance(said, SumResult) else answered

    def confirm(self, ledger: Ledger) -> None:
        """What came of a sum is known: it is over."""
        self._write(ledger, forward=True)

    def give_up(self) -> None:
        """The sum that is running was aborted. What it used stays used; its state is gone, key and all."""
        self._write(self.ledger.give_up(self.ledger.entries[-1].manifest), forward=True)

    def _write(self, ledger: Ledger, *, forward: bool = False, **values: bytes) -> None:
        """File, database, file: a kill in between leaves a file that knows both ledgers. forward: also the ratchet,
        with the state that it sealed."""
        digest = _digest(ledger)
        if forward:
            values["sums-state"] = b""
        known = self._witness() if self._path.exists() else _Witness(Ratchet.begin(os.urandom), _digest(Ledger()), b"")
        self._put(known._replace(before=_digest(self.ledger), after=digest))
        self._store.put(**{"sums-ledger": ledger.to_bytes(), **values})
        self._put(_Witness(known.ratchet.advance() if forward else known.ratchet, digest, digest))
        self.ledger = ledger

    def _compare(self, known: _Witness) -> None:
        """Finish what a kill interrupted. Raises SettingsError for another ledger."""
        found = _digest(self.ledger)
        if found not in (known.before, known.after):
            raise SettingsError(
                "the record of secure sums is not the last one this site wrote: whoever restored it could open a sum "
                "twice. Bring back the newest node.db, or enrol this site anew"
            )
        if known.before != known.after:
            sealed = self._store.get("sums-state")
            self._put(_Witness(known.ratchet if sealed else known.ratchet.advance(), found, found))

    def _witness(self) -> _Witness:
        raw = read_private(self._path, _SIZE)
        if len(raw) != _SIZE:
            raise SettingsError("the key beside the record of secure sums is damaged: enrol this site anew")
        key, step, digests = raw[:KEY_SIZE], raw[KEY_SIZE : KEY_SIZE + 8], raw[KEY_SIZE + 8 :]
        return _Witness(Ratchet(key, int.from_bytes(step, "big")), digests[:_DIGEST], digests[_DIGEST:])

    def _put(self, witness: _Witness) -> None:
        replace_private(self._path, witness.to_bytes())


def _raw(message: Message) -> bytes:
    return bytes([list(Kind).index(kind_of(message))]) + encode(message)


def _digest(ledger: Ledger) -> bytes:
    return hashlib.sha256(ledger.to_bytes()).digest()
