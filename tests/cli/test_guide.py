"""docs/pilot.md does what it says: its commands and options exist, and the files that it shows are accepted."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer.main

from fedsecure.cli.main import app
from fedsecure.config import parse_study
from fedsecure.node.pilot import read_site

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
GUIDE = (Path(__file__).parents[2] / "docs" / "pilot.md").read_text("utf-8")
SHOWN = re.findall(r"^    (?:hub|north)\$ +fedsecure (.+)$", GUIDE, re.MULTILINE)
SHOWN += re.findall(r"`fedsecure (coordinator [^`]+)`", GUIDE)


def block(first: str) -> str:
    """The indented lines that begin with the one that begins so."""
    found = re.search(rf"^    {re.escape(first)}.*\n(?:    .*\n)*", GUIDE, re.MULTILINE)
    assert found is not None
    return re.sub("^    ", "", found[0], flags=re.MULTILINE)


@pytest.mark.parametrize("line", SHOWN)
def test_each_command_is_one(line: str) -> None:
    name, *words = line.split()
    COMMANDS[name].make_context(name, words)  # raises UsageError for what it does not know


def test_an_option_that_is_not_there_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option: --vote"):
        COMMANDS["veto"].make_context("veto", ["--vote"])


def test_the_guide_shows_every_program_of_a_pilot() -> None:
    assert {line.split()[0] for line in SHOWN} == {"coordinator", "site", "status", "doctor", "veto"}


def test_the_study_file_is_accepted() -> None:
    study = parse_study(tomllib.loads(block('name = "pilot"')))
    assert [member.name for member in study.sites] == ["north", "south", "east"]


def test_the_site_file_is_accepted(tmp_path: Path) -> None:
    text = block('coordinator = "tcp:')
    (tmp_path / "site.toml").write_text(text)
    assert read_site(tmp_path / "site.toml").modality == "MR"
    options = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert options is not None
    (tmp_path / "site.toml").write_text(text.replace(options[0], options[1].replace(", ", "\n")))
    assert read_site(tmp_path / "site.toml").maximum_upload == 2_000_000_000
