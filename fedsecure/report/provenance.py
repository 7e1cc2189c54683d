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

from fedsecure.audit.sbom import release
from fedsecure.report.results import Machine, Provenance

_LIBRARIES: Final = ("torch", "monai", "numpy", "scipy", "nibabel", "pydicom", "cryptography", "pyzmq", "msgspec")
# What may be shown. A value is taken for a path or a patient's name unless it is known to be neither.
_COMMANDS: Final = frozenset({"demo", "simulate", "reproduce"})
_EXPERIMENTS: Final = frozenset({"local", "federated", "transfer", "traffic", "ablation"})  # of `reproduce`
_SHOWN: Final = frozenset(
    {"--framework", "--sites", "--partition", "--seed", "--transport", "--patients"}
    | {"--budget", "--judge", "--crop", "--device", "--limit"}
)
_FLAGS: Final = frozenset({"--resume", "--quiet", "--keep"})
_HIDDEN: Final = frozenset({"--data", "--target-data", "--out", "--cache", "--shards"})
_SOURCE: Final = re.compile(r"(acdc|msd|folder|dicom|hvsmr):")
_WITHHELD: Final = "<...>"


def redacted(arguments: Sequence[str]) -> str:
    """The command line as one string with every value `<...>` but those that cannot name a person or a place.

    Of --data the kind of source stays. An option that is not known here is withheld, name and all.
    """
    program, *rest = arguments
    shown = [re.split(r"[/\\]", program)[-1]]
    if rest and rest[0] in _COMMANDS:
        shown.append(rest.pop(0))
    if shown[-1] == "reproduce" and rest and rest[0] in _EXPERIMENTS:
        shown.append(rest.pop(0))
    words = iter(rest)
    for word in words:
        option, joined, value = word.partition("=")
        if option in _FLAGS and not joined:
            shown.append(option)
        elif option in _SHOWN | _HIDDEN:
            glue = joined or " "
            shown.append(f"{option}{glue}{_value(option, value if joined else next(words, ''))}")
        else:
            shown.append(_WITHHELD)
    return " ".join(shown)


def _value(option: str, value: str) -> str:
    if option in _SHOWN:
        return value
    source = _SOURCE.match(value) if option in {"--data", "--target-data"} else None
    return f"{source[0] if source else ''}{_WITHHELD}"


def collect(command: str, started: datetime, seconds: float) -> Provenance:
    """Where this process runs, and the run's own `command` (from `redacted`), start (with time zone) and wall time."""
    return Provenance(
        command=command,
        commit=commit(),
        version=metadata.version("fedsecure"),
        release=release(),
        machine=Machine(
            processor=_processor(), cores=os.cpu_count() or 1, system=f"{platform.system()} {platform.machine()}"
        ),
        libraries={name: _version(name) for name in _LIBRARIES},
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
    )


def commit() -> str | None:
    """The commit of the source tree this runs from, see `_commit`."""
    return _commit(Path(__file__).resolve().parents[2])


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
