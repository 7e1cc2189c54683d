"""From files to files: grids, frames, modalities, and nothing overwritten."""

from __future__ import annotations

import dataclasses
import gzip
import traceback
from pathlib import Path

import msgspec
import nibabel
import numpy as np
import pytest

from fedsecure.clinic.predict import RECORD, Outcome, Record, Wanted, check, predict
from fedsecure.clinic.released import ReleasedModel
from fedsecure.clinic.segment import Segmenting
from fedsecure.clinic.volumes import items, place_of
from fedsecure.data.nifti import NiftiReader, write
from fedsecure.errors import DataError, SettingsError

from .conftest import toy
from .series import SPACING, write_series


def run(model: ReleasedModel, given: Path, out: Path, wanted: Wanted | None = None) -> tuple[Outcome, ...]:
    wanted = wanted or Wanted()
    found = items(str(given))
    check(model, found, place_of(str(given)), out, wanted)
    return predict(model, found, out, wanted, "cpu", lambda _: None)


def volume(seed: int = 0, shape: tuple[int, ...] = (40, 36, 6)) -> np.ndarray:
    coarse = np.random.default_rng(seed).normal(100, 20, (10, 9, *shape[2:]))
    return coarse.repeat(4, 0).repeat(4, 1).astype(np.int16)


