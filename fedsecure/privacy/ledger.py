"""What a site has spent, durable before anything leaves: one SQLite file, one chain of hashes (`chain`), two caps.

A charge over a cap is refused and nothing is written. A row that was changed, taken out or put in breaks the chain; a
file that was set back to an older state is told by a head known from elsewhere, which `open_ledger` is given: until
checkpoints are countersigned, whoever restores a backup must be trusted to have kept the newest head.

A crash between charge and sending wastes budget and never reuses it. The same message charged again is charged once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from fedsecure.errors import GateRefused
from fedsecure.privacy import accountant, chain
from fedsecure.privacy.accountant import Spent
from fedsecure.privacy.chain import (
    FIRST,
    Cap,
    Charged,
    Entry,
    Everyone,
    Head,
    LedgerBroken,
    Opened,
    Withdrawn,
    cohort_of,
    token_of,
)
from fedsecure.privacy.events import DiscreteGaussian, Event, Gaussian

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS chain (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, head BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS patient (study TEXT NOT NULL, token TEXT NOT NULL, PRIMARY KEY (study, token)) STRICT;
"""


class OverBudget(GateRefused):
    """The release would pass a cap. Nothing was charged and nothing may leave; the round goes on without this site."""


class Withdrawal(NamedTuple):
    """For the patient and the report: `releases` cannot be undone, and `spent` bounds what they tell of the patient."""

    releases: int
    spent: Spent | None  # None where the study has no delta, that is no guarantee


