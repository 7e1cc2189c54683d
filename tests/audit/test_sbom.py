"""The bill of materials has what CycloneDX 1.6 requires, of everything that is installed; the release's digest hangs
on every byte of our files."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsecure.audit import sbom
from fedsecure.cli.audit import app

MADE = datetime(2026, 1, 2, tzinfo=UTC)


def test_it_has_the_fields_that_the_schema_requires() -> None:
    """bom-1.6.schema.json: required and patterns of bom, component, hash and licenceChoice."""
    bill = json.loads(json.dumps(sbom.bill(MADE)))
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", bill["serialNumber"])
    assert set(bill) <= {"$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata", "components",
                         "dependencies"}  # fmt: skip
    refs = [one["bom-ref"] for one in (bill["metadata"]["component"], *bill["components"])]
    assert len(set(refs)) == len(refs)
    for one in (bill["metadata"]["component"], *bill["components"]):
        assert one["type"] in ("application", "library")
        assert one["name"]
        assert set(one) <= {"type", "bom-ref", "name", "version", "purl", "licenses", "hashes"}
        for digest in one.get("hashes", ()):
            assert digest["alg"] == "SHA-256"
            assert re.fullmatch(r"[a-f0-9]{64}", digest["content"])
        for licence in one.get("licenses", ()):
            assert licence.keys() in ({"expression"}, {"license"})
    assert {ref for one in bill["dependencies"] for ref in (one["ref"], *one["dependsOn"])} == set(refs)


def test_all_that_is_installed_is_in_it_with_its_version() -> None:
    listed = {one["name"]: one["version"] for one in sbom.bill(MADE)["components"]}
    for name in ("torch", "numpy", "cryptography", "pyzmq"):
        assert listed[name] == metadata.version(name)
    assert "hashes" in next(one for one in sbom.bill(MADE)["components"] if one["name"] == "numpy")


def test_two_bills_differ_in_their_serial_number_alone() -> None:
    first, second = sbom.bill(MADE), sbom.bill(MADE)
    assert first.pop("serialNumber") != second.pop("serialNumber")
    assert first == second


def test_every_byte_and_name_of_our_files_is_in_the_releases_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in sbom.OWN:
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(sbom, "__file__", str(tmp_path / "fedsecure" / "audit" / "sbom.py"))
    before = sbom.release()
    (tmp_path / "keys" / "__pycache__").mkdir()
    (tmp_path / "keys" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    (tmp_path / "other.py").write_text("no file of ours")
    assert sbom.release() == before
    (tmp_path / "keys" / "a.py").write_text("x = 2\n")
    changed = sbom.release()
    (tmp_path / "keys" / "a.py").write_text("x = 1\n")
    shutil.move(tmp_path / "keys" / "a.py", tmp_path / "keys" / "b.py")
    assert len({before, changed, sbom.release()}) == 3


def test_the_command_writes_it_once(tmp_path: Path) -> None:
    out = tmp_path / "bill.json"
    assert CliRunner().invoke(app, ["sbom", "--out", str(out)]).stdout == f"release {sbom.release()}\n"
    assert json.loads(out.read_text())["specVersion"] == "1.6"
    assert CliRunner().invoke(app, ["sbom", "--out", str(out)]).exit_code != 0
