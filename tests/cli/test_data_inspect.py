from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from fedsecure.cli.main import main
from fedsecure.data.cohort import load_salt
from fedsecure.data.phantom import write_phantom

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Result:
    exit_code: object
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


@pytest.fixture
def phantom(tmp_path: Path) -> Path:
    write_phantom(tmp_path / "in", 3, seed=1, size=64)
    return tmp_path / "in"


def run(*arguments: object) -> Result:
    """The whole command line, as errors become lines and exit codes in `main`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["fedsecure", "data", "inspect", *map(str, arguments)]),
        mock.patch.dict(os.environ, {"COLUMNS": "160"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as left,
    ):
        main()
    return Result(left.value.code, out.getvalue(), err.getvalue())


def test_table_totals_and_picture(phantom: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    salt = load_salt(tmp_path / "salt")
    result = run(f"folder:{phantom}", "--picture", tmp_path / "sheet.png", "--salt", tmp_path / "salt")
    assert result.exit_code == 0, result.output
    assert "3 of 3 patients used, 6 volumes, 6 of them labelled" in result.output
    assert "RV cavity, LV myocardium, LV cavity" in result.output
    assert "64 x 64 x" in result.output
    assert (tmp_path / "sheet.png").read_bytes().startswith(PNG)
    assert (tmp_path / "sheet.png").stat().st_mode & 0o777 == 0o600
    assert str(tmp_path / "sheet.png") in result.output.replace("\n", "")
    assert salt == load_salt(tmp_path / "salt")
    again = run(f"folder:{phantom}", "--picture", tmp_path / "sheet.png", "--salt", tmp_path / "salt")
    assert again.output == result.output  # one salt, one set of ids


def test_the_picture_lies_in_the_working_folder_by_default(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert run(f"folder:{phantom}", "--size", 32, "--crop", 48, "--spacing", "4,4").exit_code == 0
    assert (tmp_path / "inspect.png").exists()


def test_a_bad_file_stops_with_one_line_that_names_it(phantom: Path, tmp_path: Path) -> None:
    (phantom / "case-001" / "case-001_ED.nii.gz").write_bytes(b"broken")
    result = run(f"folder:{phantom}", "--picture", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert result.stderr.strip().count("\n") == 0
    assert "case-001_ED.nii.gz: the gzip stream is damaged" in result.stderr
    assert not (tmp_path / "sheet.png").exists()


def test_exclude_lists_what_is_left_out(phantom: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (phantom / "case-001" / "case-001_ED.nii.gz").write_bytes(b"broken")
    for file in (phantom / "case-002").iterdir():
        file.write_bytes(b"broken")
    result = run(f"folder:{phantom}", "--on-error", "exclude", "--picture", tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    assert "2 of 3 patients used, 3 volumes" in result.output
    assert "1 of 2 frames used" in result.output
    assert result.output.count("left out: ") == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "acdc:PATH, msd:PATH"),
        (["folder:/nowhere/at/all"], "does not exist"),
        (["folder:{phantom}", "--size", "33"], "size"),
        (["folder:{phantom}", "--on-error", "ignore"], "on_error"),
        (["folder:{phantom}", "--spacing", "wide"], "--spacing is written Y,X"),
        (["folder:{phantom}", "--structures", "one"], "outside the label map"),
    ],
)
def test_what_the_operator_gets_wrong_is_said_without_a_traceback(
    phantom: Path, arguments: list[str], reason: str
) -> None:
    result = run(*(argument.format(phantom=phantom) for argument in arguments))
    assert result.exit_code == 1
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_labels_that_nobody_names_are_asked_for(phantom: Path) -> None:
    (phantom / "dataset.json").unlink()
    result = run(f"folder:{phantom}")
    assert result.exit_code == 1
    assert "--structures NAME,NAME" in result.stderr


def test_without_matplotlib_the_table_stands_and_the_extra_is_named(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(f"folder:{phantom}", "--picture", tmp_path / "sheet.png")
    assert result.exit_code == 1
    assert "3 of 3 patients used" in result.stdout
    assert "pip install 'fedsecure[report]'" in result.stderr


def test_slices_stored_in_both_directions_are_pointed_out(phantom: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import nibabel
    import numpy as np

    for file in (phantom / "case-000").iterdir():
        image = nibabel.load(file)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag([1, 1, -1, 1])), file)
    result = run(f"folder:{phantom}", "--picture", tmp_path / "sheet.png")
    assert "warning: the slices of 1 patients are stored the other way round" in result.output
    assert "z reversed" in result.output
    stored = run(f"folder:{phantom}", "--orientation", "stored", "--picture", tmp_path / "sheet.png")
    assert "warning" not in stored.output


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_no_volume_stays_behind_when_the_command_is_ended(phantom: Path, tmp_path: Path, name: str) -> None:
    code = f"""
import os, pathlib, signal, sys
from fedsecure.data import picture

def end(*_):
    print(len(list(pathlib.Path(os.environ["TMPDIR"]).glob("fedsecure-inspect-*/*.npy"))))
    os.kill(os.getpid(), signal.{name})
    signal.pause()

picture.contact_sheet = end
from fedsecure.cli.main import main
sys.argv = ["fedsecure", "data", "inspect", {f"folder:{phantom}"!r}, "--size", "32"]
main()
"""
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "12"  # there was something to leave behind
    assert done.returncode == 128 + getattr(signal, name)
    assert done.stderr == ""
    assert list((tmp_path / "tmp").glob("fedsecure-*")) == []


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, fedsecure.cli.data; "
        "print([name for name in ('torch', 'monai', 'nibabel', 'matplotlib', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
