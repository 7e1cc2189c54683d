"""How a run came about: command, commit, versions, machine. Kinds of things, never names of people or places."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Final

from fedsecure.report.results import Machine, Provenance

_LIBRARIES: Final = ("torch", "monai", "numpy", "scipy", "nibabel", "pydicom", "cryptography", "pyzmq", "msgspec")
# "acdc:/data/x" -> "acdc:<path>", "--out=runs/x" -> "--out=<path>". A source is hidden even without a separator in it:
# a folder of DICOM files is often named after a patient.
_PATH: Final = re.compile(r"(?P<source>\b(?:acdc|msd|folder|dicom):).+|[^=:]*[/\\].*", re.DOTALL)


def redacted(arguments: Sequence[str]) -> str:
    """The command line as one string, each path (and address) in it replaced by `<path>`."""
    program, *rest = arguments
    hidden = (_PATH.sub(lambda found: (found["source"] or "") + "<path>", argument) for argument in rest)
    return " ".join([re.split(r"[/\\]", program)[-1], *hidden])


def collect(arguments: Sequence[str], started: datetime, seconds: float) -> Provenance:
    """The provenance of this process. `started` carries a time zone; `seconds` is wall time."""
    return Provenance(
        command=redacted(arguments),
        commit=_commit(Path(__file__).resolve().parents[2]),
        version=metadata.version("fedsecure"),
        machine=Machine(
            processor=_processor(), cores=os.cpu_count() or 1, system=f"{platform.system()} {platform.machine()}"
        ),
        libraries={name: _version(name) for name in _LIBRARIES},
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit(checkout: Path) -> str | None:
    """The commit of the source tree with "+changes" if files differ from it; None if this is an installed package."""
    if not (checkout / ".git").exists():
        return None
    head = _git(checkout, "rev-parse", "HEAD")
    if head is None:
        return None
    return f"{head}+changes" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else head


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """The processor's model name. Linux keeps it where `platform` does not look."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
