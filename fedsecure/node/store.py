"""What survives a kill: one SQLite file for small state and what was released, plain files for models and sealed banks.

A node's folder is its own: study.json, identity.key, trust, node.db, metrics.jsonl, models/, targets/, prototypes/,
incoming/, held/, state/, pictures/, contradictions/, evidence/, status.json. Nothing in it is sent except through the
gate.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from fedsecure.audit.log import Entry
from fedsecure.egress import SentRow
from fedsecure.errors import SettingsError
from fedsecure.files import UNFINISHED, write_atomic

_TABLES = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS outbox (
    stage INTEGER NOT NULL, round INTEGER NOT NULL, flow TEXT NOT NULL, message BLOB NOT NULL,
    PRIMARY KEY (stage, round, flow)) STRICT;
CREATE TABLE IF NOT EXISTS sent (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, flow TEXT NOT NULL, event TEXT NOT NULL, stage INTEGER NOT NULL,
    round INTEGER NOT NULL, peer TEXT NOT NULL, bytes INTEGER NOT NULL, digest BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS leaves (seq INTEGER PRIMARY KEY, leaf BLOB NOT NULL, nonce BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS heads (number INTEGER PRIMARY KEY, shown BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS own (round INTEGER PRIMARY KEY, message BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS vouches (
    author TEXT NOT NULL, round INTEGER NOT NULL, member TEXT NOT NULL, signature BLOB NOT NULL,
    PRIMARY KEY (author, round, member)) STRICT;
"""


