"""Whole federations with a decoder that is pre-trained and with unlabelled slices in fine-tuning: what starts from
what, and equal bytes across kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsecure.config import Study
from fedsecure.node.wiring import COORDINATOR
from fedsecure.node.workbench import ENCODER
from fedsecure.packing import unpack_model
from fedsecure.plan import Init, StageKind, schedule
from fedsecure.progress import Refused, RoundStarted
from fedsecure.types import Tensors
from sim.errors import FederationFailed
from sim.federation import federate

from .conftest import TINY, LayOut
from .test_federation import Killer, ignore

IDEAS: dict[str, Any] = {
    "framework": "fcl",
    "pretrain": {**TINY["pretrain"], "dense": {"weight": 1.0, "pixels": 8}},
    "finetune": {
        **TINY["finetune"],
        "consistency": {"weight": 1.0, "threshold": 0.0, "ramp": 0.0, "teacher": 0.5, "dropped": 0.1, "batch": 2},
    },
}


def _model(run: Path, name: str) -> Tensors:
    return unpack_model((run / COORDINATOR / name).read_bytes())


def _number(study: Study, kind: StageKind, init: Init) -> int:
    wanted = (kind, init)
    return next(number for number, stage in enumerate(schedule(study)) if (stage.kind, stage.init) == wanted)


def test_fine_tuning_starts_from_encoder_and_decoder_and_uses_unlabelled_slices(lay_out_world: LayOut) -> None:
    run, study = lay_out_world("with", **IDEAS)
    seen: list[Any] = []
    federate(run, study, "memory", lambda _, event: seen.append(event))
    assert not any(isinstance(event, Refused) for event in seen)  # the gate let decoder and pixels' head out
    pretrained = _model(run, "models/0-2.safetensors")
    assert {name.split(".")[0] for name in pretrained} == {"encoder", "projector", "decoder", "pixels"}
    kept = _model(run, ENCODER)
    decoder = {name for name in kept if name.startswith("decoder.")}
    assert decoder == {name for name in pretrained if name.startswith("decoder.")}
    assert all((kept[name] == pretrained[name]).all() for name in decoder)
    first = _model(run, f"models/{_number(study, StageKind.LOCAL, Init.PRETRAINED)}-0.safetensors")
    random = _model(run, f"models/{_number(study, StageKind.LOCAL, Init.RANDOM)}-0.safetensors")
    assert all((first[name] == kept[name]).all() and (first[name] != random[name]).any() for name in decoder)
    last = [name for name in first if name.startswith("decoder.final.")]
    assert last
    assert all((first[name] == random[name]).all() for name in last)
    ended = f"models/{_number(study, StageKind.FEDERATED, Init.PRETRAINED)}-2.safetensors"
    assert all(np.isfinite(value).all() for value in _model(run, ended).values())


@pytest.mark.slow
@pytest.mark.parametrize("node", ["site-1", COORDINATOR])
@pytest.mark.parametrize(("init", "round_"), [(Init.RANDOM, 1), (Init.PRETRAINED, 0)])
def test_a_kill_and_a_resume_give_the_same_bytes(lay_out_world: LayOut, node: str, init: Init, round_: int) -> None:
    quiet, study = lay_out_world("quiet", **IDEAS)
    federate(quiet, study, "memory", ignore)
    run, study = lay_out_world("killed", **IDEAS)
    with pytest.raises(FederationFailed, match=f"{node} ended without a word"):
        federate(run, study, "zmq", Killer(run, node, _number(study, StageKind.FEDERATED, init), round_, RoundStarted))
    federate(run, study, "zmq", ignore)
    for number in (0, *(_number(study, StageKind.FEDERATED, init) for init in Init)):
        name = f"models/{number}-2.safetensors"
        assert (run / COORDINATOR / name).read_bytes() == (quiet / COORDINATOR / name).read_bytes()
