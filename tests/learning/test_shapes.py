"""The shapes that a site derives from a study are those of the models that the study's nodes make."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest

from fedsecure.config import Framework, parse_study
from fedsecure.learning.dispatch import initial_model
from fedsecure.learning.parts import start_of
from fedsecure.learning.shapes import model_schema, target_schema
from fedsecure.learning.target import copied
from fedsecure.packing import pack_model, unpack_model
from fedsecure.plan import has_target, keeps_decoder, schedule
from fedsecure.types import Schema, Tensors, schema_of

SITES = [{"name": name, "weight": 1} for name in ("a", "b")]
SMALL = {"filters": 4, "hidden": 12, "features": 8}
DENSE = {"dense": {"weight": 1.0}}
STUDIES: list[dict[str, Any]] = [
    *({"framework": name} for name in get_args(Framework)),
    {"framework": "fcl", "pretrain": DENSE},
    {"framework": "fclopt", "pretrain": DENSE},
    {"framework": "fclopt", "pretrain": {"target": "local", "distance": "none"}},
    {"framework": "fclopt", "pretrain": {"target": "naive", "distance": "none", **DENSE}},
    {"framework": "swav", "swav": {"prototypes": 5}},
    {"framework": "mae", "mae": {"keep_decoder": True}, "data": {"structures": ["one"]}},
    {"framework": "fcl", "start": "random", "baseline": False, "model": {**SMALL, "filters": 8, "norm": "group"}},
]


def received(tensors: Tensors) -> Schema:
    return schema_of(unpack_model(pack_model(tensors)))


@pytest.mark.parametrize("raw", STUDIES, ids=lambda raw: "-".join(map(str, raw.values())))
def test_every_stages_model_has_the_shapes_that_the_study_gives_it(raw: dict[str, Any]) -> None:
    study = parse_study(
        {
            "sites": SITES,
            "model": SMALL,
            "finetune": {"labelled": [1], "modes": ["local"]},
            "security": {"secagg": False},
            **raw,
        }
    )
    encoder: Tensors | None = None
    for number, stage in enumerate(schedule(study)):
        model = initial_model(study, number, encoder)
        assert model_schema(study, number) == received(model)
        if stage.kind == "pretrain":
            encoder = start_of(model, keeps_decoder(study))
            if has_target(study, number, 0):
                assert target_schema(study) == received(copied(model))


def test_a_node_that_asks_for_them_reaches_no_torch() -> None:
    code = "import sys, fedsecure.learning.shapes, fedsecure.node.site_shell; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
