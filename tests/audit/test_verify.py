"""`audit verify`: what it proves of a run that is over, and that nothing of its evidence can be changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedsecure.audit import evidence
from fedsecure.audit.export import export
from fedsecure.audit.log import Entry
from fedsecure.audit.testimony import Finding, Status
from fedsecure.audit.verify import verify
from fedsecure.bench.logs import HUB, LogWorld, write_logs
from fedsecure.cli.audit import app
from fedsecure.errors import SettingsError
from fedsecure.node.store import Store
from protocols.tlog.checkpoint import encode, sign_head, viewed
from protocols.tlog.leaf import Received, Refused, Sent, decode_leaf, encode_leaf
from protocols.tlog.messages import NO_VIEW, Shown

SITES, ROUNDS = 3, 3
FIRST = "site-000"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> LogWorld:
    return write_logs(tmp_path_factory.mktemp("logs") / "run", SITES, ROUNDS)


@pytest.fixture
def run(world: LogWorld, tmp_path: Path) -> Path:
    """A copy of the run's folder, to be spoiled."""
    copy = tmp_path / "run"
    shutil.copytree(world.folder, copy)
    return copy


def failed(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.status is Status.FAILED]


def checks(findings: list[Finding], status: Status) -> set[str]:
    return {one.check for one in findings if one.status is status}


def test_a_clean_run_is_proved_but_for_what_nobody_vouches_for(world: LogWorld) -> None:
    found = verify(world.folder, world.edition)
    assert checks(found, Status.FAILED) == set()
    # No budget, leaves behind the last head, gates that do not look at content: none of these is proved by a log.
    assert checks(found, Status.OPEN) == {"witnesses", "policy", "budget"}
    assert {"files", "roster", "study", "heads", "one list", "witnesses", "both ends", "policy", "code", "models"} <= (
        checks(found, Status.PROVED)
    )
    heads = (SITES + 1) * ROUNDS + 1
    assert f"{heads} heads of {SITES + 1} logs" in [one.detail for one in found if one.check == "heads"]
    ends = [one for one in found if one.check == "both ends"]
    assert len(ends) == 2 * SITES
    assert all("more when" not in one.detail for one in ends)


def test_a_roster_of_the_runs_own_is_not_pinned_and_another_one_fails(world: LogWorld, tmp_path: Path) -> None:
    (own,) = [one for one in verify(world.folder) if one.check == "roster"]
    assert (own.status, own.detail[:10]) == (Status.OPEN, "not pinned")
    stranger = write_logs(tmp_path / "another", SITES, 1).edition  # the same names, other keys
    found = verify(world.folder, stranger)
    assert {one.node for one in failed(found)} == {HUB, *(path.name for path in (world.folder / "sites").iterdir())}
    assert all("not signed with the keys that the roster has" in one.detail for one in failed(found))


def test_the_command_needs_no_torch_and_says_how_it_ended(world: LogWorld, run: Path, tmp_path: Path) -> None:
    roster = tmp_path / "roster"
    roster.write_bytes(world.edition.to_bytes())
    script = (
        "import sys; from fedsecure.cli.audit import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: sys.exit(end.code or ('torch' in sys.modules and 77))"
    )
    command = [sys.executable, "-c", script, "verify", str(run), "--keys", str(roster), "--json"]
    clean = subprocess.run(command, capture_output=True, text=True, check=False)
    assert clean.returncode == 0, clean.stderr
    told = json.loads(clean.stdout)
    assert told["passed"] is True
    assert {"check": "roster", "node": "", "status": "proved", "detail": "version 1, as given"} in told["checks"]
    leaves = run / HUB / evidence.FOLDER / evidence.LEAVES
    leaves.write_bytes(leaves.read_bytes()[:-1])
    spoiled = CliRunner().invoke(app, ["verify", str(run)])
    assert spoiled.exit_code == 1
    assert "leaves: not the file that coordinator signed" in spoiled.output
    assert "NOT PROVED" in spoiled.output
    strict = CliRunner().invoke(app, ["verify", str(world.folder), "--strict"])
    assert strict.exit_code == 1
    assert CliRunner().invoke(app, ["verify", str(world.folder)]).exit_code == 0