class Ledger:
    """One site's ledger. Every write is on disk when the call returns. Made by `open_ledger`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._entries: list[Entry] = []
        self._head = Head(0, FIRST)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def head(self) -> Head:
        """For the checkpoint that others sign."""
        return self._head

    # --- writing ---

    def open_study(self, study: str, patients: Collection[str], cap: Cap | None) -> None:
        """Begin a study with these patients (opaque ids). The same again changes nothing; anything else is refused."""
        tokens = sorted({token_of(patient) for patient in patients})
        entry = Opened(study, cap, cohort_of(tokens), len(tokens))
        with self._writing():
            held = self._opened(study)
            if held == entry:
                return
            if held is not None:
                raise GateRefused("the ledger holds this study with another cap or other patients: neither may change")
            self._db.executemany("INSERT INTO patient VALUES (?, ?)", [(study, token) for token in tokens])
            self._append(entry)

    def charge(self, study: str, stage: int, round_: int, message: bytes, events: Sequence[Event]) -> None:
        """Charge all `events` of a message (digest `message`) or none.

        Raises UnknownEvent; GateRefused for a study that was not opened; OverBudget, before anything is written, where
        the study's cap, or the site's cap for a patient over all studies, would be passed.
        """
        accountant.check(events)
        entry = Charged(study, stage, round_, message.hex(), tuple(events))
        with self._writing():
            opened = self._opened(study)
            if opened is None:
                raise GateRefused("the ledger does not know this study: open it with its patients and cap first")
            if entry in self._entries:
                return  # the same bytes, sent again after a crash
            if sum(map(_sampled, [*events, *self._events_in(study, stage, round_)])) > 1:
                raise GateRefused(
                    "a round of sampled patients releases once: another release of the same draw would cost more than "
                    "the two of them do apart"
                )
            if opened.cap is not None:
                _within(opened.cap, [*self.events(study), *events], "the study's cap")
            everyone = self.everyone
            if everyone is not None:
                for studies in self._companies(study):
                    past = [event for one in sorted(studies) for event in self.events(one)]
                    _within(everyone, [*past, *events], "the site's cap for a patient over all studies")
            self._append(entry)

    def withdraw(self, study: str, patient: str) -> Withdrawal:
        """Take a patient out of a study. The caller also keeps them out of every later draw (`taking_part`).

        Cohort size and weights stay what the study says: the patient counts as one who contributes nothing, which is
        what the guarantee compares with. Raises GateRefused for somebody who takes no part.
        """
        token = token_of(patient)
        with self._writing():
            opened = self._opened(study)
            if opened is None or token not in self.taking_part(study):
                raise GateRefused("this patient takes no part in this study, or left it before")
            self._append(Withdrawn(study, token))
        events = self.events(study)
        released = sum(isinstance(entry, Charged) and entry.study == study for entry in self._entries)
        return Withdrawal(released, accountant.spent(events, opened.cap.delta) if opened.cap else None)

    def restore(self, entries: Sequence[Entry], patients: Mapping[str, Sequence[str]]) -> None:
        """Write the rows of another ledger into this one, which is empty. Raises LedgerBroken where they and the
        patients' tokens do not belong together, and writes nothing."""
        with self._writing():
            if self._entries:
                raise GateRefused("there is a ledger already: an import never replaces one")
            rows = [(study, token) for study, tokens in patients.items() for token in tokens]
            self._db.executemany("INSERT INTO patient VALUES (?, ?)", rows)
            for entry in entries:
                self._append(entry)
            self._verify(None)

    # --- reading ---

    def studies(self) -> tuple[Opened, ...]:
        return tuple(entry for entry in self._entries if isinstance(entry, Opened))

    def charges(self, study: str) -> tuple[Charged, ...]:
        return tuple(entry for entry in self._entries if isinstance(entry, Charged) and entry.study == study)

    def events(self, study: str) -> tuple[Event, ...]:
        """All that was charged to a study, in order."""
        return tuple(event for charged in self.charges(study) for event in charged.events)

    def withdrawals(self, study: str) -> int:
        return sum(isinstance(entry, Withdrawn) and entry.study == study for entry in self._entries)

    @property
    def everyone(self) -> Cap | None:
        """The site's cap for any one patient over all studies: the last one on record."""
        return next((entry.cap for entry in reversed(self._entries) if isinstance(entry, Everyone)), None)

    def entries(self) -> tuple[Entry, ...]:
        """All rows, in order."""
        return tuple(self._entries)

    def tokens(self, study: str) -> tuple[str, ...]:
        """Tokens of all patients a study was opened with, sorted."""
        rows = self._db.execute("SELECT token FROM patient WHERE study = ? ORDER BY token", (study,))
        return tuple(token for (token,) in rows)

    def taking_part(self, study: str) -> frozenset[str]:
        """Tokens of the patients who are in a study and have not left it."""
        gone = {entry.token for entry in self._entries if isinstance(entry, Withdrawn) and entry.study == study}
        return frozenset(self.tokens(study)) - gone

    # --- inside ---

    def _opened(self, study: str) -> Opened | None:
        return next((entry for entry in self.studies() if entry.study == study), None)

    def _events_in(self, study: str, stage: int, round_: int) -> tuple[Event, ...]:
        """What a round was charged so far."""
        charges = [one for one in self.charges(study) if (one.stage, one.round) == (stage, round_)]
        return tuple(event for charged in charges for event in charged.events)

    def _companies(self, study: str) -> set[frozenset[str]]:
        """The different sets of studies that this study's patients were ever in. What a patient gave to a study before
        leaving it is at most what the study gave out, so leaving takes no study off."""
        mine = self.taking_part(study)
        shared = {entry.study: mine & set(self.tokens(entry.study)) for entry in self.studies()}
        return {frozenset(name for name, tokens in shared.items() if token in tokens) for token in mine}

    def _cap_everyone(self, cap: Cap) -> None:
        with self._writing():
            if self.everyone != cap:
                self._append(Everyone(cap))

    def _append(self, entry: Entry) -> None:
        body = chain.encode(entry)
        head = chain.after(self._head, body)
        self._db.execute("INSERT INTO chain VALUES (?, ?, ?)", (head.size, body, head.digest))
        self._entries.append(entry)
        self._head = head

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; what was read is what is on disk, whoever else wrote in between."""
        self._db.execute("BEGIN IMMEDIATE")
        before = self._head, list(self._entries)
        try:
            self._load()
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            self._head, self._entries = before
            raise
        self._db.execute("COMMIT")

    def _load(self) -> None:
        """Read rows past the head that is known, and check each. Raises LedgerBroken."""
        (size,) = self._db.execute("SELECT count(*) FROM chain").fetchone()
        if size < self._head.size:
            raise LedgerBroken("the ledger has lost rows while it was open")
        query = "SELECT seq, body, head FROM chain WHERE seq > ? ORDER BY seq"
        for seq, body, digest in self._db.execute(query, (self._head.size,)).fetchall():
            expected = chain.after(self._head, body)
            if seq != expected.size or digest != expected.digest:
                raise LedgerBroken(f"row {seq} of the ledger does not follow from the rows before: it was changed")
            self._entries.append(chain.decode(body))
            self._head = expected
        if size != self._head.size:
            raise LedgerBroken("a row of the ledger is missing")

    def _verify(self, known: Head | None) -> None:
        self._load()
        for opened in self.studies():
            if cohort_of(self.tokens(opened.study)) != opened.cohort:
                raise LedgerBroken("the patients of a study are not the ones it was opened with")
        if known is None:
            return
        row = self._db.execute("SELECT head FROM chain WHERE seq = ?", (known.size,)).fetchone()
        if known.digest != (FIRST if known.size == 0 else row and row[0]):
            raise LedgerBroken("the ledger is not a continuation of the head that is known: an older copy was restored")


def open_ledger(path: Path, *, known: Head | None = None, everyone: Cap | None = None) -> Ledger:
    """The ledger in this file, made if there is none.

    known: the newest head that a checkpoint or a peer holds. everyone: the site's own cap for any one patient over all
    studies, which goes on record; None leaves the one on record in force. Raises LedgerBroken if the ledger is not
    whole, or not at least as far as `known`.
    """
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(_TABLES)
        ledger = Ledger(db)
        ledger._verify(known)
        if everyone is not None:
            ledger._cap_everyone(everyone)
    except sqlite3.DatabaseError:
        db.close()
        raise LedgerBroken("the ledger's file is damaged") from None
    except BaseException:
        db.close()
        raise
    return ledger


def _sampled(event: Event) -> bool:
    return isinstance(event, Gaussian | DiscreteGaussian) and event.sampling < 1


def _within(cap: Cap, events: Sequence[Event], whose: str) -> None:
    cost = accountant.spent(events, cap.delta, reference=False)
    if not cost.epsilon <= cap.epsilon:
        because = f" ({'; '.join(cost.infinite)})" if cost.infinite else ""
        raise OverBudget(
            f"{whose} is epsilon {cap.epsilon:g} at delta {cap.delta:.1e}, and this release would make it "
            f"{cost.epsilon:.3g}{because}: nothing was released"
        )
