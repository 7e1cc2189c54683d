from __future__ import annotations

from typing import Any

from fedsecure.bench.rounding import RINGS, bench_rounding

TINY: dict[str, Any] = {
    "model": {"filters": 4, "hidden": 16, "features": 8},
    "data": {"size": 32},
    "pretrain": {"rounds": 1, "local_steps": 1, "batch": 4, "bank": 16, "negatives": 8, "exchange": "none"},
    "finetune": {"labelled": [1], "modes": ["federated"], "rounds": 1, "steps": 1, "batch": 2},
}


def test_more_bits_are_nearer_and_rotation_is_worth_nearly_five() -> None:
    """Of updates so small that most values are far below a step the error falls by 4 for four bits, else by 16."""
    rows = bench_rounding(2, 1, **TINY)
    assert len(rows) == 2 * len(RINGS) * 2
    for stage in {str(row["stage"]) for row in rows}:
        error = {(row["ring"], row["rotation"]): float(row["error"]) for row in rows if row["stage"] == stage}
        for rotation in (0.0, 1.0):
            assert all(error[ring, rotation] / error[ring + 4, rotation] > 3 for ring in (16, 20))
        assert all(error[ring, 1.0] < error[ring, 0.0] / 5 for ring in RINGS)
        assert error[20, 1.0] < error[24, 0.0]
