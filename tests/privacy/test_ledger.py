"""Charged before released, whole or not at all; caps over studies; a chain that tells on whoever touches it."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fedsecure.errors import GateRefused
from fedsecure.privacy.accountant import UnknownEvent, spent
from fedsecure.privacy.chain import Cap, Everyone, Head, LedgerBroken, after, token_of
from fedsecure.privacy.events import BadGraph, DiscreteGaussian, Event, NonPrivate
from fedsecure.privacy.ledger import OverBudget, open_ledger

CAP = Cap(8.0, 1e-5)
ONE = DiscreteGaussian(flow="weights", sensitivity=20.0, share_sigma=14.0, shares=4, dimension=100, distance=1e-36)
PATIENTS = ("p1", "p2", "p3")


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def affordable(event: Event, cap: Cap) -> int:
    count = 0
    while spent([event] * (count + 1), cap.delta, reference=False).epsilon <= cap.epsilon:
        count += 1
    return count


def test_charges_add_up_to_the_cap_and_not_past_it(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        rounds = affordable(ONE, CAP)
        assert rounds > 3
        for round_ in range(rounds):
            ledger.charge("s", 0, round_, digest(round_), [ONE])
        before = ledger.head
        with pytest.raises(OverBudget, match="study's cap is epsilon 8"):
            ledger.charge("s", 0, rounds, digest(rounds), [ONE])
        assert ledger.head == before
    with open_ledger(tmp_path / "l.db", known=before) as again:
        assert again.events("s") == (ONE,) * rounds
        assert spent(again.events("s"), CAP.delta).epsilon <= 8


def test_a_charge_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    """A process that dies at once, without closing anything, has charged."""
    script = f"""
