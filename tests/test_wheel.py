"""The wheel: what is in it, that its names are ours alone, and that it runs where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fedsecure", "keys", "protocols", "sim"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_of_the_packages_and_nothing_else(wheel: Path) -> None:
    names = [name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == PACKAGES
    source = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == source
    for data in (
        "fedsecure/cli/demo.toml",
        "fedsecure/report/page.html",
        "fedsecure/report/page.css",
        "fedsecure/clinic/evaluation.html",
        "fedsecure/clinic/viewer.html",
        "fedsecure/clinic/viewer.js",
        "sim/reproduce/protocol.toml",
    ):
        assert data in names
    for package in PACKAGES:
        assert f"{package}/py.typed" in names


def test_no_other_installed_distribution_has_a_top_level_name_of_ours() -> None:
    for distribution in distributions():
        if distribution.metadata["Name"] == "fedsecure":
            continue
        tops = {str(file).partition("/")[0] for file in distribution.files or ()}
        assert not tops & (PACKAGES | {f"{name}.py" for name in PACKAGES}), distribution.metadata["Name"]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own that has the wheel and, beside it, the libraries of this one, but not this checkout."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    libraries = sysconfig.get_paths()["purelib"]
    # A plain path line: the hook of an editable installation runs in a real site folder only.
    (site / "libraries.pth").write_text(libraries + "\n")
    return home / "bin" / "python"


def run(python: Path, folder: Path, *arguments: str) -> str:
    command = [str(python), "-c", "from fedsecure.cli.main import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    script = "import fedsecure, keys, protocols, sim; print(*(m.__file__ for m in (fedsecure, keys, protocols, sim)))"
    done = subprocess.run([str(installed), "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout


def test_it_runs_a_federation_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        "[model]\nfilters = 4\nhidden = 16\nfeatures = 8\n[data]\nsize = 32\n"
        "[security]\nsecagg = false\n[pretrain]\nrounds = 1\nlocal_steps = 1\nbatch = 8\nbank = 16\nnegatives = 8\n"
        '[finetune]\nlabelled = [1]\nsteps = 2\nrounds = 1\nbatch = 2\nmodes = ["federated"]\n'
    )
    arguments = ["simulate", "study.toml", "--sites", "2", "--patients", "2", "--transport", "memory", "--out", "run"]
    said = run(installed, tmp_path, *arguments)
    assert "Dice, federated, N=1" in said
    for name in ("config.json", "study.json", "metrics.jsonl", "results.json", "report.html"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    for name in ("encoder.safetensors", "segmenter.safetensors"):
        assert (tmp_path / "run" / name).stat().st_size > 1000
