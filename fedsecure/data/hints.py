"""What lies beside the images and says more about them: names of structures, groups of patients."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

from fedsecure.errors import DataError


def read_structures(folder: Path) -> tuple[str, ...] | None:
    """Names of label values 1, 2, ... from the `labels` of a Decathlon-style dataset.json; None without the file.

    Raises DataError when the file is there but does not name the values 1..n without a gap.
    """
    file = folder / "dataset.json"
    text = _text(file)
    if text is None:
        return None
    try:
        labels = {int(value): str(name) for value, name in json.loads(text)["labels"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError('dataset.json must hold "labels": {"0": "background", "1": NAME, ...}', file) from None
    names = {value: name for value, name in sorted(labels.items()) if value != 0}
    if tuple(names) != tuple(range(1, len(names) + 1)):
        raise DataError("dataset.json names label values with a gap; they must be 1, 2, ... without one", file)
    return tuple(names.values())


def read_groups(*folders: Path) -> Mapping[str, str]:
    """Group by case name from the first `volumes.csv` found: columns `case` and `group`, or one ending in `_group`.

    Empty without such a file or columns. Raises DataError when the file is not text.
    """
    for folder in folders:
        text = _text(folder / "volumes.csv")
        if text is None:
            continue
        rows = csv.DictReader(text.splitlines())
        columns = rows.fieldnames or ()
        group = next((name for name in columns if name == "group" or name.endswith("_group")), None)
        if "case" in columns and group is not None:
            return {row["case"]: row[group] for row in rows if row["case"] and row[group]}
    return {}


def _text(file: Path) -> str | None:
    try:
        return file.read_text("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}", file) from None
    except UnicodeDecodeError:
        raise DataError("the file is not UTF-8 text", file) from None
