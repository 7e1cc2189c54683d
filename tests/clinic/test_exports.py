"""Exports answer as the model does, and one that does not is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import run

from fedsecure.clinic import bundle as bundle_module
from fedsecure.clinic.bundle import monai_names, write_bundle
from fedsecure.clinic.card import OUTSIDE_THE_GATE
from fedsecure.clinic.onnx_file import CLOSE, difference, onnx_bytes
from fedsecure.clinic.released import ReleasedModel
from fedsecure.clinic.segment import Segmenting
from fedsecure.data.nifti import NiftiReader
from fedsecure.errors import SettingsError

from .conftest import toy


@pytest.mark.parametrize(
    "data",
    [{}, {"crop": 48}, {"crop": 128, "orientation": "LPS"}, {"spacing_mm": (2.0, 1.6)}, {"orientation": "stored"}],
)
def test_monai_alone_gives_the_bundles_labels(tmp_path: Path, data: dict[str, object]) -> None:
    write_bundle(toy(**data), tmp_path / "bundle")
    metadata = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    assert OUTSIDE_THE_GATE in metadata["description"]
    assert not [path for path in (tmp_path / "bundle").rglob("*") if path.suffix in (".pt", ".pth", ".ts")]


def test_the_bundle_runs_by_itself_and_writes_the_same_labels_on_the_files_own_grid(
    model: ReleasedModel, phantoms: Path, tmp_path: Path
) -> None:
    write_bundle(model, tmp_path / "bundle")
    image = phantoms / "case-000/case-000_ED.nii.gz"
    run(
        config_file=str(tmp_path / "bundle/configs/inference.json"), bundle_root=str(tmp_path / "bundle"),
        images=[str(image)],
    )  # fmt: skip
    made = nibabel.load(tmp_path / "bundle/eval/case-000_ED_seg.nii.gz")
    stored = nibabel.load(image)
    np.testing.assert_allclose(made.affine, stored.affine)
    ours = Segmenting.of(model.segmenter(), model.manifest.data).labels(NiftiReader().read(image, None), image)
    assert (np.asarray(made.dataobj) != ours).mean() < 2e-3


def test_a_bundle_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = bundle_module._preprocessing
    monkeypatch.setattr(bundle_module, "_preprocessing", lambda data: steps(data)[:-4] + steps(data)[-2:])
    with pytest.raises(SettingsError, match="does not answer"):
        write_bundle(toy(), tmp_path / "bundle")


def test_every_weight_has_a_name_of_monais(model: ReleasedModel) -> None:
    assert not [name for name in monai_names(model.tensors) if name.startswith(("encoder", "decoder"))]


def test_onnx_runtime_gives_the_networks_probabilities(model: ReleasedModel) -> None:
    pytest.importorskip("onnxruntime", reason="onnx and onnxruntime are not installed (fedsecure[onnx])")
    raw = onnx_bytes(model)
    assert difference(model, raw) <= CLOSE
    other = dataclasses.replace(model, tensors={n: v + np.float32(0.1) for n, v in model.tensors.items()})
    assert difference(other, raw) > CLOSE