def test_a_folder_is_drawn_file_by_file_on_each_files_own_grid(
    model: ReleasedModel, phantoms: Path, tmp_path: Path
) -> None:
    outcomes = run(model, phantoms, tmp_path / "out", Wanted(view=True))
    assert len(outcomes) == 6
    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert made[0] == "case-000/case-000_ED_seg.nii.gz"
    for path in sorted(phantoms.rglob("*E[DS].nii.gz")):
        stored = nibabel.load(path)
        drawn = nibabel.load(tmp_path / "out" / path.parent.name / f"{path.name.removesuffix('.nii.gz')}_seg.nii.gz")
        assert drawn.shape == stored.shape
        np.testing.assert_array_equal(drawn.affine, stored.affine)
        assert drawn.get_data_dtype() == np.uint8
    record = msgspec.json.decode((tmp_path / "out" / RECORD).read_bytes(), type=Record)
    assert record.model == model.id
    assert [one.output for one in record.predicted] == made
    first = nibabel.load(tmp_path / "out" / made[0])
    counts = np.bincount(np.asarray(first.dataobj).ravel(), minlength=4)[1:]
    size = abs(np.linalg.det(first.affine)) / 1000
    assert list(record.predicted[0].millilitres.values()) == pytest.approx(counts * size, abs=1e-3)
    assert len(list((tmp_path / "out").rglob("*_view.html"))) == 6


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 4), (0, 0)])
def test_the_header_says_the_same_of_where_voxels_lie_and_nothing_else(
    model: ReleasedModel, tmp_path: Path, kind: type, codes: tuple[int, int]
) -> None:
    turn = np.array([[0.0, -1.3, 0.1], [1.2, 0.0, 0.0], [0.1, 0.0, 5.0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (12.0, -7.0, 3.0)
    image = kind(volume(), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Doe^Jane"
    nibabel.save(image, tmp_path / "in.nii.gz")
    run(model, tmp_path / "in.nii.gz", tmp_path / "out")
    raw = (tmp_path / "out/in_seg.nii.gz").read_bytes()
    made, stored = nibabel.load(tmp_path / "out/in_seg.nii.gz"), nibabel.load(tmp_path / "in.nii.gz")
    assert b"Doe" not in gzip.decompress(raw)
    assert type(made) is kind
    np.testing.assert_array_equal(made.affine, stored.affine)
    for name in ("pixdim", "qform_code", "sform_code", "srow_x", "quatern_b", "xyzt_units"):
        np.testing.assert_array_equal(made.header[name], stored.header[name])


def test_each_frame_of_a_cine_is_drawn(model: ReleasedModel, tmp_path: Path) -> None:
    cine = volume(1, (40, 36, 6, 3))
    write(tmp_path / "cine.nii.gz", cine, np.diag([1.4, 1.1, 6.0, 1.0]))
    (outcome,) = run(model, tmp_path / "cine.nii.gz", tmp_path / "out", Wanted(view=True))
    assert [one.frame for one in outcome.predicted] == [1, 2, 3]
    drawn = np.asarray(nibabel.load(tmp_path / "out/cine_seg.nii.gz").dataobj)
    assert drawn.shape == cine.shape
    for t in range(3):
        write(tmp_path / f"{t}.nii.gz", cine[..., t], np.diag([1.4, 1.1, 6.0, 1.0]))
        raw = NiftiReader().read(tmp_path / f"{t}.nii.gz", None)
        alone = Segmenting.of(model.segmenter(), model.manifest.data).labels(raw, tmp_path)
        np.testing.assert_array_equal(drawn[..., t], alone)


def test_a_dicom_series_is_drawn_on_its_own_grid(model: ReleasedModel, tmp_path: Path) -> None:
    write_series(tmp_path / "in/exam/t1", volume())
    (outcome,) = run(model, tmp_path / "in", tmp_path / "out")
    assert outcome.item.name == Path("exam/t1")
    drawn = nibabel.load(tmp_path / "out/exam/t1_seg.nii.gz")
    assert drawn.shape == (40, 36, 6)
    np.testing.assert_allclose(drawn.header.get_zooms(), SPACING)
    np.testing.assert_allclose(drawn.affine[:3, 3], [30.0, 40.0, 5.0])  # RAS of the first pixel's LPS position
    np.testing.assert_allclose(np.diag(drawn.affine)[:3], [-SPACING[0], -SPACING[1], SPACING[2]])


def test_a_segmentation_object_refers_to_its_series_and_holds_the_same_labels(
    model: ReleasedModel, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (fedsecure[dicom])")
    write_series(tmp_path / "in", volume())
    run(model, tmp_path / "in", tmp_path / "out", Wanted(dicom_seg=True))
    drawn = np.asarray(nibabel.load(tmp_path / "out/series_seg.nii.gz").dataobj)
    made = highdicom.seg.segread(tmp_path / "out/series_seg.dcm")
    assert made.PatientID == "MRN-0042"
    found = [value for value in (1, 2, 3) if (drawn == value).any()]
    assert [segment.SegmentLabel for segment in made.SegmentSequence] == [
        model.manifest.structures[value - 1] for value in found
    ]
    again = np.zeros_like(drawn)
    geometry = made.get_volume(combine_segments=False)
    for number, value in enumerate(found):
        again[geometry.array[..., number].transpose(2, 1, 0) == 1] = value
    flipped = again if geometry.affine[2, 0] > 0 else again[:, :, ::-1]
    np.testing.assert_array_equal(flipped, drawn)


@pytest.mark.parametrize(("modality", "said"), [("CT", "CT"), ("DOE JANE", "of another modality")])
def test_a_series_of_another_modality_is_refused(
    model: ReleasedModel, tmp_path: Path, modality: str, said: str
) -> None:
    write_series(tmp_path / "in", volume(), Modality=modality)
    (outcome,) = run(model, tmp_path / "in", tmp_path / "out")
    assert isinstance(outcome.error, DataError)
    assert outcome.error.reason == f"the series is {said}, and the model was trained on MR"
    assert not (tmp_path / "out").exists()


def test_values_of_another_modality_are_refused_unless_their_owner_says_what_they_are(
    model: ReleasedModel, tmp_path: Path
) -> None:
    write(tmp_path / "in.nii.gz", volume() - 1000, np.diag([1.4, 1.1, 6.0, 1.0]))
    (outcome,) = run(model, tmp_path / "in.nii.gz", tmp_path / "out")
    assert outcome.error is not None
    assert "--modality MR" in str(outcome.error)
    (told,) = run(model, tmp_path / "in.nii.gz", tmp_path / "out", Wanted(modality="MR"))
    assert told.error is None
    with pytest.raises(SettingsError, match="trained on MR"):
        run(model, tmp_path / "in.nii.gz", tmp_path / "other", Wanted(modality="CT"))


def test_ct_needs_values_of_air_unless_its_owner_says_that_it_is_ct(tmp_path: Path) -> None:
    base = toy()
    card = base.manifest.card.model_copy(update={"modality": "CT"})
    model = dataclasses.replace(base, manifest=base.manifest.model_copy(update={"card": card}))
    write(tmp_path / "in.nii.gz", volume(), np.diag([1.4, 1.1, 6.0, 1.0]))
    write(tmp_path / "air.nii.gz", volume() - 1000, np.diag([1.4, 1.1, 6.0, 1.0]))
    (refused,) = run(model, tmp_path / "in.nii.gz", tmp_path / "out")
    assert "--modality CT" in str(refused.error)
    (air,) = run(model, tmp_path / "air.nii.gz", tmp_path / "out")
    (told,) = run(model, tmp_path / "in.nii.gz", tmp_path / "out", Wanted(modality="CT"))
    assert air.error is told.error is None


def test_a_bad_file_does_not_stop_the_others_and_no_text_names_it(model: ReleasedModel, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/doe-jane.nii.gz", volume(), np.eye(4))
    (tmp_path / "in/doe-jane.nii.gz").write_bytes((tmp_path / "in/doe-jane.nii.gz").read_bytes()[:500])
    write(tmp_path / "in/flat.nii.gz", np.ones((20, 20, 4), np.int16), np.eye(4))
    write(tmp_path / "in/plane.nii.gz", volume()[:, :, :1], np.eye(4))
    write(
        tmp_path / "in/sagittal.nii.gz", volume(), np.array([[0, 0, 6.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    )
    write(tmp_path / "in/whole.nii.gz", volume(), np.diag([1.0, 1.0, 5.0, 1.0]))
    outcomes = run(model, tmp_path / "in", tmp_path / "out")
    assert [outcome.error is None for outcome in outcomes] == [False, False, False, False, True]
    assert "axial" in str(outcomes[3].error)
    texts = [line for o in outcomes if o.error for line in traceback.format_exception_only(o.error)]
    assert not [text for text in texts if "doe" in text or str(tmp_path) in text]
    assert not list((tmp_path / "out").rglob(".*"))


def test_nothing_is_overwritten_unasked(model: ReleasedModel, tmp_path: Path) -> None:
    write(tmp_path / "in.nii.gz", volume(), np.eye(4))
    run(model, tmp_path / "in.nii.gz", tmp_path / "out")
    before = (tmp_path / "out/in_seg.nii.gz").read_bytes()
    (tmp_path / "out/in_seg.nii.gz").write_bytes(b"corrected by hand")
    with pytest.raises(SettingsError, match="--overwrite"):
        run(model, tmp_path / "in.nii.gz", tmp_path / "out")
    assert (tmp_path / "out/in_seg.nii.gz").read_bytes() == b"corrected by hand"
    run(model, tmp_path / "in.nii.gz", tmp_path / "out", Wanted(overwrite=True))
    assert (tmp_path / "out/in_seg.nii.gz").read_bytes() == before


def test_results_do_not_go_where_the_next_call_would_take_them_for_patients(
    model: ReleasedModel, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.nii.gz", volume(), np.eye(4))
    with pytest.raises(SettingsError, match="lies in IN"):
        run(model, tmp_path / "in", tmp_path / "in/out")


def test_a_source_with_its_kind_and_a_folder_of_such_a_name_are_told_apart(
    model: ReleasedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dicom").mkdir()
    write(tmp_path / "dicom/a.nii.gz", volume(), np.eye(4))
    monkeypatch.chdir(tmp_path)
    assert [item.name for item in items("dicom")] == [Path("a")] == [item.name for item in items("folder:dicom")]
    assert place_of("folder:dicom") == place_of("dicom") == Path("dicom")
    with pytest.raises(SettingsError, match="lies in IN"):
        check(model, items("folder:dicom"), place_of("folder:dicom"), Path("dicom/out"), Wanted())


def test_two_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        write(tmp_path / name, volume(), np.eye(4))
    with pytest.raises(DataError, match="one name"):
        items(str(tmp_path))


@pytest.mark.parametrize("name", ["nothing", "readme.txt"])
def test_what_is_no_volume_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "readme.txt").write_text("no volume")
    with pytest.raises((SettingsError, DataError)):
        items(str(tmp_path / name))
