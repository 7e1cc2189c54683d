"""The target network in results and report: the traffic model against the table of docs/method.md 4.4, and the page."""

from __future__ import annotations

import msgspec
import pytest

from fedsecure.config import Study, parse_study
from fedsecure.report.html import write_report
from fedsecure.report.results import ModelledRow, TargetRow, load, merge, save
from fedsecure.report.sum_bytes import sum_bytes
from fedsecure.report.targets import modelled, target_block
from fedsecure.types import Flow, TensorSpec

# E = 70 + 30, P = 20; what a naive model also holds counts through E
SCHEMA = (
    TensorSpec("encoder.a", (7, 10)),
    TensorSpec("projector.a", (30,)),
    TensorSpec("predictor.a", (20,)),
    TensorSpec("target.encoder.a", (7, 10)),
)


def study(secagg: bool = False, **settings: object) -> Study:
    sites = [{"name": name, "weight": 3} for name in "abcde"]
    pretrain = {"rounds": 10, **settings}
    return parse_study({"sites": sites, "framework": "fclopt", "pretrain": pretrain, "security": {"secagg": secagg}})


@pytest.mark.parametrize(
    ("settings", "asked", "corrected", "up", "down"),
    [
        ({"target": "naive", "distance": "none"}, 0, 0, 10 * 220, 11 * 220),
        ({"target": "local", "distance": "none"}, 0, 0, 10 * 120, 11 * 120),
        ({"distance": "none"}, 9, 2, 10 * 120 + 9 * 100, 11 * 120 + 2 * 100),
        ({"distance": "r1"}, 4, 1, 10 * 120 + 4 * 100, 11 * 120 + 100),
        ({"distance": "r2"}, 0, 0, 10 * 120 + 9, 11 * 120),
    ],
)
def test_the_traffic_model_by_hand(settings, asked, corrected, up, down):
    assert modelled(study(**settings), SCHEMA, asked, corrected) == (4 * up, 4 * down)


@pytest.mark.parametrize(
    ("settings", "asked", "values", "sums"),
    [
        ({"target": "naive", "distance": "none"}, 0, 10 * 220, 10),
        ({"distance": "r1"}, 4, 10 * 120 + 4 * 100, 10),  # with the weights, in one vector
        ({"distance": "r2"}, 4, 10 * 120 + 4 * 100, 14),  # afterwards, in a sum of their own
    ],
)
def test_with_secure_sums_a_value_has_the_rings_bits_and_each_sum_its_keys_and_shares(settings, asked, values, sums):
    """What is not the vector is measured on a vector of one value, and does not grow with it."""
    twice = (*SCHEMA, TensorSpec("target.projector.a", (30,)))  # a naive model holds the target, too
    schema = twice if settings["distance"] == "none" else SCHEMA[:3]
    secure = study(secagg=True, **settings)
    up, down = modelled(secure, schema, asked, 1)
    clear = modelled(study(**settings), schema, 0, 1)
    one = sum_bytes(secure, (Flow.WEIGHTS,), (TensorSpec("encoder.a", (1,)),))
    scores = 4 * 9 if settings["distance"] == "r2" else 0
    about = sums * (one.up + one.vector - 3)
    assert up == pytest.approx(3 * values + scores + about, rel=0.01)
    assert 0.02 * up < 3 * values < about  # so that the line above looks at both
    assert down == pytest.approx(clear[1] + sums * one.down, rel=0.01)


def test_a_decoder_that_no_target_follows_counts_like_the_predictor():
    dense = (*SCHEMA[:3], TensorSpec("decoder.levels.a", (25, 2)), TensorSpec("pixels.a", (5,)))
    assert modelled(study(), dense, 4, 1) == (4 * (10 * 175 + 4 * 100), 4 * (11 * 175 + 100))


def row(round_: int, distance: float | None, corrected: bool = False, seed: int = 0) -> TargetRow:
    return TargetRow(
        framework="fclopt", seed=seed, round=round_, expected=0.0123, distance=distance, asked=distance is not None,
        corrected=corrected,
    )  # fmt: skip


@pytest.fixture
def targeted(make):
    rows = (row(0, 0.0345, corrected=True), row(1, 0.0111), row(2, None))
    size = ModelledRow(framework="fclopt", seed=0, up=1000, down=2000)
    return msgspec.structs.replace(make("fclopt"), targets=rows, modelled=(size,))


def test_shares_are_of_training_rounds(targeted):
    block = target_block(targeted, "fclopt")
    assert (block.rho, block.sigma) == (0.2, 0.1)  # of ten rounds
    (total,) = block.bytes
    assert (total.model_up, total.model_down) == (1000, 2000)
    up = sum(row.bytes for row in targeted.traffic if row.stage == 0 and row.direction == "up")
    assert total.up == up / 5
    assert target_block(targeted, "fcl") is None


def test_shares_are_over_all_seeds(targeted, make):
    other = msgspec.structs.replace(
        make("fclopt", seed=1),
        targets=(row(0, None, seed=1),),
        modelled=(ModelledRow(framework="fclopt", seed=1, up=1, down=2),),
    )
    block = target_block(merge(targeted, other), "fclopt")
    assert (block.rho, block.sigma) == (0.1, 0.05)
    assert [total.seed for total in block.bytes] == [0, 1]


def test_they_are_kept_and_results_without_them_still_load(targeted, make, tmp_path):
    save(targeted, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == targeted
    old = msgspec.json.decode((tmp_path / "results.json").read_bytes())
    del old["targets"], old["modelled"]
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(old))
    assert load(tmp_path / "old.json").targets == ()


def test_the_report_says_reconstructed_and_shows_each_round(targeted, make, tmp_path):
    write_report(targeted, {}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "the target network (reconstructed)" in text
    for shown in ("0.0123", "0.0345", "0.0111", "20&nbsp;% of the training rounds (ρ)", "1 kB"):
        assert shown in text
    write_report(make("fcl"), {}, tmp_path / "report.html")
    assert "(reconstructed)" not in (tmp_path / "report.html").read_text("utf-8")
