"""A released model: one folder that `export` writes and `predict`, `evaluate`, `finetune` and `export` read.

    model.json           what is needed to use it (data and network settings), its card, SHA-256 of the weights
    model.safetensors    weights, "encoder.*" and, of a segmenter, "decoder.*"; no pickle.
                         Of an encoder with a pre-trained decoder also "decoder.levels.*"
    card.md              the card, for people

The model's id is the SHA-256 of model.json: it holds for the weights too, and stands in all that the model makes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints
from torch import nn

from fedsecure.clinic.card import Card, Frozen, to_markdown
from fedsecure.config import DataSettings, FinetuneSettings, ModelSettings, dump, load
from fedsecure.errors import SettingsError
from fedsecure.files import write_atomic
from fedsecure.learning.model import Segmenter, load_tensors
from fedsecure.learning.parts import DECODER, ENCODER, encoder_of
from fedsecure.packing import Malformed, pack_model, unpack_model
from fedsecure.types import Tensors

MANIFEST: Final = "model.json"
WEIGHTS: Final = "model.safetensors"
CARD: Final = "card.md"


class Manifest(Frozen):
    """All of model.json. `seed` starts the decoder of an encoder that is fine-tuned."""

    format: Literal[1] = 1
    kind: Literal["segmenter", "encoder"]
    weights: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    data: DataSettings
    model: ModelSettings
    finetune: FinetuneSettings
    seed: Annotated[int, Field(ge=0)]
    card: Card

    @property
    def structures(self) -> tuple[str, ...]:
        return self.data.structures


@dataclass(frozen=True, slots=True)
class ReleasedModel:
    manifest: Manifest
    tensors: Tensors

    def __repr__(self) -> str:
        return f"ReleasedModel({self.manifest.kind}, {self.id[:12]})"

    @property
    def id(self) -> str:
        """SHA-256 of model.json, hex."""
        return hashlib.sha256(dump(self.manifest)).hexdigest()

    def segmenter(self, device: str = "cpu") -> Segmenter:
        """The network, ready to predict. Raises SettingsError for an encoder."""
        if self.manifest.kind != "segmenter":
            raise SettingsError(
                "this model is an encoder alone, which segments nothing: `fedsecure finetune` it on labelled volumes "
                "first"
            )
        network = Segmenter(self.manifest.model, len(self.manifest.structures))
        _fill(network, self.tensors)
        return network.to(device).eval()


def released(kind: Literal["segmenter", "encoder"], tensors: Tensors, data: DataSettings, model: ModelSettings,
             finetune: FinetuneSettings, seed: int, card: Card) -> ReleasedModel:  # fmt: skip
    """A model with its manifest. Raises SettingsError where the weights are not those of these settings."""
    digest = hashlib.sha256(pack_model(tensors)).hexdigest()
    manifest = Manifest(
        kind=kind, weights=digest, data=data, model=model, finetune=finetune, seed=seed, card=card
    )  # fmt: skip
    _check(manifest, tensors)
    return ReleasedModel(manifest, tensors)


def save(model: ReleasedModel, folder: Path) -> None:
    """Write the three files into a new or empty folder. Raises SettingsError where something lies there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError("the folder for the model is not empty: name another one, nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = model.manifest
    write_atomic(folder / WEIGHTS, pack_model(model.tensors))
    page = to_markdown(manifest.card, model.id, manifest.kind, manifest.structures, field_of_view(manifest.data))
    write_atomic(folder / CARD, page.encode())
    write_atomic(folder / MANIFEST, dump(manifest))  # last: with it the folder is a model


def open_model(folder: Path) -> ReleasedModel:
    """Read and check a released model. Raises SettingsError: no such folder, damaged, or not what it says."""
    try:
        manifest = load(Manifest, (folder / MANIFEST).read_bytes())
        raw = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"this folder holds no released model ({error.strerror}): name one that `fedsecure export` or "
            "`fedsecure finetune` wrote"
        ) from None
    if hashlib.sha256(raw).hexdigest() != manifest.weights:
        raise SettingsError("the model's weights are not those that its model.json names: copy the folder again")
    try:
        tensors = unpack_model(raw)
    except Malformed as error:
        raise SettingsError(f"the model's weights do not hold: {error}") from None
    _check(manifest, tensors)
    return ReleasedModel(manifest, tensors)


def field_of_view(data: DataSettings) -> str:
    """In a sentence, what of a volume the network looks at."""
    if data.crop is None:
        return f"It looks at each whole slice, shrunk or grown to {data.size} x {data.size} pixels."
    unit = "pixels" if data.spacing_mm is None else f"pixels of {data.spacing_mm[1]:g} x {data.spacing_mm[0]:g} mm"
    return (
        f"It looks at the middle of each slice alone, {data.crop} x {data.crop} {unit}: what lies outside is always "
        "background."
    )


def _check(manifest: Manifest, tensors: Tensors) -> None:
    network = Segmenter(manifest.model, len(manifest.structures))
    if manifest.kind == "segmenter":
        _fill(network, tensors)
        return
    _fill(network.encoder, encoder_of(tensors))
    rest = {name: value for name, value in tensors.items() if not name.startswith(ENCODER)}
    if rest:
        _fill(network.decoder.levels, {name.removeprefix(DECODER): value for name, value in rest.items()})


def _fill(network: nn.Module, tensors: Tensors) -> None:
    try:
        load_tensors(network, tensors)
    except RuntimeError:  # torch's text lists every tensor
        raise SettingsError("the weights are not those of the network that the settings describe") from None
