"""Where the real data is. Tests that need it skip without it, and say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("FEDSECURE_TEST_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))


def _real(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(
            f"real data set {name!r} is not on this machine (set FEDSECURE_TEST_DATA to the folder that holds it)"
        )
    return folder


@pytest.fixture(scope="session")
def acdc() -> Path:
    return _real("acdc")


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    return _real("hippocampus")