def spoil(raw: bytes, at: float, how: str, bit: int) -> bytes:
    place = int(at * len(raw))
    match how:
        case "flip":
            return raw[:place] + bytes((raw[place] ^ 1 << bit,)) + raw[place + 1 :]
        case "delete":
            return raw[:place] + raw[place + 1 :]
        case "insert":
            return raw[:place] + bytes((1 << bit,)) + raw[place:]
        case "exchange":  # two neighbouring pieces
            return raw[:place] + raw[place + 32 : place + 64] + raw[place : place + 32] + raw[place + 64 :]
        case _:
            return raw[:place]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from((*evidence.FILES, evidence.CLOSING)),
    st.sampled_from((HUB, "sites/site-001")),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(("flip", "delete", "insert", "exchange", "cut")),
    st.integers(0, 7),
)
def test_whatever_is_changed_wherever_is_found_and_named(
    run: Path, file: str, node: str, at: float, how: str, bit: int
) -> None:
    path = run / node / evidence.FOLDER / file
    before = path.read_bytes()
    changed = spoil(before, at, how, bit)
    path.write_bytes(changed)
    try:
        found = failed(verify(run))
        if changed == before:
            assert found == []
        else:
            (first, *_) = found
            assert first.check == "files"
            assert first.node == Path(node).name
            assert first.detail.startswith((file, "closing"))
    finally:
        path.write_bytes(before)


def test_a_file_that_is_missing_is_named_and_one_too_many_counted(run: Path) -> None:
    folder = run / "sites" / FIRST / evidence.FOLDER
    (folder / "notes").write_text("seen")
    assert [one.detail for one in failed(verify(run))] == ["files that are no evidence lie among it: 1"]
    (folder / "notes").unlink()
    (folder / evidence.VOUCHES).unlink()
    assert [one.detail for one in failed(verify(run))] == ["files are missing: vouches"]


def test_a_node_that_is_not_there_is_told_and_proves_nothing(run: Path) -> None:
    shutil.rmtree(run / "sites" / FIRST)
    found = verify(run)
    assert failed(found) == []
    assert f"no evidence of {FIRST} is here" in [one.detail for one in found]
    assert any("has no other end here" in one.detail for one in found if one.node == HUB)


Rewrite = Callable[[list[bytes]], list[bytes]]


def again(world: LogWorld, run: Path, name: str, change: Rewrite) -> list[Finding]:
    """A member that has its own key rewrites its log and closes it again, in good order."""
    folder = run / world.folder_of(name).relative_to(world.folder)
    store = Store(folder)
    leaves = change(list(store.leaves_from(0)))
    store._db.execute("DELETE FROM leaves")
    store.note(*map(Entry, leaves))
    node = world.nodes[name]
    store_before, node.store = node.store, store
    try:
        world.leave_evidence(node)
    finally:
        node.store = store_before
        store.close()
    return verify(run)


def renumbered(leaves: list[bytes]) -> list[bytes]:
    decoded = [msgspec.msgpack.decode(leaf, type=Sent | Received | Refused) for leaf in leaves]
    return [encode_leaf(msgspec.structs.replace(leaf, seq=seq)) for seq, leaf in enumerate(decoded)]


def without(leaves: list[bytes], which: Callable[[Sent | Received | Refused], bool]) -> list[bytes]:
    """But for the first leaf that is so."""
    at = next(n for n, leaf in enumerate(leaves) if which(decode_leaf(leaf, n, "anybody")))
    return renumbered(leaves[:at] + leaves[at + 1 :])


def test_a_site_cannot_drop_what_it_sent_even_with_its_own_key(world: LogWorld, run: Path) -> None:
    found = again(world, run, FIRST, lambda leaves: without(leaves, lambda leaf: isinstance(leaf, Sent)))
    texts = {one.check: one.detail for one in failed(found)}
    assert texts["heads"].startswith("the log that is here is not the one that it signed after round")
    assert texts["both ends"].startswith("coordinator took 1 messages of it")


def test_nor_behind_its_last_head_where_nobody_has_countersigned(world: LogWorld, run: Path) -> None:
    def last(leaves: list[bytes]) -> list[bytes]:
        sent = [n for n, leaf in enumerate(leaves) if isinstance(decode_leaf(leaf, n, "anybody"), Sent)]
        return renumbered(leaves[: sent[-1]] + leaves[sent[-1] + 1 :])

    assert [one.check for one in failed(again(world, run, FIRST, last))] == ["both ends"]


def test_nor_can_the_coordinator_forget_what_it_took(world: LogWorld, run: Path) -> None:
    found = again(world, run, HUB, lambda leaves: without(leaves, lambda leaf: isinstance(leaf, Received)))
    assert [one.check for one in failed(found)] == ["heads"]
    assert any("1 messages" in one.detail and "not acknowledged" in one.detail for one in found)


def test_a_log_that_tells_of_another_model_or_code_is_named(world: LogWorld, run: Path) -> None:
    def other(leaves: list[bytes]) -> list[bytes]:
        first = next(n for n, leaf in enumerate(leaves) if b"round-open" in leaf)
        leaf = decode_leaf(leaves[first], first, HUB)
        assert isinstance(leaf, Received)
        return [*leaves[:first], encode_leaf(msgspec.structs.replace(leaf, model=b"m" * 32)), *leaves[first + 1 :]]

    texts = {(one.check, one.node): one.detail for one in failed(again(world, run, FIRST, other))}
    assert texts["models", FIRST] == "stage 0, round 0: it speaks of another model than others"
    found = failed(verify(run, releases=["00" * 32]))
    assert {one.node for one in found if one.check == "code"} == world.nodes.keys()


