"""Feature exchange in results and report: the traffic model against the table of docs/method.md 2.7, and the page."""

from __future__ import annotations

import json

import msgspec
import pytest

from fedsecure.config import parse_study
from fedsecure.report.exchange import FORMS, exchange_block, modelled
from fedsecure.report.html import write_report
from fedsecure.report.results import ModelledRow
from fedsecure.types import TensorSpec

SCHEMA = (TensorSpec("encoder.a", (7, 10)), TensorSpec("projector.a", (30,)))
W = 4 * 100


@pytest.mark.parametrize(
    ("exchange", "up", "down"),
    [
        ("none", 3 * W, 4 * W),
        # Banks of 16, then 30 vectors of 8 floats and a byte; one ciphertext, and a key for each of two others.
        ("vectors", 3 * W + 46 * 33 + 2 * (16 + 160), 4 * W + 2 * (46 * 33 + 2 * (16 + 160))),
        # 12 cells of 8 floats, twice
        ("prototypes", 3 * W + 2 * (384 + 16 + 160), 4 * W + 2 * 2 * (384 + 16 + 160)),
        ("secagg-prototypes", 3 * W + 2 * 384, 4 * W + 2 * 384),
    ],
)
def test_the_traffic_model_by_hand(exchange, up, down):
    settings = {"rounds": 3, "local_steps": 2, "batch": 4, "bank": 30, "prototypes_per_partition": 3}
    raw = {
        "sites": [{"name": name, "weight": 1} for name in "abc"],
        "model": {"features": 8},
        "pretrain": {**settings, "exchange": exchange},
        "security": {"secagg": False},
    }
    assert modelled(parse_study(raw), SCHEMA) == (up, down)
    alone = parse_study({**raw, "sites": raw["sites"][:1]})
    assert modelled(alone, SCHEMA) == (3 * W, 4 * W)


def exchanging(make, form):
    results = make("fcl")
    settings = json.loads(json.dumps(results.studies[0].settings))
    settings["pretrain"]["exchange"] = form
    flow = {"vectors": "features", "secagg-prototypes": "prototype-sum"}.get(form, form)
    traffic = tuple(
        msgspec.structs.replace(row, flow=flow) if row.flow == "features" else row
        for row in results.traffic
        if row.flow != "features" or form != "none"
    )
    study = msgspec.structs.replace(results.studies[0], settings=settings)
    size = ModelledRow(framework="fcl", seed=0, up=1000, down=2000)
    return msgspec.structs.replace(results, studies=(study,), traffic=traffic, modelled=(size,))


@pytest.mark.parametrize("form", FORMS)
def test_the_report_names_the_form_and_who_can_read_it(form, make, tmp_path):
    results = exchanging(make, form)
    write_report(results, {}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert f"Form of exchange: <code>{form}</code>" in text
    assert FORMS[form].replace("'", "&#39;") in text
    assert "Bytes of pre-training for one site: by the traffic model, and" in text
    assert "target network (reconstructed)</h4>" not in text
    said = {
        "vectors": "Not the feature vectors.",
        "prototypes": "Not the sums of features.",
        "secagg-prototypes": "Each site's sums of features.",
    }
    assert [sentence in text for sentence in said.values()] == [key == form for key in said]
    block = exchange_block(results, "fcl")
    assert (block.form, block.bytes[0].model_up) == (form, 1000)
    assert exchange_block(make("fclopt"), "fclopt") is None
