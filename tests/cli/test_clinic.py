"""The four commands as a person types them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from fedsecure.cli.main import app
from fedsecure.clinic.card import OUTSIDE_THE_GATE, Card
from fedsecure.clinic.released import open_model, released, save
from fedsecure.config import DataSettings, FinetuneSettings, ModelSettings
from fedsecure.data.phantom import STRUCTURES
from fedsecure.errors import SettingsError
from fedsecure.learning.model import Segmenter, tensors_of


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of an untrained network, and phantoms."""
    folder = tmp_path_factory.mktemp("clinic")
    model = ModelSettings(filters=4, hidden=16, features=8)
    torch.manual_seed(0)
    tensors = tensors_of(Segmenter(model, 3))
    card = Card(
        name="toy", modality="MR", data="phantom volumes", study="toy", study_digest="0" * 64, framework="fcl", seed=0,
        training="none", labelled=1, sites=(), privacy="No guarantee.", audits="none", scores=(), measured_on="",
        parent=None, version="0", commit=None, created="2026-01-01",
    )  # fmt: skip
    data = DataSettings(size=32, structures=STRUCTURES)
    save(released("segmenter", tensors, data, model, FinetuneSettings(steps=2, batch=2), 0, card), folder / "m")
    assert call("data", "phantom", str(folder / "new"), "--patients", "2", "--size", "48").exit_code == 0
    return folder


def call(*words: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, list(words), input=typed, catch_exceptions=True)


def test_export_says_what_it_is_and_asks(place: Path, tmp_path: Path) -> None:
    refused = call("export", str(place / "m"), "--out", str(tmp_path / "out"), typed="n\n")
    assert OUTSIDE_THE_GATE in refused.output
    assert isinstance(refused.exception, SettingsError)
    assert not (tmp_path / "out").exists()
    silent = call("export", str(place / "m"), "--out", str(tmp_path / "out"))  # nobody there to answer
    assert silent.exit_code == 1
    assert not (tmp_path / "out").exists()
    done = call("export", str(place / "m"), "--out", str(tmp_path / "out"), "--bundle", typed="y\n")
    assert done.exit_code == 0, done.output
    assert open_model(tmp_path / "out").id == open_model(place / "m").id
    assert (tmp_path / "out/bundle/configs/inference.json").is_file()


def test_predict_says_of_each_what_it_drew_and_ends_in_1_where_one_failed(place: Path, tmp_path: Path) -> None:
    good = call("predict", str(place / "m"), str(place / "new"), str(tmp_path / "out"), "--threads", "1")
    assert good.exit_code == 0, good.output
    assert "4 of 4 drawn" in good.output
    assert "case-000/case-000_ED: RV cavity" in good.output
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    bad = call("predict", str(place / "m"), str(tmp_path / "bad.nii.gz"), str(tmp_path / "out2"))
    assert bad.exit_code == 1
    assert "bad: not drawn: " in bad.output
    again = call("predict", str(place / "m"), str(place / "new"), str(tmp_path / "out"))
    assert "--overwrite" in str(again.exception)


def test_a_place_that_cannot_be_written_is_told_in_a_line(place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = call("predict", str(place / "m"), str(place / "new"), str(tmp_path / "file/out"))
    assert isinstance(found.exception, SettingsError)
    assert "Not a directory" in str(found.exception)
    assert str(tmp_path) not in str(found.exception)


def test_evaluate_writes_a_report_and_names_sites(place: Path, tmp_path: Path) -> None:
    source = f"folder:{place / 'new'}"
    done = call(
        "evaluate", str(place / "m"), "--data", f"a={source}", "--data", f"b={source}", "--out", str(tmp_path / "e")
    )
    assert done.exit_code == 0, done.output
    assert "LV cavity: dice 0." in done.output
    text = (tmp_path / "e/evaluation.html").read_text()
    assert '<th scope="row">b 2</th>' in text
    twice = call(
        "evaluate", str(place / "m"), "--data", f"a={source}", "--data", f"a={source}", "--out", str(tmp_path / "f")
    )
    assert "one name" in str(twice.exception)


def test_finetune_ends_in_a_model_that_predicts(place: Path, tmp_path: Path) -> None:
    source = f"folder:{place / 'new'}"
    done = call("finetune", str(place / "m"), "--data", source, "--out", str(tmp_path / "ours"), "--name", "ours")
    assert done.exit_code == 0, done.output
    assert "without any privacy guarantee" in done.output
    assert open_model(tmp_path / "ours").manifest.card.name == "ours"
    assert call("predict", str(tmp_path / "ours"), str(place / "new"), str(tmp_path / "out")).exit_code == 0


def test_phantoms_do_not_overwrite(place: Path) -> None:
    assert "not empty" in str(call("data", "phantom", str(place / "new")).exception)
