"""A released model is what its manifest says, or it is not opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsecure.clinic.card import OUTSIDE_THE_GATE
from fedsecure.clinic.released import CARD, MANIFEST, WEIGHTS, ReleasedModel, open_model, released, save
from fedsecure.errors import SettingsError

from .conftest import card, toy


def test_a_saved_model_opens_as_itself(model: ReleasedModel, tmp_path: Path) -> None:
    save(model, tmp_path / "m")
    again = open_model(tmp_path / "m")
    assert again.manifest == model.manifest
    assert again.id == model.id
    assert again.tensors.keys() == model.tensors.keys()
    for name, value in model.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], value)


def test_its_id_hangs_on_weights_settings_and_card(model: ReleasedModel) -> None:
    manifest = model.manifest
    rest = (manifest.data, manifest.model, manifest.finetune, manifest.seed)
    weights = {name: value + np.float32(1) for name, value in model.tensors.items()}
    others = (
        released("segmenter", weights, *rest, manifest.card),
        released("segmenter", model.tensors, *rest, card(name="other")),
        toy(crop=64),
    )
    assert len({model.id, *(other.id for other in others)}) == 4


def test_a_folder_with_something_in_it_is_left_alone(model: ReleasedModel, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        save(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        (WEIGHTS, None, b"", "not those that its model.json names"),
        (MANIFEST, b'"filters": 4', b'"filters": 8', "not those of the network"),
        (MANIFEST, b'"kind": "segmenter"', b'"kind": "encoder"', "not those of the network"),
        (MANIFEST, b'"format": 1', b'"format": 2', "format"),
        (MANIFEST, b'"seed": 0,\n  "card"', b'"seed": 0,\n  "more": 1,\n  "card"', "more"),
        (MANIFEST, b'"MR"', b'"XR"', "modality"),
        (MANIFEST, b'"LV cavity"', b'"LV cavity", "aorta"', "not those of the network"),
    ],
)
def test_what_does_not_hold_is_not_opened(
    model: ReleasedModel, tmp_path: Path, file: str, old: bytes | None, new: bytes, reason: str
) -> None:
    save(model, tmp_path / "m")
    path = tmp_path / "m" / file
    raw = path.read_bytes()
    assert old is None or old in raw
    changed = new if old is None else raw.replace(old, new)
    path.write_bytes(changed)
    with pytest.raises(SettingsError, match=reason):
        open_model(tmp_path / "m")


def test_a_pickle_is_no_weights(model: ReleasedModel, tmp_path: Path) -> None:
    import hashlib
    import pickle

    save(model, tmp_path / "m")
    raw = pickle.dumps({"weights": [1.0]})
    (tmp_path / "m" / WEIGHTS).write_bytes(raw)
    manifest = (tmp_path / "m" / MANIFEST).read_text()
    digest = hashlib.sha256(raw).hexdigest()
    (tmp_path / "m" / MANIFEST).write_text(manifest.replace(model.manifest.weights, digest))
    with pytest.raises(SettingsError, match="not safetensors"):
        open_model(tmp_path / "m")


def test_an_encoder_segments_nothing(model: ReleasedModel) -> None:
    manifest = model.manifest
    tensors = {name: value for name, value in model.tensors.items() if name.startswith("encoder.")}
    encoder = released("encoder", tensors, manifest.data, manifest.model, manifest.finetune, 0, card(labelled=0))
    with pytest.raises(SettingsError, match="finetune"):
        encoder.segmenter()


def test_an_encoder_may_bring_a_decoder_without_its_last_layer_and_nothing_else(model: ReleasedModel) -> None:
    manifest = model.manifest
    settings = (manifest.data, manifest.model, manifest.finetune, 0, card(labelled=0))
    both = {n: v for n, v in model.tensors.items() if n.startswith(("encoder.", "decoder.levels."))}
    assert released("encoder", both, *settings).manifest.kind == "encoder"
    with pytest.raises(SettingsError, match="not those of the network"):
        released("encoder", dict(model.tensors), *settings)
    with pytest.raises(SettingsError, match="not those of the network"):
        released("encoder", dict(list(both.items())[:-1]), *settings)


def test_the_card_says_how_it_got_out_what_it_promises_and_what_was_measured(tmp_path: Path) -> None:
    save(toy(crop=64, spacing_mm=(1.5, 1.25)), tmp_path / "m")
    text = (tmp_path / "m" / CARD).read_text()
    assert OUTSIDE_THE_GATE in text
    assert "No guarantee." in text
    assert "Nothing was measured" in text
    assert "no medical device" in text
    assert "64 x 64 pixels of 1.25 x 1.5 mm" in text
    assert "no patients: of no use on anybody" in text
