"""What a site holds a model against that the coordinator sends, before anything of it is kept. Free of torch."""

from __future__ import annotations

from fedsecure import packing
from fedsecure.config import Study
from fedsecure.learning.shapes import model_schema, target_schema
from fedsecure.plan import schedule
from fedsecure.types import Schema, schema_of
from protocols.errors import Malformed, UnexpectedMessage
from protocols.messages import RoundOpen, TargetModel

MODEL_SHAPE = "a round's model has the names and shapes that the study gives its stage"
TARGET_SHAPE = "a round's target network has the names and shapes that the study gives it"


def require_fitting(study: Study, peer: str, message: RoundOpen | TargetModel) -> None:
    """Raises Malformed for what is no model of finite float32 tensors, UnexpectedMessage for one of another shape."""
    match message:
        case RoundOpen(stage=stage, model=raw):
            if stage < len(schedule(study)):  # of a stage that there is not, the machine says so
                _require(peer, raw, model_schema(study, stage), MODEL_SHAPE)
        case TargetModel(target=raw):
            _require(peer, raw, target_schema(study), TARGET_SHAPE)


def _require(peer: str, raw: bytes, schema: Schema, rule: str) -> None:
    try:
        tensors = packing.unpack_model(raw)
    except packing.Malformed as error:
        raise Malformed(peer, str(error)) from None
    if schema_of(tensors) != schema:
        raise UnexpectedMessage(peer, rule)
