"""A wrong hand-over does not type-check: mypy is run on programs that try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsecure.types import Disclosed, post_processed

HEAD = """
import numpy as np
from fedsecure.privacy.mechanism import Bounded, Mechanism, Privatised
from fedsecure.types import Accounted, Disclosed, FloatArray, Released, Update, post_processed

def norm(a: FloatArray) -> float:
    return float(np.linalg.norm(a))
def send(frame: Released) -> None: ...
def of(mechanism: Mechanism, released: Released, update: Update, accounted: Accounted, raw: FloatArray,
       privatised: Privatised, bounded: Bounded) -> None:
"""
RIGHT = [
    "model = Disclosed(raw, released); distance: Disclosed[float] = post_processed(norm, model)",
    "send(released)",
    "noisy: Privatised = mechanism.apply(bounded)",
]
WRONG = [
    "post_processed(norm, update)",
    "post_processed(norm, accounted)",
    "post_processed(norm, raw)",
    "post_processed(norm, privatised)",
    "post_processed(norm, Disclosed(raw, released), raw)",
    "Disclosed(raw, update)",
    "Disclosed(raw, privatised)",
    "send(update)",
    "send(accounted)",
    "send(privatised)",
    "mechanism.apply(update)",
    "mechanism.apply(raw)",
    "mechanism.apply(privatised)",
]


def test_only_released_values_are_free_of_charge(tmp_path: Path) -> None:
    lines = [*RIGHT, *WRONG]
    (tmp_path / "program.py").write_text(HEAD + "".join(f"    {line}\n" for line in lines))
    root = Path(__file__).resolve().parents[1]
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(root / "pyproject.toml"),
        str(tmp_path / "program.py"),
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    first = HEAD.count("\n") + 1
    flagged = {
        int(line.split(":")[1]) - first
        for line in done.stdout.splitlines()
        if "program.py" in line and ": error: " in line
    }
    assert {lines[i] for i in flagged} == set(WRONG), done.stdout


def test_post_processing_keeps_where_its_inputs_came_from() -> None:
    model = Disclosed(np.ones(4), b"digest")
    assert post_processed(np.sum, model) == Disclosed(np.float64(4.0), b"digest")
    assert repr(model) == "Disclosed()"
    with pytest.raises(ValueError, match="nothing disclosed"):
        post_processed(lambda: 1)
