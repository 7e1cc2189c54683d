from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedsecure.bench.secagg import bench_secagg
from fedsecure.cli.bench import app

KEYS = {
    "site_upload_s", "site_floor_s", "unmask_s", "unmask_floor_s", "bytes_per_param", "peak_bytes", "exact",
    "rotate_s",
}  # fmt: skip


@pytest.mark.parametrize(("ring", "size"), [(16, 2.0), (20, 2.5), (24, 3.0), (32, 4.0)])
def test_measures_a_real_sum(ring: int, size: float) -> None:
    measured = bench_secagg(20_000, 4, 1, ring)
    assert set(measured) >= KEYS
    assert measured["exact"] is True
    assert float(measured["bytes_per_param"]) == pytest.approx(size, abs=0.01)
    assert all(float(measured[key]) > 0 for key in KEYS - {"exact"})
    assert float(measured["signature_bytes_per_site"]) < 100
    assert measured["unmask_streams"] == 3 + 3  # three survivors' own masks, and each with the dropout


def test_prints_one_json_object_or_the_ratios() -> None:
    options = ["secagg", "--params", "1000", "--sites", "5", "--drop", "1"]
    found = CliRunner().invoke(app, [*options, "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["exact"] is True
    assert "ratio" in CliRunner().invoke(app, options).output


def test_too_many_dropouts_are_refused() -> None:
    found = CliRunner().invoke(app, ["secagg", "--params", "10", "--sites", "5", "--drop", "2"], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert "needs 4 to the end" in found.output
