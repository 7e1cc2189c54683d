from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedsecure.bench.egress import bench_egress, bench_logs
from fedsecure.cli.bench import app
from fedsecure.config import parse_study

TINY = {
    "sites": [{"name": name, "weight": 14} for name in ("bench", "other")],
    "security": {"secagg": False},
    "model": {"filters": 4, "hidden": 16, "features": 8},
    "pretrain": {"rounds": 2, "local_steps": 1, "batch": 8, "bank": 32, "negatives": 16},
}
LOGS = {"log_s", "verify_s", "verify_rounds", "verify_leaves", "verify_signatures"}


def test_logs_are_written_verified_and_counted() -> None:
    measured = bench_logs(2)
    assert measured.keys() == LOGS
    assert measured["verify_rounds"] == 2
    # Ten sites and the coordinator sign each round, and the coordinator the end. A witness has signed each of these,
    # the coordinator each site's.
    assert measured["verify_signatures"] == 2 * (2 * 11 + 1) + 2 * 10
    # Both ends of an update, a model, a head, a word that it is done, the heads of all and the answer to these.
    assert measured["verify_leaves"] == 2 * 10 * (2 * 6 + 2)
    assert all(value > 0 for value in measured.values())


@pytest.mark.slow
def test_measures_a_rounds_tests_and_logs() -> None:
    measured = bench_egress(parse_study(TINY), rounds=1, logged=1)
    assert measured.keys() == LOGS | {"gate_s", "round_s", "share", "index_s", "index_bytes"}
    assert measured["share"] == pytest.approx(measured["gate_s"] / measured["round_s"])
    assert all(value > 0 for value in measured.values())


def test_prints_what_was_measured_in_words_or_as_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own part: it trains for minutes with a study's defaults."""
    asked: list[object] = []

    def measured(study: object, rounds: int, logged: int) -> dict[str, float]:
        asked.append((rounds, logged))
        return dict.fromkeys(("gate_s", "round_s", "share", "index_s", "index_bytes"), 0.5) | bench_logs(1)

    monkeypatch.setattr("fedsecure.bench.egress.bench_egress", measured)
    told = CliRunner().invoke(app, ["egress", "--rounds", "2", "--logged", "1", "--json"])
    assert told.exit_code == 0, told.output
    assert {"gate_s", "round_s", "verify_s"} <= json.loads(told.output).keys()
    assert "1 rounds of ten sites" in CliRunner().invoke(app, ["egress", "--rounds", "2"]).output
    assert asked == [(2, 1), (2, 20)]
