"""The command line as its users meet it: help that loads nothing heavy, and errors of one line that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from fedsecure.cli.simulate import Frameworks
from fedsecure.config import Framework

HEAVY = ("torch", "monai", "numpy", "scipy", "matplotlib", "nibabel", "zmq", "cryptography")
TINY = """
[model]
filters = 4
hidden = 16
features = 8
[data]
size = 32
[pretrain]
rounds = 1
local_steps = 1
batch = 8
bank = 16
negatives = 8
[finetune]
labelled = [1]
steps = 2
rounds = 1
batch = 2
[security]
secagg = false
"""


def fedsecure(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fedsecure.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        *((), ("demo",), ("simulate",), ("report",), ("reproduce",), ("data",), ("data", "inspect"), ("bench",)),
        *(("budget",), ("budget", "plan"), ("budget", "show"), ("budget", "report")),
        *(("keys",), ("keys", "new"), ("keys", "rotate"), ("roster",), ("roster", "sign"), ("roster", "revoke")),
    ],
)
def test_help_is_there_for_every_command_and_loads_nothing_heavy(tmp_path: Path, command: tuple[str, ...]) -> None:
    script = (
        "import sys; from fedsecure.cli.main import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules], code)"
    )
    arguments = [sys.executable, "-c", script, *command, "--help"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert "HEAVY [] 0" in done.stdout


@pytest.mark.parametrize(
    ("study", "flags", "said"),
    [
        ("seed = -1", (), "seed: Input should be greater"),
        ("nonsense = 1", (), "nonsense"),
        ('framework = "fcl"', ("--framework", "both"), "the study sets framework"),
        ("seed = 1", ("--seed", "2"), "the study sets seed"),
        ('[security]\nsecagg = false\n[[sites]]\nname = "a"\nweight = 1', (), "a simulation makes its own sites"),
        ("", ("--sites", "4"), "have 5 sites or more, or write secagg = false under [security]"),
        ("", ("--data", "nifti:somewhere"), "acdc:PATH, msd:PATH, folder:PATH, dicom:PATH or hvsmr:PATH"),
        ("", ("--data", "acdc:nowhere"), ""),
    ],
)
def test_wrong_input_is_one_clear_line_and_no_traceback(
    tmp_path: Path, study: str, flags: tuple[str, ...], said: str
) -> None:
    (tmp_path / "study.toml").write_text(study)
    done = fedsecure(tmp_path, "simulate", "study.toml", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_told_from_failure(tmp_path: Path) -> None:
    assert fedsecure(tmp_path, "simulate", "--sites", "0").returncode == 2
    assert fedsecure(tmp_path, "nonsense").returncode == 2


def test_a_run_folder_is_never_overwritten_and_resumed_only_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TINY)
    flags = ("--sites", "2", "--patients", "2", "--transport", "memory", "--out", "run", "--quiet")
    first = fedsecure(tmp_path, "simulate", "study.toml", *flags)
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "run" / "results.json").read_bytes()
    again = fedsecure(tmp_path, "simulate", "study.toml", *flags)
    assert again.returncode == 1
    assert "the run folder is not empty" in again.stderr
    (tmp_path / "other.toml").write_text("seed = 7\n" + TINY)
    other = fedsecure(tmp_path, "simulate", "other.toml", *flags, "--resume")
    assert other.returncode == 1
    assert "made with other settings" in other.stderr
    resumed = fedsecure(tmp_path, "simulate", "--resume", "--out", "run", "--transport", "memory", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    nothing = fedsecure(tmp_path, "simulate", "--resume", "--out", "empty")
    assert nothing.returncode == 1
    assert "nothing to resume" in nothing.stderr


def test_the_flag_names_every_framework_of_a_study() -> None:
    assert {choice.value for choice in Frameworks} == {*get_args(Framework), "both"}


def test_a_baseline_without_a_shared_encoder_has_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TINY)
    flags = ("--framework", "local", "--sites", "2", "--patients", "2", "--transport", "memory", "--out", "run")
    done = fedsecure(tmp_path, "simulate", "study.toml", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_bytes())
    assert {row["framework"] for row in results["dice"]} == {None, "local"}
    assert {row["probe"] for row in results["representation"]} == {"site"}
    assert not (tmp_path / "run" / "encoder.safetensors").exists()
    assert (tmp_path / "run" / "segmenter.safetensors").is_file()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "trained an image encoder each, alone" in page


def test_both_frameworks_share_the_random_start_and_the_report(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(TINY)
    flags = ("--framework", "both", "--sites", "2", "--patients", "2", "--transport", "memory", "--out", "run")
    done = fedsecure(tmp_path, "simulate", "study.toml", *flags)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_bytes())
    starts = {(row["mode"], row["framework"]) for row in results["dice"]}
    assert starts == {(mode, start) for mode in ("local", "federated") for start in (None, "fcl", "fclopt")}
    assert {row["probe"] for row in results["representation"]} == {"site", "pooled"}
    for framework in ("fcl", "fclopt"):
        assert (tmp_path / "run" / framework / "encoder.safetensors").is_file()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<img" in page or "<svg" in page
    assert str(tmp_path) not in page
