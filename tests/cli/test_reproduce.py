"""`fedsecure reproduce` as its users meet it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from fedsecure.cli.main import app
from fedsecure.cli.reproduce import Budgets, Experiments, Judged
from fedsecure.config import DataSettings
from fedsecure.errors import FedsecureError
from sim.reproduce.protocols import load_protocol

RUN = CliRunner()


def call(*arguments: str) -> str:
    done = RUN.invoke(app, ["reproduce", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_the_choices_are_those_of_the_protocol() -> None:
    protocol = load_protocol()
    assert {found.value for found in Experiments} == set(protocol.experiments)
    assert {found.value for found in Budgets} == set(protocol.budgets)
    assert {found.value for found in Judged} == set(get_args(DataSettings.model_fields["judged"].annotation))


def test_a_list_shows_every_shard_and_runs_none(tmp_path: Path) -> None:
    said = call("local", "--budget", "cpu", "--list", "--jobs", "2", "--out", str(tmp_path / "out"))
    assert said.count("left  ") == 30
    assert "0 of 30 shards done; about 1 h 30 min left with 2 at a time" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("local", "--data", "nifti:here"), "acdc:PATH, msd:PATH"),
        (("transfer",), "needs --target-data"),
        (("local", "--target-data", "phantom"), "needs --target-data"),
        (("local", "--framework", "resnet"), "resnet is no arm of this experiment"),
        (("local", "--shards", "nothing-*"), "no shard is called"),
    ],
)
def test_a_flag_that_does_not_fit_is_said_before_anything_runs(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(FedsecureError, match=said):
        call(*arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_wrong_usage_has_its_own_exit_code() -> None:
    for wrong in (["nonsense"], ["local", "--budget", "huge"], ["local", "--jobs", "0"], ["local", "--crop", "1"]):
        assert RUN.invoke(app, ["reproduce", *wrong]).exit_code == 2


@pytest.mark.slow
def test_a_smoke_table_of_every_method_is_written_whole(tmp_path: Path) -> None:
    os.umask(0o077)
    flags = ("--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"))
    assert "12 of 12 shards" in call("local", *flags, "--jobs", "1")
    tables = tmp_path / "out/tables"
    assert {path.name for path in tables.iterdir()} == {f"local.{ending}" for ending in ("csv", "md", "tex", "svg")}
    assert (tables / "local.csv").read_text().count("\n") == 13
    assert (tables / "local.svg").read_text().startswith("<?xml")
    # The federated table needs no further shard.
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out/shards").iterdir())
    assert "12 of 12 shards" in call("federated", *flags, "--jobs", "1")
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "out/shards").iterdir()) == before
    for path in (tmp_path / "out/shards").iterdir():
        assert str(tmp_path) not in path.read_text()
        assert json.loads(path.read_text())["run"]["command"].startswith("fedsecure")
