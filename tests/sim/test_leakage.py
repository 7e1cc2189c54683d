"""`fedsecure audit leaks`: every leaky trainer against a real gate, told with its rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsecure.cli.audit import app
from sim.leakage import CONTENT, DROPPED, Leakage, Row
from sim.leaks import ADDING_UP, KNOWN_MISSES, LIKENESS_ALONE, TRAINERS

STUDY = """
[[sites]]
name = "north"
weight = 3
[[sites]]
name = "south"
weight = 3
[security]
secagg = false
[model]
filters = 4
hidden = 16
features = 8
"""


@pytest.mark.slow
def test_every_leak_is_stopped_or_told_as_one_that_no_test_of_content_stops(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    told = CliRunner().invoke(app, ["leaks", str(tmp_path / "study.toml"), "--rounds", "4", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.output)
    rows = {row["leak"]: row for row in found["rows"]}
    assert rows.keys() == TRAINERS.keys()
    for name in TRAINERS.keys() - KNOWN_MISSES - LIKENESS_ALONE - ADDING_UP:
        assert rows[name]["caught"] == rows[name]["rounds"], name
    assert rows["volume split over many rounds"]["caught"] >= 3
    assert rows["raw crop"]["caught_by"] == CONTENT
    assert rows["order of rows"]["caught_by"] == DROPPED
    assert found["false_alarms"] == 0
    assert found["capacity_bits"] > found["volume_bits"] / 100


@pytest.mark.parametrize(("false_alarms", "caught", "code"), [(0, 4, 0), (1, 4, 1), (0, 3, 1)])
def test_the_exit_code_says_whether_all_was_as_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, false_alarms: int, caught: int, code: int
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    found = Leakage((Row("raw crop", 4, caught, CONTENT, 1e5),), 8, false_alarms, 1e6, 1e5)
    monkeypatch.setattr("sim.leakage.leakage", lambda *_: found)
    told = CliRunner().invoke(app, ["leaks", str(tmp_path / "study.toml")])
    assert told.exit_code == code
    assert f"{caught:4} of 4" in told.output
