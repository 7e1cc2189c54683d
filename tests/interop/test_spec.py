"""The worked examples of the three SPEC.md are what they say: frozen vectors, which the independent readers read."""

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


def test_the_worked_sum_is_the_frozen_one() -> None:
    text = (ROOT / "protocols" / "secagg" / "SPEC.md").read_text("utf-8").split("## Example", 1)[1].split("\n## ", 1)[0]
    frozen = json.loads((ROOT / "tests" / "vectors" / "secagg.json").read_text("utf-8"))["context"]
    said = [tuple(map(int, re.findall(r"-?\d+", part))) for part in re.findall(r"\(([-\d, ]+)\)", text)]
    assert [*map(list, said)] == [*frozen["vectors"].values(), frozen["total"]]
    vector = re.search(r"masked-input +(\d+) bytes", text)
    assert vector is not None
    assert int(vector[1]) == -(-3 * 20 // 8)


def test_the_example_of_a_roster_is_a_frozen_vector() -> None:
    text = (ROOT / "keys" / "SPEC.md").read_text("utf-8").split("## Example", 1)[1].split("\nIn full", 1)[0]
    example = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    vectors = json.loads((ROOT / "tests" / "vectors" / "roster.json").read_text("utf-8"))
    frozen = next(case["file"] for case in vectors["cases"] if case["name"] == "valid").splitlines()
    assert len(example) == len(frozen)
    for shown, line in zip(example, frozen, strict=True):
        assert line.startswith(shown.removesuffix("...")) if shown.endswith("...") else line == shown
