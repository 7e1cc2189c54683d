"""docs/tutorial.md does what it says, command by command, on phantom volumes and in a folder of its own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from fedsecure.cli.main import app
from fedsecure.config import parse_study

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/tutorial.md").read_text("utf-8")
SHOWN = re.findall(r"^    \$ fedsecure (.+)$", GUIDE, re.MULTILINE)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def study() -> str:
    found = re.search(r'^    name = "first"\n(?:    .*\n|\n(?=    ))*', GUIDE, re.MULTILINE)
    assert found is not None
    return re.sub("^    ", "", found[0], flags=re.MULTILINE)


@pytest.mark.parametrize("line", SHOWN)
def test_each_command_is_one(line: str) -> None:
    name, *words = shlex.split(line)
    command = COMMANDS[name]
    if hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(name, words)  # raises UsageError for what it does not know


def test_the_study_is_accepted_also_with_what_stands_behind_marks() -> None:
    assert parse_study(tomllib.loads(study())).name == "first"
    more = parse_study(tomllib.loads(study().replace("# crop = 128 ", "crop = 128 #")))
    assert more.data.crop == 128


def test_every_option_that_the_text_names_is_one() -> None:
    known = {option for command in _every(COMMANDS) for parameter in command.params for option in parameter.opts}
    named = set(re.findall(r"`(?:[^`]* )?(--[a-z-]+)", GUIDE))
    assert len(named) > 8
    assert named <= known


def test_make_has_what_it_begins_with() -> None:
    assert "    make setup " in GUIDE
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_all_of_it_runs_in_order(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(study())
    program = "import sys; from fedsecure.cli.main import main; sys.argv[0] = 'fedsecure'; main()"
    for line in SHOWN:
        done = subprocess.run(
            [sys.executable, "-c", program, *shlex.split(line)],
            cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Warning" not in done.stderr, f"{line}\n{done.stderr}"
    for promised in (
        "inspect.png", "runs/first/report.html", "models/first/card.md", "drawn/predictions.json",
        "drawn/case-000/case-000_ED_seg.nii.gz", "drawn/case-000/case-000_ED_view.html",
        "measured/first/evaluation.html", "measured/first/files.csv", "models/ours/model.json",
        "to-share/bundle/configs/inference.json", "to-share/model.onnx",
    ):  # fmt: skip
        assert (tmp_path / promised).is_file(), promised


def _every(commands: dict[str, object]) -> list[object]:
    return [one for command in commands.values() for one in (command, *_every(getattr(command, "commands", {})))]


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
