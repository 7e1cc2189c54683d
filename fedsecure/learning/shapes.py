"""Names and shapes of each stage's model, from the study alone, without torch: a site holds what comes against them.

They are those of `model.py`'s networks and of the methods' own heads, which the test holds them to. f is the number of
filters; a U-Net has five levels of two 3 x 3 convolutions, f to 16 f wide, and four of them on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedsecure.config import ModelSettings, Study
from fedsecure.learning.parts import ENCODER, PROJECTOR
from fedsecure.learning.target import TARGET
from fedsecure.plan import StageKind, schedule, trains_pixels
from fedsecure.types import Schema, TensorSpec

_CENTRED: Final = frozenset({"fclopt"})  # projectors that take standardised features
_PREDICTING: Final = frozenset({"fclopt", "byol", "fedema"})


def model_schema(study: Study, stage: int) -> Schema:
    """Of the model that the rounds of a stage open with; names ascending. Raises IndexError for a stage too many."""
    if schedule(study)[stage].kind is not StageKind.PRETRAIN:
        return _sorted(_segmenter(study.model, 1 + len(study.data.structures)))
    if study.framework == "mae":
        return _sorted(_segmenter(study.model, 1))
    return _sorted(_branch(study), _beside(study))


def target_schema(study: Study) -> Schema:
    """Of the target network that goes apart from the model where `plan.has_target`; names ascending."""
    return _sorted(_under(TARGET, _branch(study)))


def _sorted(*parts: Iterator[TensorSpec]) -> Schema:
    return tuple(sorted((spec for part in parts for spec in part), key=lambda spec: spec.name))


def _under(prefix: str, specs: Iterator[TensorSpec]) -> Iterator[TensorSpec]:
    return (TensorSpec(prefix + spec.name, spec.shape) for spec in specs)


def _beside(study: Study) -> Iterator[TensorSpec]:
    """What a method averages beside encoder and projector."""
    settings, d = study.model, study.model.features
    if trains_pixels(study):
        yield from _decoder(settings)
        yield from _head("pixels", settings, settings.filters)
    if study.framework in _PREDICTING:
        yield from _head("predictor", settings, d)
    if study.framework == "byol" or (study.framework == "fclopt" and study.pretrain.target == "naive"):
        yield from _under(TARGET, _branch(study))
    if study.framework == "rotation":
        yield from _affine("turns", 4, d)
    if study.framework == "swav":
        yield TensorSpec("prototypes.weight", (study.swav.prototypes, d))


def _branch(study: Study) -> Iterator[TensorSpec]:
    wide = 80 * study.model.filters
    yield from _encoder(study.model)
    if study.framework in _CENTRED:
        yield TensorSpec(f"{PROJECTOR}standardise.shift", (wide,))
        yield TensorSpec(f"{PROJECTOR}standardise.scale", (wide,))
    yield from _head(PROJECTOR.removesuffix("."), study.model, wide)


def _segmenter(settings: ModelSettings, channels: int) -> Iterator[TensorSpec]:
    yield from _encoder(settings)
    yield from _decoder(settings)
    yield from _affine("decoder.final", channels, settings.filters, 1, 1)


def _encoder(settings: ModelSettings) -> Iterator[TensorSpec]:
    widths = [1, *(settings.filters << level for level in range(5))]
    for level in range(5):
        inner = "convs." if level else ""
        yield from _two(f"{ENCODER}levels.{level}.{inner}", widths[level], widths[level + 1])


def _decoder(settings: ModelSettings) -> Iterator[TensorSpec]:
    """Each level enlarges what is below it, halving its channels but in the last, and joins the encoder's map."""
    f = settings.filters
    for level, (below, enlarged, joined, out) in enumerate(
        [(16, 8, 16, 8), (8, 4, 8, 4), (4, 2, 4, 2), (2, 2, 3, 1)]
    ):  # fmt: skip
        name = f"decoder.levels.{level}."
        yield TensorSpec(f"{name}upsample.deconv.weight", (below * f, enlarged * f, 2, 2))
        yield TensorSpec(f"{name}upsample.deconv.bias", (enlarged * f,))
        yield from _two(f"{name}convs.", joined * f, out * f)


def _two(name: str, channels: int, out: int) -> Iterator[TensorSpec]:
    for number, into in enumerate((channels, out)):
        yield from _affine(f"{name}conv_{number}.conv", out, into, 3, 3)
        yield from _affine(f"{name}conv_{number}.adn.N", out)


def _head(name: str, settings: ModelSettings, wide: int) -> Iterator[TensorSpec]:
    yield from _affine(f"{name}.layers.0", settings.hidden, wide)
    yield from _affine(f"{name}.layers.1", settings.hidden)
    yield from _affine(f"{name}.layers.3", settings.features, settings.hidden)


def _affine(name: str, *shape: int) -> Iterator[TensorSpec]:
    yield TensorSpec(f"{name}.weight", shape)
    yield TensorSpec(f"{name}.bias", shape[:1])
