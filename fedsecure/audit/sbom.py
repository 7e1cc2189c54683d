"""What is installed: a CycloneDX 1.6 bill of materials of this environment, and one digest over our own files.

Names, versions and licences are what each package says of itself. A package's hash is over the paths and SHA-256 values
of its RECORD (PEP 376, PEP 627), sorted, and so the same for the same wheel; a package without a RECORD has none.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

OWN: Final = ("fedsecure", "keys", "protocols", "sim")
_LABEL: Final = b"fedsecure/release/v1\0"
_COMPILED: Final = frozenset({".pyc", ".pyo"})
_LONGEST: Final = 64  # letters of a licence's name; longer ones are its whole text


def release() -> str:
    """SHA-256, in hex, over names and bytes of every file of our packages as they are on disk; compiled ones left out.

    The same wherever the same release is installed; a checkout with files of its own has another.
    """
    root = Path(__file__).resolve().parents[2]
    files = sorted(
        path for package in OWN for path in (root / package).rglob("*")
        if path.is_file() and path.suffix not in _COMPILED
    )  # fmt: skip
    whole = hashlib.sha256(_LABEL)
    for path in files:
        name = path.relative_to(root).as_posix().encode()
        whole.update(len(name).to_bytes(4, "big") + name + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def bill(made: datetime) -> dict[str, Any]:
    """The bill of materials as plain values, components sorted by name. made: with time zone."""
    own = _normalised("fedsecure")
    found = {_normalised(one.name): one for one in metadata.distributions() if one.name}
    components = [_component(found[name]) for name in sorted(found) if name != own]
    application = _component(found[own]) if own in found else {"name": "fedsecure", "version": "0", "bom-ref": own}
    application |= {"type": "application", "hashes": [{"alg": "SHA-256", "content": release()}]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid4().urn,
        "version": 1,
        "metadata": {"timestamp": made.isoformat(timespec="seconds"), "component": application},
        "components": components,
        "dependencies": [{"ref": application["bom-ref"], "dependsOn": [one["bom-ref"] for one in components]}],
    }


def _normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(one: metadata.Distribution) -> dict[str, Any]:
    name = _normalised(one.name)
    purl = f"pkg:pypi/{name}@{one.version}"
    component: dict[str, Any] = {
        "type": "library", "bom-ref": purl, "name": name, "version": one.version, "purl": purl,
    }  # fmt: skip
    licences = _licences(one.metadata)
    if licences:
        component["licenses"] = licences
    recorded = [(path.as_posix(), path.hash.value) for path in one.files or () if path.hash is not None]
    if recorded:
        text = "".join(f"{path}\0{value}\n" for path, value in sorted(recorded))
        component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(text.encode()).hexdigest()}]
    return component


def _licences(said: metadata.PackageMetadata) -> list[dict[str, Any]]:
    """An SPDX expression (PEP 639), or names from classifiers, or the free field where it is a name."""
    expression = _fields(said, "License-Expression")
    if expression:
        return [{"expression": expression[0]}]
    names = [line.rsplit(" :: ", 1)[-1] for line in _fields(said, "Classifier") if line.startswith("License :: ")] or [
        line for line in _fields(said, "License") if 0 < len(line) <= _LONGEST and "\n" not in line
    ]
    return [{"license": {"name": name}} for name in dict.fromkeys(names)]


def _fields(said: metadata.PackageMetadata, name: str) -> list[str]:
    values: Iterable[Any] = said.get_all(name) or ()
    return [str(value) for value in values if value]