def test_a_coordinator_that_shows_two_lists_is_found_by_either(world: LogWorld, run: Path) -> None:
    """It has all heads of all, and its own key: it shows one site another head of its own log."""
    node = world.nodes[HUB]
    folder = run / "sites" / FIRST
    store = Store(folder)
    shown = [msgspec.msgpack.decode(raw, type=Shown) for raw in store.heads()]
    own = next(n for n, each in enumerate(shown) if each.signed.head.member == HUB and each.signed.head.round == 1)
    head = msgspec.structs.replace(shown[own].signed.head, root=b"another root, of another log of it"[:32])
    view = NO_VIEW
    for number, each in enumerate(shown):
        other = sign_head(node.identity, head) if number == own else each.signed
        assert (encode(other) != encode(each.signed)) is (number == own)
        view = viewed(view, other)
        raw = msgspec.msgpack.encode(msgspec.structs.replace(each, signed=other))
        store._db.execute("UPDATE heads SET shown = ? WHERE number = ?", (raw, number))
    store.close()
    found = {one.check: one for one in failed(again(world, run, FIRST, lambda leaves: leaves))}
    assert found["heads"].node == HUB
    assert found["one list"].node == FIRST


def test_an_export_holds_the_evidence_and_nothing_else(world: LogWorld, tmp_path: Path) -> None:
    out = tmp_path / "for the auditor"
    assert export(world.folder, out) == SITES + 1
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {*evidence.FILES, evidence.CLOSING}
    assert {path.parent.name for path in files} == {evidence.FOLDER}
    secret = b"".join(b"".join(identity.raw) for identity in world.identities.values())
    everything = b"".join(path.read_bytes() for path in files)
    assert not [at for at in range(0, len(secret), 32) if secret[at : at + 32] in everything]
    assert [one for one in verify(out, world.edition) if one.check != "models"] == [
        one for one in verify(world.folder, world.edition) if one.check != "models"
    ]
    with pytest.raises(SettingsError, match="name a new one"):
        export(world.folder, out)
    with pytest.raises(SettingsError, match="no evidence"):
        export(tmp_path, tmp_path / "nothing")
    with pytest.raises(SettingsError, match="no evidence"):
        verify(tmp_path)
    with pytest.raises(SettingsError, match="one of run below it"):
        verify(world.folder.parent)
    told = CliRunner().invoke(app, ["export", str(world.folder), str(tmp_path / "again")])
    assert told.output == f"{SITES + 1} nodes' evidence\n"


def test_the_coordinator_is_no_witness_and_no_site_out_of_its_turn(world: LogWorld, run: Path) -> None:
    """A vouch counts of the site whose turn it was alone; the coordinator has its own signatures at hand."""
    node, store = world.nodes[HUB], Store(run / world.folder_of(HUB).relative_to(world.folder))
    shown = [msgspec.msgpack.decode(raw, type=Shown) for raw in store.heads()]
    one = next(each for each in shown if each.signed.head.member == FIRST)
    store.keep_vouch(FIRST, one.signed.head.round, HUB, one.countersigned[0].signature)
    store.close()
    before, node.store = node.store, Store(run / world.folder_of(HUB).relative_to(world.folder))
    try:
        world.leave_evidence(node)
    finally:
        node.store.close()
        node.store = before
    (wrong,) = failed(verify(run))
    assert (wrong.check, wrong.node) == ("witnesses", HUB)
    assert wrong.detail == f"{HUB} is no witness of the head of {FIRST} after round {one.signed.head.round}"


def test_what_a_peer_said_of_a_model_is_not_its_receivers_fault(world: LogWorld, run: Path) -> None:
    """A site sends an update to another model: the coordinator's leaf of it is true, whatever becomes of the update."""

    def other(leaves: list[bytes]) -> list[bytes]:
        first = next(n for n, leaf in enumerate(leaves) if b"weight-update" in leaf)
        leaf = decode_leaf(leaves[first], first, HUB)
        assert isinstance(leaf, Received)
        return [*leaves[:first], encode_leaf(msgspec.structs.replace(leaf, model=b"m" * 32)), *leaves[first + 1 :]]

    assert not [one for one in failed(again(world, run, HUB, other)) if one.check == "models"]


@pytest.mark.parametrize("name", ["models/../../keys", "../x", "a..b/c"])
def test_evidence_names_no_file_outside_its_nodes_folder(name: str) -> None:
    raw = msgspec.msgpack.encode([name, bytes(32)])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(raw, type=evidence.Named)
