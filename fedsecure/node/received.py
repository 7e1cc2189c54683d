"""What a site holds a model against that the coordinator sends, before anything of it is kept. Free of torch."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from fedsecure import packing
from fedsecure.config import Study
from fedsecure.learning import sparse
from fedsecure.learning.shapes import model_schema, target_schema
from fedsecure.plan import schedule
from fedsecure.types import Schema, schema_of
from protocols.errors import Malformed, UnexpectedMessage
from protocols.messages import RoundOpen, TargetModel, model_digest

MODEL_SHAPE: Final = "a round's model has the names and shapes that the study gives its stage"
TARGET_SHAPE: Final = "a round's target network has the names and shapes that the study gives it"
VALUES_UNASKED: Final = "a round opens with all of its model, where the study's updates are not sparse"
VALUES_ASTRAY: Final = "values in place of a model make the announced one, of that of the round before"


def require_fitting(study: Study, peer: str, message: RoundOpen | TargetModel) -> None:
    """Raises Malformed for what is no model of finite float32 tensors, UnexpectedMessage for one of another shape."""
    match message:
        case RoundOpen(stage=stage, model=raw):
            if stage < len(schedule(study)):  # of a stage that there is not, the machine says so
                _require(peer, raw, model_schema(study, stage), MODEL_SHAPE)
        case TargetModel(target=raw):
            _require(peer, raw, target_schema(study), TARGET_SHAPE)


def whole(study: Study, peer: str, message: RoundOpen, held: bytes) -> RoundOpen:
    """The opening with its model, made of the one that this site holds, empty if it holds none, where values came in
    its place. Raises UnexpectedMessage where they do not make the model that is announced: the site then says hello
    again, and is sent all of it."""
    if not message.values:
        return message
    if study.sparse.period == 1:
        raise UnexpectedMessage(peer, VALUES_UNASKED)
    try:
        before = packing.unpack_model(held)
        values = np.frombuffer(message.values, "<f4")
        where = sparse.places(study, message.stage, message.round - 1, schema_of(before))
        made = packing.pack_model(sparse.renewed(before, values, where))
    except ValueError:  # nothing held, or values of another number, or not finite
        made = b""
    if model_digest(made) != message.model_digest:
        raise UnexpectedMessage(peer, VALUES_ASTRAY)
    return msgspec.structs.replace(message, values=b"", model=made)


def _require(peer: str, raw: bytes, schema: Schema, rule: str) -> None:
    try:
        tensors = packing.unpack_model(raw)
    except packing.Malformed as error:
        raise Malformed(peer, str(error)) from None
    if schema_of(tensors) != schema:
        raise UnexpectedMessage(peer, rule)
