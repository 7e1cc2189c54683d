from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PRIVATE = """
framework = "fclopt"
[pretrain]
exchange = "none"
[finetune]
modes = ["local"]
[privacy]
enabled = true
epsilon = 8.0
"""


def fedsecure(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fedsecure.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_plan_says_cost_meaning_and_signal(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(PRIVATE)
    done = fedsecure(tmp_path, "budget", "plan", "study.toml", "--sites", "10")
    assert done.returncode == 0, done.stderr
    for said in (
        "10 sites, 200 patients",
        "weights 10",
        "for its first round",
        "against whoever sees sums over sites alone and is told the noise of c of U_min sites: U_min - c = 9",
        "against whoever reads releases one by one, as the coordinator does",
        "S/N of a round",
        "naming 1 of 500",
        "\n*",
    ):
        assert said in done.stdout


def test_a_plan_without_privacy_says_that_nothing_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('framework = "fcl"')
    done = fedsecure(tmp_path, "budget", "plan", "study.toml", "--sites", "5")
    assert "epsilon infinite" in done.stdout
    assert "without a guarantee: features" in done.stdout
    assert "warning: [privacy] is off" in done.stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("budget", "plan", "study.toml"), "use --sites"),
        (("budget", "plan", "study.toml", "--sites", "4"), "have 5 sites or more, or write secagg = false"),
        (("simulate", "study.toml", "--out", "run"), "nodes cannot add its noise yet"),
        (("budget", "show", "."), "no run"),
        (("budget", "report", "."), "no run"),
    ],
)
def test_what_cannot_hold_is_one_line(tmp_path: Path, command: tuple[str, ...], said: str) -> None:
    (tmp_path / "study.toml").write_text(PRIVATE)
    done = fedsecure(tmp_path, *command)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
