"""A whole federation with secure sums, which a study has by default, in its results, report and traffic model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fedsecure.config import Study, parse_study
from fedsecure.errors import SettingsError
from fedsecure.node.wiring import COORDINATOR
from fedsecure.progress import Progress, SumAsked
from fedsecure.report.html import write_report
from fedsecure.report.provenance import collect as provenance
from fedsecure.report.results import Results, load, save
from fedsecure.report.targets import totals
from sim.collect import collect
from sim.federation import federate
from sim.world import World, build

WORLD = World(source=None, sites=5, scheme="random", phantom_patients=2, phantom_size=48)
STEPS = (
    "advertise-keys", "share-keys", "masked-input", "consistency-check", "unmask-shares", "result-agreement"
)  # fmt: skip
TINY: dict[str, Any] = {
    "model": {"filters": 8, "hidden": 16, "features": 8},  # large enough for headers not to count
    "data": {"size": 32},
    "pretrain": {"rounds": 2, "local_steps": 1, "batch": 4, "bank": 16, "negatives": 8},
    "finetune": {"labelled": [1], "steps": 1, "rounds": 1, "batch": 2, "modes": ["local"]},
    "baseline": False,
}

Run = Callable[..., tuple[Results, list[Progress]]]


@pytest.fixture
def run(tmp_path: Path, shared_cache: Path) -> Run:
    def of(**settings: Any) -> tuple[Results, list[Progress]]:
        folder, told = tmp_path / "run", []
        study: Study = build(WORLD, parse_study({**TINY, **settings}), folder, shared_cache, lambda _: None)
        federate(folder, study, "memory", lambda node, event: told.append(event) if node == COORDINATOR else None)
        return collect(folder, study, WORLD, provenance("fedsecure", datetime.now(UTC), 1.0)), told

    return of


def near(results: Results, framework: str) -> None:
    (total,) = totals(results, framework)
    assert total.up == pytest.approx(total.model_up, rel=0.01)
    assert total.down == pytest.approx(total.model_down, rel=0.01)


def test_a_studys_sums_are_in_results_and_report_and_bytes_are_the_models(run: Run, tmp_path: Path) -> None:
    """docs/method.md 2.7: within 1 %, keys, shares and signatures of the sums included."""
    results, told = run(framework="fcl", pretrain={**TINY["pretrain"], "exchange": "secagg-prototypes"})
    near(results, "fcl")
    assert [(row.round, row.sites, row.survivors, row.attempts, row.late) for row in results.sums] == [
        (0, 5, 5, 1, ()), (1, 5, 5, 1, ())
    ]  # fmt: skip
    assert [row.flows for row in results.sums] == [("prototype-sum", "weights"), ("weights",)]
    for row in results.sums:
        assert tuple(row.steps) == STEPS
        assert sum(row.steps.values()) == pytest.approx(row.seconds, rel=0.05)
    assert [event.step for event in told if isinstance(event, SumAsked)] == [*STEPS, *STEPS]
    exposed = {row.who: row.learns for row in results.exposure}
    assert exposed["the coordinator"] == (
        "the sum of updates and sums of features over the survivors of a round, at least 4 of 5 sites "
        "(in this run 5); who dropped out"
    )
    assert "at least 4 sites, and no smaller one" in exposed["1 site and the coordinator"]
    save(results, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == results
    write_report(results, {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    for row in results.exposure:
        assert row.learns.replace("'", "&#39;") in page
    assert results.terms[0].words in page
    assert "2 sums, the smallest of 5 sites" in page
    assert "Updates were <b>summed securely</b>" in page
    assert "Each site's model updates, one by one." not in page


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["r1", "r2"])
def test_targets_in_sums_cost_what_the_model_says(run: Run, distance: str) -> None:
    pretrain = {**TINY["pretrain"], "rounds": 4, "distance": distance, "threshold": 1e-9}
    results, _ = run(framework="fclopt", pretrain=pretrain)
    assert any(row.asked for row in results.targets)
    near(results, "fclopt")


def test_a_world_of_four_sites_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    four = World(source=None, sites=4, scheme="random", phantom_patients=2, phantom_size=48)
    with pytest.raises(SettingsError, match=r"have 5 sites or more, or write secagg = false under \[security\]"):
        build(four, parse_study(TINY), tmp_path / "run", tmp_path / "cache", lambda _: None)
    assert not list(tmp_path.iterdir())
