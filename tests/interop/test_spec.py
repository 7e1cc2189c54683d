"""SPEC.md's worked example is what it says: the independent reader reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_worked_example_is_a_frozen_vector() -> None:
    text = (ROOT / "protocols" / "SPEC.md").read_text("utf-8").split("## Example", 1)[1].split("\nIts keys", 1)[0]
    # Hex stands in an indented line, in groups, before two blanks and the explanation.
    rows = [line[4:].strip().split("  ")[0] for line in text.splitlines() if line.startswith("    ")]
    example = "".join(re.sub(r"[^0-9a-f]", "", row) for row in rows)
    vectors = json.loads((ROOT / "tests" / "vectors" / "frames.json").read_text("utf-8"))
    frozen = next(case["frame"] for case in vectors["cases"] if case["name"] == "valid study-closed")
    assert example == frozen
    assert f"{len(frozen) // 2} bytes" in text
