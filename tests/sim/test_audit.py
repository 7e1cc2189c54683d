"""Every abuse and fault, against a small study: refused, by whom, under which rule, and nothing changed by it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsecure.config import parse_study
from fedsecure.node.order import LEFT_OUT
from fedsecure.node.received import MODEL_SHAPE
from fedsecure.node.site import TOO_OFTEN
from sim.adversary import ON_THE_WIRE, at_the_door, on_paper
from sim.audit import BAD_LINES, audit
from sim.renegade import AT_A_SITE

from .conftest import TINY

RULES = {  # of what a coordinator can try at a site: each is refused for its own reason
    "an older model": "opens a round that is past: with an older model",
    "a model of another shape": MODEL_SHAPE,
    "a model of other numbers": "an array is neither float32 nor uint8",
    "a model that is not finite": "a tensor of the model is not finite, or beyond what any weight trains to",
    "a model that is none": "not safetensors (SafetensorError)",
    "the last round, over and over": TOO_OFTEN,
    "a round left out": LEFT_OUT,
    "the last round at once": LEFT_OUT,
    "a round outside of the schedule": "round is not in the study's schedule",
    "a bank of a site that is none": "a bank is announced from outside the cohort",
}
STUDY = {**TINY, "sites": [{"name": "north", "weight": 2}, {"name": "south", "weight": 2}]}


@pytest.mark.parametrize(
    "lines", [("corrupt",), pytest.param(tuple(BAD_LINES), marks=pytest.mark.slow)], ids=["one bad line", "all of them"]
)
def test_every_abuse_is_refused_logged_and_leaves_the_study_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sim.audit.BAD_LINES", {name: BAD_LINES[name] for name in lines})
    found = audit(parse_study(STUDY), tmp_path / "run", tmp_path / "cache")
    open_ = [row for row in found.rows if not row.refused_by]
    assert open_ == []
    assert found.passed
    wire = found.rows[: len(ON_THE_WIRE)]
    assert [row.abuse for row in wire] == list(ON_THE_WIRE)
    site = found.rows[len(wire) + 1 : len(wire) + 1 + len(AT_A_SITE)]
    assert [(row.abuse, row.by) for row in site] == [(abuse, "coordinator, a member") for abuse in AT_A_SITE]
    assert RULES.items() <= {row.abuse: row.error for row in site}.items()
    assert wire[-1].error == "a site starts no more often than it could need"
    for row in (*wire, *site):
        assert json.loads(row.log)["rule"] == row.error
    assert {row.abuse for row in found.rows} >= {f"lines that {name}" for name in lines}


def test_each_roster_is_refused_for_its_own_reason() -> None:
    rows = {row.abuse: row.error for row in on_paper()}
    assert len(set(rows.values())) >= len(rows) - 1  # the two that are expired say the same
    for abuse, reason in {
        "expired roster": "has expired",
        "rolled-back roster": "older than 2, seen here",
        "roster of puppets": "and it takes",
        "two rosters of one version": "two rosters of the same version",
    }.items():
        assert reason in rows[abuse]


def test_strangers_reach_no_decoder() -> None:
    rows = {row.abuse: row for row in at_the_door()}
    assert all(row.refused_by for row in rows.values())
    assert json.loads(rows["flood from an unknown peer"].log)["peer"] == "a stranger"
    assert json.loads(rows["revoked key"].log)["peer"] == "revoked"
