"""A site's part of secure sums on disk: the ledger, what was sent, and the one state that a restart goes on from.

Ledger, message and state are written in one transaction, before the message leaves. The state holds shares of others:
it is sealed under a key that is ratcheted forward before each sum. The ratchet is a file of its own, for its owner
alone, so that a copy of the database gives nobody an earlier one.
"""

from __future__ import annotations

import os
from typing import Final

from fedsecure.node.store import Store
from keys.encoding import u64
from keys.errors import CannotOpen
from keys.files import read_private, replace_private
from keys.kdf import KEY_SIZE
from keys.ratchet import Ratchet
from keys.roster import Roster
from protocols.codec import decode, encode
from protocols.messages import Kind, Message, kind_of
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import Floors
from protocols.secagg.states import Masked

_RATCHET: Final = "sums.ratchet"
_CONTEXT: Final = b"masked"
_STEPS: Final = ("advertise-keys", "share-keys", "masked-input", "consistency-check", "unmask-shares")


class Sums:
    """Of one site, in its store. Everything is on disk when a call returns."""

    def __init__(self, store: Store) -> None:
        """Raises ValueError for a damaged ledger: without it nothing may be masked or opened."""
        self._store = store
        raw = store.get("sums-ledger")
        self.ledger = Ledger() if raw is None else Ledger.from_bytes(raw)

    def begin(self, ledger: Ledger) -> None:
        """A sum was opened: the ratchet goes forward, and what was kept of the sum before is gone."""
        path = self._store.folder / _RATCHET
        ratchet = self._ratchet().advance() if path.exists() else Ratchet.begin(os.urandom)
        replace_private(path, ratchet.key + u64(ratchet.step))
        empty = dict.fromkeys((f"sums-{step}" for step in _STEPS), b"")
        self._write(ledger, **empty, **{"sums-state": b""})

    def keep(self, step: str, message: Message, ledger: Ledger, state: Masked | None = None) -> None:
        """What is about to be sent in `step`, with the ledger that permits it. state: from masked-input on, until
        unmask-shares is kept, which forgets it."""
        if step not in _STEPS:
            raise ValueError(f"a site answers {', '.join(_STEPS)}")
        raw = bytes([list(Kind).index(kind_of(message))]) + encode(message)
        values = {f"sums-{step}": raw}
        if state is not None:
            values["sums-state"] = self._ratchet().seal(state.to_bytes(), _CONTEXT, os.urandom)
        elif step == _STEPS[-1]:
            values["sums-state"] = b""
        self._write(ledger, **values)

    def kept(self, step: str) -> Message | None:
        """What was sent in `step` of the running sum: to be sent again, never made again."""
        raw = self._store.get(f"sums-{step}")
        return decode(list(Kind)[raw[0]], raw[1:], "store") if raw else None

    def restore(self, roster: Roster, me: str, floors: Floors) -> Masked | None:
        """The state that a restart goes on from. None: the site is a dropout of whatever sum was running, for good."""
        sealed = self._store.get("sums-state")
        try:
            if sealed and not self.ledger.entries[-1].over:
                return Masked.from_bytes(self._ratchet().open(sealed, _CONTEXT), roster, me, floors)
        except (CannotOpen, ValueError, OSError, IndexError):
            pass  # whatever was lost, it must not be made up
        if self.ledger.entries:
            self._write(self.ledger.give_up(self.ledger.entries[-1].manifest))
        return None

    def _ratchet(self) -> Ratchet:
        raw = read_private(self._store.folder / _RATCHET, KEY_SIZE + 8)
        return Ratchet(raw[:KEY_SIZE], int.from_bytes(raw[KEY_SIZE:], "big"))

    def _write(self, ledger: Ledger, **values: bytes) -> None:
        self._store.put(**{"sums-ledger": ledger.to_bytes(), **values})
        self.ledger = ledger
