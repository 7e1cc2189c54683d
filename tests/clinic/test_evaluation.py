"""What is measured of whom, and what of it may be handed on."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedsecure.clinic.evaluation import Evaluation, evaluate, mean, write
from fedsecure.clinic.evaluation_page import page
from fedsecure.clinic.released import ReleasedModel
from fedsecure.clinic.segment import Segmenting
from fedsecure.data.nifti import NiftiReader
from fedsecure.data.nifti import write as write_nifti
from fedsecure.data.source import open_source
from fedsecure.errors import SettingsError

from .conftest import toy


def run(model: ReleasedModel, **sources: str):  # type: ignore[no-untyped-def]
    return evaluate(model, {n: open_source(s) for n, s in sources.items()}, "mm", 2.0, "cpu", lambda: None)


def test_by_structure_patient_and_site_with_numbers_for_names(
    model: ReleasedModel, phantoms: Path, tmp_path: Path
) -> None:
    found = run(model, north=f"folder:{phantoms}", south=f"folder:{phantoms}")
    rows = found.evaluation.rows
    assert len(rows) == 2 * 3 * 2 * 3  # sites, patients, frames, structures
    assert {(row.site, row.patient) for row in rows} == {(s, n) for s in ("north", "south") for n in (1, 2, 3)}
    written = write(found, tmp_path / "out")
    for path in written[:3]:
        assert "case-0" not in path.read_text()
        assert str(phantoms) not in path.read_text()
    assert msgspec.json.decode(written[0].read_bytes(), type=Evaluation) == found.evaluation
    with written[1].open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert "case-002" in written[3].read_text()
    assert "By site" in written[2].read_text()
    assert "<script" not in written[2].read_text()
    with pytest.raises(SettingsError, match="not empty"):
        write(found, tmp_path / "out")


def test_a_perfect_reference_is_met_on_the_stored_grid(model: ReleasedModel, tmp_path: Path) -> None:
    """Labels that the model itself drew, in a file whose axes run otherwise."""
    image = np.random.default_rng(0).normal(100, 20, (10, 9, 6)).repeat(4, 0).repeat(4, 1).astype(np.float32)
    affine = np.array([[0, 0, -6.0, 0], [1.4, 0, 0, 0], [0, 1.1, 0, 0], [0, 0, 0, 1]])
    affine[:3, :3] = affine[:3, [0, 2, 1]][[1, 0, 2]]  # slices second
    write_nifti(tmp_path / "a.nii.gz", np.ascontiguousarray(image.transpose(0, 2, 1)), affine)
    raw = NiftiReader().read(tmp_path / "a.nii.gz", None)
    drawn = Segmenting.of(model.segmenter(), model.manifest.data).labels(raw, tmp_path)
    assert len(np.unique(drawn)) > 1
    write_nifti(tmp_path / "a_gt.nii.gz", drawn, affine)
    found = run(model, here=f"folder:{tmp_path}").evaluation
    counted = [row for row in found.rows if row.dice is not None]
    assert counted
    assert {(row.dice, row.hd95, row.assd, row.surface_dice) for row in counted} == {(1.0, 0.0, 0.0, 1.0)}
    assert found.calibration is not None
    assert found.calibration.overconfidence < 0  # always right, never sure


def test_nominal_spacing_is_pointed_at(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(100, 20, (32, 32, 4)).astype(np.float32)
    write_nifti(tmp_path / "a.nii.gz", image, np.eye(4))
    write_nifti(tmp_path / "a_gt.nii.gz", (image > 110).astype(np.uint8), np.eye(4))
    found = run(toy(), here=f"folder:{tmp_path}").evaluation
    assert found.nominal
    assert "--unit voxels" in page(found)


def test_a_bad_file_is_left_out_and_counted(model: ReleasedModel, phantoms: Path, tmp_path: Path) -> None:
    for path in phantoms.rglob("*.nii.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "case-001_ED.nii.gz").write_bytes(b"nothing")
    found = run(model, here=f"folder:{tmp_path}")
    assert found.evaluation.left_out == len(found.errors) == 1
    assert "1 volume could not be used" in page(found.evaluation)


def test_other_structures_and_no_labels_are_refused(model: ReleasedModel, phantoms: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver"}}')
    image = next(phantoms.rglob("*ED.nii.gz")).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(image)
    with pytest.raises(SettingsError, match="no volume of this source has a label"):
        run(model, here=f"folder:{tmp_path}")
    (tmp_path / "a_gt.nii.gz").write_bytes(next(phantoms.rglob("*ED_gt.nii.gz")).read_bytes())
    with pytest.raises(SettingsError, match="other structures"):
        run(model, here=f"folder:{tmp_path}")


def test_means_are_over_patients_not_over_volumes(model: ReleasedModel, phantoms: Path) -> None:
    rows = [row for row in run(model, here=f"folder:{phantoms}").evaluation.rows if row.structure == "LV cavity"]
    each = [np.mean([row.dice for row in rows if row.patient == number]) for number in (1, 2, 3)]
    assert mean(rows, "dice") == pytest.approx(np.mean(each))
    rows.append(msgspec.structs.replace(rows[0], frame=3))
    assert mean(rows, "dice") == pytest.approx(
        np.mean([np.mean([row.dice for row in rows if row.patient == number]) for number in (1, 2, 3)])
    )