import os
from released import ONE
from fedsecure.privacy.chain import Cap
from fedsecure.privacy.ledger import open_ledger
from pathlib import Path
ledger = open_ledger(Path({str(tmp_path / "l.db")!r}))
ledger.open_study("s", ["p1"], Cap(8.0, 1e-5))
ledger.charge("s", 0, 0, bytes(32), [ONE])
os._exit(9)
"""
    (tmp_path / "released.py").write_text(
        "from fedsecure.privacy.events import DiscreteGaussian\n"
        f"ONE = DiscreteGaussian(**{msgspec.structs.asdict(ONE)!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == 9
    with open_ledger(tmp_path / "l.db") as ledger:
        assert ledger.events("s") == (ONE,)


def test_the_same_message_is_charged_once_and_another_one_again(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        ledger.charge("s", 0, 0, digest(1), [ONE])
        ledger.charge("s", 0, 0, digest(1), [ONE])
        assert len(ledger.charges("s")) == 1
        ledger.charge("s", 0, 0, digest(2), [ONE])
        assert len(ledger.charges("s")) == 2


def test_all_events_of_a_message_or_none(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        with pytest.raises(UnknownEvent):
            ledger.charge("s", 0, 0, digest(1), [ONE, "Laplace"])  # type: ignore[list-item]
        with pytest.raises(OverBudget, match="vectors without noise"):
            ledger.charge("s", 0, 0, digest(1), [ONE, NonPrivate(flow="features", reason="vectors without noise")])
        assert ledger.events("s") == ()


def test_a_study_without_a_cap_may_release_without_noise_and_says_so(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, None)
        ledger.charge("s", 0, 0, digest(1), [NonPrivate(flow="weights", reason="no noise")])
        assert spent(ledger.events("s"), 1e-5).epsilon == math.inf


def test_a_patient_has_one_budget_over_all_studies(tmp_path: Path) -> None:
    everyone = Cap(6.0, 1e-5)
    rounds = affordable(ONE, everyone)
    with open_ledger(tmp_path / "l.db", everyone=everyone) as ledger:
        ledger.open_study("a", PATIENTS, CAP)
        ledger.open_study("b", ("p3", "p4"), CAP)
        ledger.open_study("c", ("p5",), CAP)
        for round_ in range(rounds):
            ledger.charge("a", 0, round_, digest(round_), [ONE])
        with pytest.raises(OverBudget, match="over all studies"):
            ledger.charge("b", 0, 0, digest(1), [ONE])  # p3 has nothing left
        ledger.charge("c", 0, 0, digest(1), [ONE])  # nobody of c was in a
        ledger.withdraw("b", "p3")
        ledger.charge("b", 0, 0, digest(1), [ONE])  # p4 alone is left


def test_a_cap_over_all_studies_is_on_record_and_stays_in_force(tmp_path: Path) -> None:
    """Whoever opens the ledger without naming it, and whoever changes it, is bound by the chain."""
    everyone = Cap(6.0, 1e-5)
    rounds = affordable(ONE, everyone)
    with open_ledger(tmp_path / "l.db", everyone=everyone) as ledger:
        ledger.open_study("s", PATIENTS, None)
    with open_ledger(tmp_path / "l.db", everyone=everyone) as again:
        assert [entry for entry in again.entries() if isinstance(entry, Everyone)] == [Everyone(everyone)]
    with open_ledger(tmp_path / "l.db") as forgetful:
        for round_ in range(rounds):
            forgetful.charge("s", 0, round_, digest(round_), [ONE])
        with pytest.raises(OverBudget, match="over all studies is epsilon 6"):
            forgetful.charge("s", 0, rounds, digest(rounds), [ONE])
    with open_ledger(tmp_path / "l.db", everyone=Cap(60.0, 1e-5)) as raised:
        raised.charge("s", 0, rounds, digest(rounds), [ONE])
        assert raised.entries()[-2] == Everyone(Cap(60.0, 1e-5))


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(math.inf, 1e-5), (math.nan, 1e-5), (0.0, 1e-5), (-1.0, 1e-5), (8.0, 0.0), (8.0, 1.0), (8.0, math.nan)],
)
def test_a_cap_that_caps_nothing_is_none(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="a cap is a finite epsilon"):
        Cap(epsilon, delta)


def test_an_entry_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    """JSON has no infinity: the row would say null, and no ledger with it would ever open again."""
    cap = Cap(8.0, 1e-5)
    msgspec.structs.force_setattr(cap, "epsilon", math.inf)
    with open_ledger(tmp_path / "l.db") as ledger:
        with pytest.raises(LedgerBroken, match="no entry"):
            ledger.open_study("s", PATIENTS, cap)
        ledger.open_study("s", PATIENTS, CAP)
    with open_ledger(tmp_path / "l.db") as again:
        assert len(again.entries()) == 1


def test_a_row_with_a_cap_that_caps_nothing_is_no_entry(tmp_path: Path) -> None:
    known = filled(tmp_path / "l.db", 1)
    body = b'{"type":"Everyone","cap":{"epsilon":-1.0,"delta":1e-5}}'
    db = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    db.execute("INSERT INTO chain VALUES (?, ?, ?)", (known.size + 1, body, after(known, body).digest))
    db.close()
    with pytest.raises(LedgerBroken, match="no entry"):
        open_ledger(tmp_path / "l.db")


def test_what_uses_up_delta_is_over_every_cap(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        with pytest.raises(OverBudget, match=r"inf \(sums: delta is used up"):
            ledger.charge("s", 0, 0, digest(0), [BadGraph(flow="sums", chance=0.9)])
        assert ledger.events("s") == ()


def test_one_draw_of_patients_is_released_once(tmp_path: Path) -> None:
    """Two flows in one message, or two messages of a round, would be charged as two draws, which cost less."""
    drawn = msgspec.structs.replace(ONE, sampling=0.1)
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        with pytest.raises(GateRefused, match="releases once"):
            ledger.charge("s", 0, 0, digest(0), [drawn, msgspec.structs.replace(drawn, flow="target")])
        ledger.charge("s", 0, 0, digest(0), [drawn])
        ledger.charge("s", 0, 0, digest(0), [drawn])
        with pytest.raises(GateRefused, match="releases once"):
            ledger.charge("s", 0, 0, digest(1), [drawn])
        ledger.charge("s", 0, 1, digest(2), [drawn])
        assert len(ledger.charges("s")) == 2


def test_a_withdrawal_stops_what_comes_and_says_what_cannot_be_undone(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        ledger.charge("s", 0, 0, digest(1), [ONE])
        ledger.charge("s", 0, 1, digest(2), [ONE])
        found = ledger.withdraw("s", "p2")
        assert found.releases == 2
        assert found.spent is not None
        assert found.spent.epsilon == spent([ONE, ONE], CAP.delta).epsilon
        assert ledger.taking_part("s") == {token_of("p1"), token_of("p3")}
        for gone in ("p2", "stranger"):
            with pytest.raises(GateRefused, match="takes no part"):
                ledger.withdraw("s", gone)
    with open_ledger(tmp_path / "l.db") as again:
        assert again.withdrawals("s") == 1
        assert token_of("p2") not in again.taking_part("s")


def test_cap_and_patients_of_a_study_do_not_change(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        ledger.open_study("s", PATIENTS[::-1], CAP)
        for patients, cap in ((PATIENTS, Cap(80.0, 1e-5)), (PATIENTS, None), (PATIENTS[:2], CAP)):
            with pytest.raises(GateRefused, match="neither may change"):
                ledger.open_study("s", patients, cap)
        with pytest.raises(GateRefused, match="does not know this study"):
            ledger.charge("t", 0, 0, digest(1), [ONE])


def filled(path: Path, charges: int = 3) -> Head:
    with open_ledger(path) as ledger:
        ledger.open_study("s", PATIENTS, CAP)
        for round_ in range(charges):
            ledger.charge("s", 0, round_, digest(round_), [ONE])
        return ledger.head


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (
            "UPDATE chain SET body = CAST(replace(CAST(body AS TEXT), 'round', 'rouNd') AS BLOB) WHERE seq = 3",
            "changed",
        ),
        (
            "UPDATE chain SET body = CAST(replace(CAST(body AS TEXT), '14.0', '1400.0') AS BLOB) WHERE seq = 2",
            "changed",
        ),
        ("UPDATE chain SET head = zeroblob(32) WHERE seq = 4", "changed"),
        ("DELETE FROM chain WHERE seq = 2", "changed"),
        ("DELETE FROM chain WHERE seq = 4", "older copy"),
        ("DELETE FROM chain WHERE seq > 1", "older copy"),
        ("DELETE FROM chain", "patients|older copy"),
        ("UPDATE chain SET seq = seq + 10 WHERE seq = 4", "changed"),
        ("DELETE FROM patient WHERE rowid = 1", "patients"),
        ("INSERT INTO patient VALUES ('s', 'stranger')", "patients"),
    ],
)
def test_whoever_touches_the_ledger_is_noticed(tmp_path: Path, attack: str, said: str) -> None:
    known = filled(tmp_path / "l.db")
    db = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    assert db.execute(attack).rowcount > 0
    db.close()
    with pytest.raises(LedgerBroken, match=said):
        open_ledger(tmp_path / "l.db", known=known)


def test_a_restored_backup_is_noticed_by_the_head_that_others_hold(tmp_path: Path) -> None:
    old = filled(tmp_path / "l.db", 2)
    shutil.copy(tmp_path / "l.db", tmp_path / "backup.db")
    with open_ledger(tmp_path / "l.db", known=old) as ledger:
        ledger.charge("s", 0, 7, digest(7), [ONE])
        newest = ledger.head
    with pytest.raises(LedgerBroken, match="older copy"):
        open_ledger(tmp_path / "backup.db", known=newest)
    # nor can it be brought to the same length with something cheaper
    with open_ledger(tmp_path / "backup.db", known=old) as forged:
        forged.charge("s", 0, 7, digest(8), [ONE])
    with pytest.raises(LedgerBroken, match="older copy"):
        open_ledger(tmp_path / "backup.db", known=newest)


def test_a_row_that_is_no_entry_is_refused_even_with_a_right_hash(tmp_path: Path) -> None:
    known = filled(tmp_path / "l.db", 1)
    body = b'{"type":"Refunded","study":"s"}'
    db = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    db.execute("INSERT INTO chain VALUES (?, ?, ?)", (known.size + 1, body, after(known, body).digest))
    db.close()
    with pytest.raises(LedgerBroken, match="no entry"):
        open_ledger(tmp_path / "l.db")


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.db").write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerBroken, match="damaged"):
        open_ledger(tmp_path / "l.db")


def test_two_processes_cannot_spend_the_same_budget(tmp_path: Path) -> None:
    rounds = affordable(ONE, CAP)
    with open_ledger(tmp_path / "l.db") as one, open_ledger(tmp_path / "l.db") as other:
        one.open_study("s", PATIENTS, CAP)
        for round_ in range(rounds):
            (one, other)[round_ % 2].charge("s", 0, round_, digest(round_), [ONE])
        for ledger in (one, other):
            with pytest.raises(OverBudget):
                ledger.charge("s", 0, rounds, digest(rounds), [ONE])
