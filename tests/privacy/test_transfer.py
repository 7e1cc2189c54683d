from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsecure.errors import GateRefused
from fedsecure.privacy.chain import Cap, LedgerBroken, token_of
from fedsecure.privacy.events import DiscreteGaussian
from fedsecure.privacy.ledger import open_ledger
from fedsecure.privacy.transfer import export_ledger, import_ledger

ONE = DiscreteGaussian(flow="weights", sensitivity=20.0, share_sigma=14.0, shares=4, dimension=100, distance=1e-36)
PATIENTS = ("p1", "p2", "p3")


def test_export_and_import_are_the_same_ledger(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db", everyone=Cap(9.0, 1e-5)) as ledger:
        ledger.open_study("s", PATIENTS, Cap(8.0, 1e-5))
        for round_ in range(3):
            ledger.charge("s", 0, round_, round_.to_bytes(32, "big"), [ONE])
        known = ledger.head
        whole, public = export_ledger(ledger, patients=True), export_ledger(ledger)
    assert token_of("p1").encode() not in public
    import_ledger(whole, tmp_path / "moved.db")
    with open_ledger(tmp_path / "moved.db", known=known) as moved:
        assert moved.head == known
        assert moved.everyone == Cap(9.0, 1e-5)
        assert moved.taking_part("s") == {token_of(patient) for patient in PATIENTS}
        assert export_ledger(moved, patients=True) == whole
    with pytest.raises(GateRefused, match="already"):
        import_ledger(whole, tmp_path / "moved.db")
    with pytest.raises(LedgerBroken, match="no patients"):
        import_ledger(public, tmp_path / "x.db")
    changed = json.loads(whole)
    changed["entries"][2]["events"][0]["share_sigma"] = 3000.0
    with pytest.raises(LedgerBroken, match="changed"):
        import_ledger(json.dumps(changed).encode(), tmp_path / "x.db")
    with pytest.raises(LedgerBroken, match="not an exported"):
        import_ledger(b"{}", tmp_path / "x.db")
    assert not (tmp_path / "x.db").exists()


def test_patients_that_are_not_the_studys_are_not_imported(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.db") as ledger:
        ledger.open_study("s", PATIENTS, None)
        changed = json.loads(export_ledger(ledger, patients=True))
    changed["patients"]["s"].pop()
    with pytest.raises(LedgerBroken, match="patients"):
        import_ledger(json.dumps(changed).encode(), tmp_path / "x.db")
