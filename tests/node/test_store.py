"""What survives a kill: state, messages that were released, the record of what was sent, and whole files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fedsecure.audit.log import Entry
from fedsecure.egress import FREE, NON_PRIVATE, REPEAT, SentRow
from fedsecure.errors import SettingsError
from fedsecure.node.store import Store

LEAF = Entry(b"leaf", b"nonce")


def row(stage: int, round_: int, flow: str = "weights", event: str = NON_PRIVATE, size: int = 10) -> SentRow:
    return SentRow("release", flow, event, stage, round_, "coordinator", size, b"d" * 32)


def test_state_is_there_after_the_process_is_gone(tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from fedsecure.node.store import Store\n"
        "Store(Path(sys.argv[1])).put(done=b'1', replay=b'2'); (Path(sys.argv[1]) / '.unfinished-x').touch()\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    store = Store(tmp_path)
    assert (store.get("done"), store.get("replay"), store.get("nothing")) == (b"1", b"2", None)
    assert not list(tmp_path.glob(".unfinished-*"))


def test_each_start_has_a_number_of_its_own(tmp_path: Path) -> None:
    boots = []
    for _ in range(3):
        store = Store(tmp_path)
        boots.append(store.next_boot())
        store.close()
    assert boots == [1, 2, 3]


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(SettingsError, match="in use by another process"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_log_and_outbox_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.log_and_queue(row(0, 1), LEAF, b"first")
    with pytest.raises(sqlite3.IntegrityError):
        store.log_and_queue(row(0, 1), LEAF, b"the same flow and round again")
    assert store.queued(0, 1) == [("weights", b"first")]
    assert len(list(store.sent())) == 1
    assert list(store.leaves_from(0)) == [b"leaf"]


def test_only_the_newest_round_can_be_asked_for_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.log_and_queue(row(0, 1, "features"), LEAF, b"a")
    store.log_and_queue(row(0, 1, "weights"), LEAF, b"b")
    assert store.queued(0, 1) == [("features", b"a"), ("weights", b"b")]
    store.log_and_queue(row(1, 0), LEAF, b"c")
    assert store.queued(0, 1) == []
    assert store.queued(1, 0) == [("weights", b"c")]


def test_the_cap_counts_each_release_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.log_and_queue(row(0, 0), LEAF, b"a")
    store.log(row(0, 0, event=REPEAT), LEAF)
    store.log(SentRow("control", "Hello", FREE, 0, 0, "coordinator", 99, b"d" * 32), LEAF)
    assert store.released_bytes() == 10
    assert [entry.event for entry in store.sent()] == [NON_PRIVATE, REPEAT, FREE]


def test_forgetting_keeps_what_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("models/0-0.x", "models/0-1.x", "models/1-0.x"):
        store.write(name, b"")
    store.forget("models/0-*", keep=("models/0-1.x",))
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["0-1.x", "1-0.x"]
    assert store.has("models/0-1.x")
    assert not store.has("models/0-0.x")


def test_leaves_count_from_nothing_and_have_no_gap(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.leaves() == 0
    store.log(row(0, 0), Entry(b"sent", b"n"))
    store.note(Entry(b"taken"), Entry(b"taken, too"))
    store.close()
    again = Store(tmp_path)
    assert again.leaves() == 3
    assert list(again.leaves_from(1)) == [b"taken", b"taken, too"]


def test_of_a_round_one_head_is_signed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.keep_own(4, b"head")
    with pytest.raises(sqlite3.IntegrityError):
        store.keep_own(4, b"another head")
    store.keep_head(0, b"shown", ("north", 4, "south", b"signature"))
    with pytest.raises(sqlite3.IntegrityError):
        store.keep_head(0, b"another", ("west", 4, "south", b"signature"))
    store.keep_vouch("north", 4, "south", b"a later signature")
    assert (store.own(), store.heads(), store.heads(1)) == ({4: b"head"}, [b"shown"], [])
    assert store.vouches() == [("north", 4, "south", b"signature")]
