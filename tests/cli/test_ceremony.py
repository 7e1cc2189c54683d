"""Three institutions and a coordinator, from nothing to a roster in force, a change of keys and a revocation.

Every step is a command on real files, each node in a folder of its own; files are handed over by their paths, as a
person would by mail. No passphrase, invitation secret or private key may show anywhere on the way.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer.main

from fedsecure.cli.main import app, main
from fedsecure.node.membership import load_trust, open_own
from keys import keystore
from keys.passphrase import Passphrase

SITES = {"north": "st-mary", "south": "charite", "east": "mgh"}
SECRET = "correct horse battery planted"
COMMAND = typer.main.get_command(app)  # which `app()` builds anew each time: most of the time that a call takes

Run = Callable[..., str]


@pytest.fixture(autouse=True)
def _as_a_terminal_leaves_it(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("fedsecure.cli.main.app", COMMAND)
    monkeypatch.setattr(keystore, "COST", keystore.Cost(19 * 1024, 2, 1))
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody sits at it
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("roster sign roster", at="north")`: standard output, or with `fails` the one line of the error."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *, at: str | None = None, fails: bool = False) -> str:
        words = command.split() + (["--folder", at] if at else [])
        monkeypatch.setattr(sys, "argv", ["fedsecure", *words])
        monkeypatch.setenv("FEDSECURE_PASSPHRASE", SECRET)
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert SECRET not in out + err
        for path in tmp_path.rglob("invit*"):
            for secret in (word for word in path.read_text().split() if len(word) == 64):
                assert secret not in out + err
        assert bool(code) == fails, (command, code, out, err)
        if fails:
            assert err.startswith("error: ")
            assert err.count("\n") == 1
        return err if fails else out

    return run


def fingerprint(run: Run, node: str) -> str:
    (line,) = (line for line in run("keys show", at=node).splitlines() if line.startswith("fingerprint"))
    return line.split()[1]


def found(run: Run) -> None:
    """A roster of three sites, signed by nobody yet."""
    for node in ("hub", *SITES):
        assert "fingerprint" in run("keys new" + " --post-quantum" * (node == "east"), at=node)
    run("roster new hub trust-centre", at="hub")
    for name, institution in SITES.items():
        run(f"roster invite {name} {institution} --out invitation-{name}", at="hub")
        assert fingerprint(run, "hub") in run(f"roster join invitation-{name} --out request-{name} --yes", at=name)
    run("roster admit roster request-north request-south", at="hub")
    run("roster admit roster request-east", at="hub")


def pins(run: Run, *names: str) -> str:
    return "".join(f" --pin {name}:{SITES[name]}:{fingerprint(run, name)}" for name in names)


def accepted(run: Run) -> None:
    """The same, signed by all and accepted by all."""
    found(run)
    for name in SITES:
        run("roster sign roster --yes", at=name)
    for name in SITES:
        run("roster verify roster" + pins(run, *(other for other in SITES if other != name)), at=name)
    run("roster verify roster", at="hub")


def test_the_whole_ceremony(run: Run) -> None:
    found(run)
    shown = run("roster show roster", at="north")
    assert "NOT PINNED" in shown
    assert fingerprint(run, "south") in shown
    assert "signed by" not in shown

    # Not by nobody, and not by one institution.
    assert "0 institutions of this roster signed" in run("roster verify roster", at="north", fails=True)
    assert "1 of 3 institutions have, and it takes 2" in run("roster sign roster --yes", at="north")
    assert "it takes 2" in run("roster verify roster", at="hub", fails=True)
    # The coordinator's signature is none.
    assert "signed by its sites and nobody else" in run("roster sign roster --yes", at="hub", fails=True)
    # A quorum of sites this node has not verified is not enough, whoever says what they are.
    run("roster sign roster --yes", at="south")
    refusal = run("roster verify roster", at="north", fails=True)
    assert "pinned sites of 1 institutions signed, and this node asks for 2" in refusal
    wrong = fingerprint(run, "east")
    assert "other keys" in run(f"roster verify roster --pin south:charite:{wrong}", at="east", fails=True)
    assert "accepted: version 3" in run("roster verify roster" + pins(run, "south"), at="north")
    assert "accepted: version 3" in run("roster verify roster", at="hub")  # it pinned those whom it admitted

    own = open_own(Path("north"), lambda: Passphrase(SECRET))
    assert own.name == "north"
    assert own.roster.coordinator == "hub"
    assert own.roster.sites == ("east", "north", "south")
    assert own.roster.members["south"].fingerprint == fingerprint(run, "south")


def test_a_change_of_keys(run: Run) -> None:
    accepted(run)
    before = fingerprint(run, "north")
    run("keys rotate", at="north")
    request = Path("rotation").read_bytes()
    run("keys rotate", at="north")  # once more gives the same keys
    assert fingerprint_of_next(run) in run("roster admit roster rotation", at="hub")
    assert len(request) > 500
    for name in ("north", "east"):
        run("roster sign roster --yes", at=name)  # north's new keys sign: they are the ones in the roster
    for name in ("hub", *SITES):
        run("roster verify roster", at=name)  # pins move with the keys
    after = fingerprint(run, "north")
    assert after != before
    assert load_trust(Path("south")).pins["north"].fingerprint == after
    assert open_own(Path("north"), lambda: Passphrase(SECRET)).identity.fingerprint == after
    assert not (Path("north") / "identity.next.key").exists()
    assert list(Path("north").glob("identity.old-*.key"))


def fingerprint_of_next(run: Run) -> str:
    lines = [line.split()[1] for line in run("keys show", at="north").splitlines() if line.startswith("fingerprint")]
    assert len(lines) == 2
    return lines[1]


def test_a_revocation_and_no_way_back(run: Run) -> None:
    accepted(run)
    old = Path("roster").read_bytes()
    run("roster revoke roster east --reason key-compromised --since 2026-01-01T00:00:00Z")
    assert "revoked, key-compromised" in run("roster show roster")
    run("roster sign roster --yes", at="north")
    assert "it takes 2" in run("roster verify roster", at="south", fails=True)
    run("roster sign roster --yes", at="south")
    for name in ("hub", "north", "south"):
        run("roster verify roster", at=name)
    assert "was revoked" in run("roster verify roster", at="east", fails=True)
    assert "east" not in open_own(Path("south"), lambda: Passphrase(SECRET)).roster.members
    Path("old").write_bytes(old)
    assert "older than 4, seen here" in run("roster verify old", at="south", fails=True)
    # East comes back with new keys and a new invitation, and not with the old ones.
    run("roster invite east mgh --out invitation-again", at="hub")
    Path("east/trust").rename("east/trust.old")
    run("roster join invitation-again --out request-again --yes", at="east")
    assert "a key stands twice" in run("roster admit roster request-again", at="hub", fails=True)


def test_an_invitation_holds_once_and_for_one(run: Run) -> None:
    run("keys new", at="hub")
    run("keys new", at="north")
    run("keys new", at="puppet")
    run("roster new hub trust-centre", at="hub")
    run("roster invite north st-mary --out invitation", at="hub")
    assert Path("invitation").stat().st_mode & 0o077 == 0
    run("roster join invitation --out request --yes", at="north")
    run("roster join invitation --out stolen --yes", at="puppet")
    altered = Path("request").read_text().replace("st-mary", "st-mark")
    Path("altered").write_text(altered)
    assert "another invitation (to blame: north)" in run("roster admit roster altered", at="hub", fails=True)
    run("roster admit roster request", at="hub")
    assert "used before" in run("roster admit roster stolen", at="hub", fails=True)
    assert "belongs to a federation already" in run("roster join invitation --yes", at="north", fails=True)
    assert load_trust(Path("hub")).pins["north"].fingerprint == fingerprint(run, "north")
    assert load_trust(Path("north")).pins["hub"].fingerprint == fingerprint(run, "hub")


def test_passphrases(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("new").write_text("another planted passphrase\n")
    Path("short").write_text("short")
    for name in ("new", "short"):
        Path(name).chmod(0o600)
    run("keys new", at="north")
    assert "already" in run("keys new", at="north", fails=True)
    assert "at least 12 characters" in run("keys passphrase --new-passphrase-file short", at="north", fails=True)
    run("keys passphrase --new-passphrase-file new", at="north")
    wrong = run("keys passphrase --new-passphrase-file new", at="north", fails=True)
    assert "passphrase is wrong" in wrong
    done = run("keys passphrase --passphrase-file new --new-passphrase-file new", at="north")
    assert "changed" in done
    Path("new").chmod(0o644)
    exposed = run("keys passphrase --passphrase-file new --new-passphrase-file new", at="north", fails=True)
    assert "chmod 600" in exposed
    assert "planted" not in done + wrong + exposed


def test_at_a_terminal_it_asks_twice_and_does_not_echo(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool, bool]] = []

    def answer(text: str, *, hide_input: bool, confirmation_prompt: bool) -> str:
        asked.append((text, hide_input, confirmation_prompt))
        return SECRET

    monkeypatch.setattr("typer.prompt", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("keys.passphrase.VARIABLE", "NOT_SET_HERE")
    run("keys new", at="north")
    run("roster new north st-mary", at="north")
    run("keys rotate", at="north")
    assert asked == [("New passphrase", True, True), ("Passphrase", True, False)]


def test_nothing_is_signed_without_a_yes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found(run)
    before = Path("roster").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys, "argv", ["fedsecure", "roster", "sign", "roster", "--folder", "north"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert Path("roster").read_bytes() == before


def test_the_minimum_is_the_operators(run: Run) -> None:
    accepted(run)
    run("roster renew roster")
    assert "it takes 2" in run("roster verify roster", at="south", fails=True)
    for name in ("north", "south"):
        run("roster sign roster --yes", at=name)
    assert "2 institutions signed, and this node asks for 3" in run(
        "roster verify roster --minimum 3", at="east", fails=True
    )
    run("roster sign roster --yes", at="east")
    run("roster verify roster", at="east")


def test_what_is_missing_is_said_in_one_line(run: Run) -> None:
    Path("empty").mkdir()
    for command in (
        "keys show",
        "keys rotate",
        "roster new hub trust-centre",
        "roster join nowhere --yes",
        "roster sign nowhere --yes",
        "roster verify nowhere",
        "roster invite north st-mary --out invitation",
    ):
        assert "No such file" in run(command, at="empty", fails=True)
    assert "No such file" in run("roster show nowhere", fails=True)
    Path("nonsense").write_bytes(b"\xff\x00")
    assert "a line of the roster" in run("roster show nonsense", fails=True)


def test_a_request_that_cannot_be_written_leaves_no_folder_that_cannot_join(run: Run) -> None:
    run("keys new", at="hub")
    run("keys new", at="north")
    run("roster new hub trust-centre", at="hub")
    run("roster invite north st-mary --out invitation", at="hub")
    assert "cannot write" in run("roster join invitation --out nowhere/request --yes", at="north", fails=True)
    assert "own fingerprint" in run("roster join invitation --yes", at="north")