class Store:
    """One node's durable state. Used by one process at a time; every write is on disk when the call returns."""

    def __init__(self, folder: Path) -> None:
        """Raises SettingsError if another process has this folder open: it would be one identity twice."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise SettingsError("this node's folder is in use by another process: end that one first") from None
        for torn in folder.rglob(f"{UNFINISHED}*"):  # what a kill left of a file that was being written
            torn.unlink(missing_ok=True)
        self._db = sqlite3.connect(folder / "node.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()
        self._lock.close()

    def get(self, name: str) -> bytes | None:
        row = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, **values: bytes) -> None:
        """Write all of `values` in one transaction."""
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", values.items())

    def next_boot(self) -> int:
        """1, 2, 3, ... at each start of the node: the high half of its sequence numbers, so that none comes twice."""
        boot = int.from_bytes(self.get("boot") or b"", "big") + 1
        self.put(boot=boot.to_bytes(4, "big"))
        return boot

    # --- outbox and the record of what was sent ---

    def log_and_queue(self, row: SentRow, entry: Entry, message: bytes) -> None:
        """Row, leaf and message in one transaction, before anything leaves (docs/architecture.md 2)."""
        with self._transaction():
            self._log(row)
            self._append(entry)
            # Only the current round can be asked for again.
            self._db.execute("DELETE FROM outbox WHERE (stage, round) < (?, ?)", (row.stage, row.round))
            self._db.execute("INSERT INTO outbox VALUES (?, ?, ?, ?)", (row.stage, row.round, row.flow, message))

    def log(self, row: SentRow, entry: Entry) -> None:
        with self._transaction():
            self._log(row)
            self._append(entry)

    def note(self, *entries: Entry) -> None:
        """Leaves alone: of what did not leave, or was taken from a peer."""
        with self._transaction():
            for entry in entries:
                self._append(entry)

    def leaves(self) -> int:
        """How many leaves the log has: the place of the next one."""
        (count,) = self._db.execute("SELECT coalesce(max(seq) + 1, 0) FROM leaves").fetchone()
        return int(count)

    def leaves_from(self, seq: int) -> Iterator[bytes]:
        """Leaves from this place on, in order."""
        for (leaf,) in self._db.execute("SELECT leaf FROM leaves WHERE seq >= ? ORDER BY seq", (seq,)):
            yield bytes(leaf)

    def queued(self, stage: int, round_: int) -> list[tuple[str, bytes]]:
        """(flow, message) of a round, in the order in which they were released."""
        query = "SELECT flow, message FROM outbox WHERE stage = ? AND round = ? ORDER BY rowid"
        return [(str(flow), bytes(message)) for flow, message in self._db.execute(query, (stage, round_))]

    def released_bytes(self) -> int:
        """All bytes of kind release that were ever sealed for sending, whole frames, each once."""
        query = "SELECT coalesce(sum(bytes), 0) FROM sent WHERE kind = 'release' AND event != 'repeat'"
        (total,) = self._db.execute(query).fetchone()
        return int(total)

    def head(self) -> int:
        """How many frames were ever handed to the transport. Goes back only where an older copy was restored."""
        (last,) = self._db.execute("SELECT coalesce(max(seq), 0) FROM sent").fetchone()
        return int(last)

    def sent_bytes(self) -> dict[str, int]:
        """Peer -> bytes of all frames handed to the transport for it."""
        return {
            str(peer): int(size) for peer, size in self._db.execute("SELECT peer, sum(bytes) FROM sent GROUP BY peer")
        }

    def sent(self) -> Iterator[SentRow]:
        """Every frame ever handed to the transport, in order."""
        query = "SELECT kind, flow, event, stage, round, peer, bytes, digest FROM sent ORDER BY seq"
        yield from (SentRow(*row) for row in self._db.execute(query))

    def _append(self, entry: Entry) -> None:
        self._db.execute("INSERT INTO leaves SELECT coalesce(max(seq) + 1, 0), ?, ? FROM leaves", entry)

    # --- heads of logs ---

    def keep_head(self, number: int, shown: bytes, vouch: tuple[str, int, str, bytes] | None = None) -> None:
        """Head `number` of the list of all members' heads and, if any, this node's own signature for it: at once."""
        with self._transaction():
            self._db.execute("INSERT INTO heads VALUES (?, ?)", (number, shown))
            if vouch is not None:
                self._db.execute("INSERT OR IGNORE INTO vouches VALUES (?, ?, ?, ?)", vouch)

    def heads(self, first: int = 0) -> list[bytes]:
        """The list from this number on."""
        query = "SELECT shown FROM heads WHERE number >= ? ORDER BY number"
        return [bytes(shown) for (shown,) in self._db.execute(query, (first,))]

    def keep_own(self, round_: int, message: bytes) -> None:
        """What this node signed of a round; a second one of the same round raises sqlite3.IntegrityError."""
        self._db.execute("INSERT INTO own VALUES (?, ?)", (round_, message))

    def own(self) -> dict[int, bytes]:
        """Round -> what this node signed of it, ascending."""
        rows = self._db.execute("SELECT round, message FROM own ORDER BY round")
        return {int(round_): bytes(message) for round_, message in rows}

    def keep_vouch(self, author: str, round_: int, member: str, signature: bytes) -> None:
        """A witness' signature; the first one stays."""
        self._db.execute("INSERT OR IGNORE INTO vouches VALUES (?, ?, ?, ?)", (author, round_, member, signature))

    def vouches(self) -> list[tuple[str, int, str, bytes]]:
        """(author, round, member, signature) of all witnesses' signatures that are here, sorted."""
        query = "SELECT author, round, member, signature FROM vouches ORDER BY author, round, member"
        return [(str(a), int(r), str(m), bytes(s)) for a, r, m, s in self._db.execute(query)]

    def _log(self, row: SentRow) -> None:
        self._db.execute("INSERT INTO sent VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    # --- files ---

    def write(self, name: str, raw: bytes) -> None:
        """A file of this node's folder, whole or not at all."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, raw)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def names(self, pattern: str) -> list[str]:
        """The files that match `pattern`, sorted."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))

    def forget(self, pattern: str, *, keep: tuple[str, ...] = ()) -> None:
        """Delete the files that match `pattern` and none of the patterns in `keep`."""
        for path in self.folder.glob(pattern):
            name = path.relative_to(self.folder).as_posix()
            if not any(fnmatch(name, kept) for kept in keep):
                path.unlink(missing_ok=True)


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, rolled back when the body raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._db.execute("ROLLBACK" if failed else "COMMIT")
