"""What stands in packaging/ starts programs that exist, with options that they have."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import typer.main

from fedsecure.cli.main import app

PACKAGING = Path(__file__).resolve().parents[1] / "packaging"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def started(unit: Path) -> list[str]:
    (line,) = (line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart="))


@pytest.mark.parametrize("name", ["site", "coordinator"])
def test_a_unit_starts_its_program(name: str) -> None:
    program, command, *words = started(PACKAGING / f"fedsecure-{name}.service")
    assert program.endswith("/fedsecure")
    assert command == name
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_container_copies_every_package() -> None:
    text = (PACKAGING / "Containerfile").read_text()
    for package in ("keys", "protocols", "fedsecure", "sim"):
        assert f"COPY {package} {package}" in text
    assert "USER fedsecure" in text
    (torch,) = (line for line in text.splitlines() if "--index-url" in line)
    assert "--no-deps" in torch  # that index has not the versions of other packages that are pinned


def test_every_command_of_the_guide_is_one() -> None:
    guide = (PACKAGING.parent / "docs" / "pilot.md").read_text()
    lines = [
        line.split("$", 1)[1].split("#")[0].strip()
        for line in guide.splitlines()
        if line.startswith("    ") and "$" in line
    ]
    assert len(lines) > 5
    for line in lines:
        program, command, *words = shlex.split(line)
        assert program == "fedsecure"
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known
