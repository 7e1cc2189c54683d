"""Names of a pre-training model's parts. Free of torch: the coordinator keeps the encoder, and has no torch."""

from __future__ import annotations

from fedsecure.types import Tensors

ENCODER = "encoder."
PROJECTOR = "projector."
DECODER = "decoder.levels."  # without its last layer, which answers the question of one stage alone


def encoder_of(model: Tensors) -> Tensors:
    """The encoder's tensors, by their names inside `model.Encoder`."""
    return {name.removeprefix(ENCODER): value for name, value in model.items() if name.startswith(ENCODER)}


def branch_of(model: Tensors) -> Tensors:
    """Encoder and projector, by their names inside `model.Branch`."""
    return {name: value for name, value in model.items() if name.startswith((ENCODER, PROJECTOR))}


def start_of(model: Tensors, decoder: bool) -> Tensors:
    """The tensors fine-tuning starts from: `encoder_of` and, if it is to be kept, the decoder's "decoder.levels.*"."""
    kept = {name: value for name, value in model.items() if decoder and name.startswith(DECODER)}
    return {**encoder_of(model), **kept}
