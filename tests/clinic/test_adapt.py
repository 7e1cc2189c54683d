"""Fine-tuning on one's own: resumed runs end with the same bytes, and the card tells what was added."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedsecure.clinic import adapt
from fedsecure.clinic.adapt import Asked, finetune, start
from fedsecure.clinic.released import WEIGHTS, ReleasedModel, open_model, released
from fedsecure.data.source import open_source
from fedsecure.errors import SettingsError

from .conftest import card


@pytest.fixture
def asked(model: ReleasedModel, phantoms: Path) -> Asked:
    return Asked(
        model=model.id, source=f"folder:{phantoms}", structures=model.manifest.structures, labelled=None, steps=6,
        held_out=0.3, seed=0, on_error="stop",
    )  # fmt: skip


def run(model: ReleasedModel, asked: Asked, out: Path, resume: bool = False, stop: int | None = None) -> adapt.Fitted:
    def told(done: int, total: int, loss: float) -> None:
        if done == stop:
            raise KeyboardInterrupt

    return finetune(model, open_source(asked.source), asked, out, None, resume, "cpu", told)


def test_a_stopped_and_resumed_run_ends_with_the_same_bytes(
    model: ReleasedModel, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "EVERY", 2)
    fitted = run(model, asked, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(model, asked, tmp_path / "stopped", stop=5)
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(SettingsError, match="--resume"):
        run(model, asked, tmp_path / "stopped")
    with pytest.raises(SettingsError, match="other settings"):
        run(model, msgspec.structs.replace(asked, steps=7), tmp_path / "stopped", resume=True)
    run(model, asked, tmp_path / "stopped", resume=True)
    straight, stopped = (tmp_path / name / WEIGHTS for name in ("straight", "stopped"))
    assert straight.read_bytes() == stopped.read_bytes()
    assert not list(tmp_path.glob("*.work"))  # patients' prepared volumes are gone
    found = open_model(tmp_path / "straight").manifest.card
    assert found.parent == model.id
    assert found.labelled == fitted.trained == 2
    assert {score.patients for score in found.scores} == {1}
    assert "epsilon is infinite" in found.privacy
    assert model.manifest.card.privacy in found.privacy
    assert "6 steps of local fine-tuning with 2 labelled patients" in found.training


def test_other_structures_get_a_decoder_of_their_own(model: ReleasedModel, asked: Asked) -> None:
    same, other = (start(model, msgspec.structs.replace(asked, structures=s)) for s in (asked.structures, ("liver",)))
    for network, alike in ((same, True), (other, False)):
        state = network.state_dict()
        np.testing.assert_array_equal(
            state["encoder.levels.0.conv_0.conv.weight"].numpy(), model.tensors["encoder.levels.0.conv_0.conv.weight"]
        )
        name = "decoder.levels.0.upsample.deconv.weight"
        assert np.array_equal(state[name].numpy(), model.tensors[name]) is alike


def test_an_encoder_is_enough_to_start_from(model: ReleasedModel, asked: Asked, tmp_path: Path) -> None:
    manifest = model.manifest
    tensors = {name: value for name, value in model.tensors.items() if name.startswith("encoder.")}
    encoder = released("encoder", tensors, manifest.data, manifest.model, manifest.finetune, 0, card(labelled=0))
    fitted = run(encoder, msgspec.structs.replace(asked, held_out=0.0, labelled=1, steps=1), tmp_path / "out")
    assert fitted.model.manifest.kind == "segmenter"
    assert (fitted.trained, fitted.measured) == (1, 0)
    assert fitted.model.manifest.card.scores == ()


def test_a_damaged_checkpoint_and_a_place_that_is_taken_are_refused(
    model: ReleasedModel, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapt, "EVERY", 1)
    with pytest.raises(SettingsError, match="nothing to resume"):
        run(model, asked, tmp_path / "out", resume=True)
    with pytest.raises(KeyboardInterrupt):
        run(model, asked, tmp_path / "out", stop=3)
    (tmp_path / "out.work/checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(SettingsError, match="checkpoint is damaged"):
        run(model, asked, tmp_path / "out", resume=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    with pytest.raises(SettingsError, match="not empty"):
        run(model, asked, tmp_path / "taken")
