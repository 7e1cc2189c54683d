from __future__ import annotations

import hashlib
import hmac
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.config import DataSettings
from fedsecure.data.cohort import check_disjoint, content_digest, divide, load_salt, prepare, split
from fedsecure.data.layout import FrameFiles, Patient, Source
from fedsecure.data.nifti import write
from fedsecure.data.source import open_source
from fedsecure.errors import DataError
from fedsecure.types import Cohort, Subject, Volume

SALT = bytes(range(32))
STOP = DataSettings(size=32)
EXCLUDE = DataSettings(size=32, on_error="exclude")


def subject(name: str, value: float) -> Subject:
    image = np.full((2, 4, 4), value, np.float32)
    return Subject(name, None, (Volume(name, 1, image, None, (1.0, 1.0, 1.0)),))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ann", "bob", "cyd"):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        for frame in ("ED", "ES"):
            write(folder / f"{frame}.nii.gz", rng.random((20, 24, 4), np.float32), np.eye(4))
    return tmp_path / "in"


def test_ids_are_keyed_by_the_salt_and_keep_the_sources_order(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepared = prepare(
        open_source(f"folder:{source}"), STOP, tmp_path / "c", SALT, lambda done, total: seen.append((done, total))
    )
    assert [found.id for found in prepared.subjects] == [
        "s-" + hmac.new(SALT, name, hashlib.sha256).hexdigest()[:12] for name in (b"ann", b"bob", b"cyd")
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    other = prepare(open_source(f"folder:{source}"), STOP, tmp_path / "c", bytes(32))
    assert not {found.id for found in other.subjects} & {found.id for found in prepared.subjects}
    for found in prepared.subjects:
        assert all(volume.subject == found.id for volume in found.volumes)


def test_stop_raises_the_first_error_with_the_file_for_its_owner_only(source: Path, tmp_path: Path) -> None:
    (source / "bob" / "ED.nii.gz").write_bytes(b"broken")
    with pytest.raises(DataError, match="gzip") as caught:
        prepare(open_source(f"folder:{source}"), STOP, tmp_path / "c", SALT)
    assert "bob" not in str(caught.value)
    assert "bob" not in repr(caught.value)
    assert "bob/ED.nii.gz" in caught.value.for_owner()


def test_exclude_leaves_out_the_file_and_a_patient_without_any(source: Path, tmp_path: Path) -> None:
    (source / "ann" / "ES.nii.gz").write_bytes(b"broken")
    for name in ("ED", "ES"):
        (source / "bob" / f"{name}.nii.gz").write_bytes(b"broken")
    prepared = prepare(open_source(f"folder:{source}"), EXCLUDE, tmp_path / "c", SALT)
    assert [len(found.volumes) for found in prepared.subjects] == [1, 2]
    assert prepared.subjects[0].volumes[0].frame == 1
    assert len(prepared.excluded) == 3


def test_nothing_left_is_an_error(source: Path, tmp_path: Path) -> None:
    for file in source.rglob("*.nii.gz"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match="no patient of this source can be used; the first of 6 reasons: the gzip"):
        prepare(open_source(f"folder:{source}"), EXCLUDE, tmp_path / "c", SALT)
    with pytest.raises(DataError, match="no patient is selected"):
        prepare(Source((), None), EXCLUDE, tmp_path / "c", SALT)


def test_a_patient_without_a_volume_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "patient001").mkdir()
    with pytest.raises(DataError, match="a patient has no volume") as caught:
        prepare(open_source(f"acdc:{tmp_path}"), STOP, tmp_path / "c", SALT)
    assert "patient001" in caught.value.for_owner()


@pytest.mark.parametrize("recompressed", [False, True])
def test_a_copy_of_a_patient_is_found_under_another_name(source: Path, tmp_path: Path, recompressed: bool) -> None:
    shutil.copytree(source / "ann", source / "zoe")
    if recompressed:
        image = np.asarray(np.random.default_rng(0).random((20, 24, 4), np.float32))
        (source / "zoe" / "ED.nii.gz").unlink()
        write(source / "zoe" / "ED.nii", image, np.eye(4))
    opened = open_source(f"folder:{source}")
    with pytest.raises(DataError, match="those of another patient, byte for byte") as caught:
        prepare(opened, STOP, tmp_path / "c", SALT)
    assert "zoe" in caught.value.for_owner()
    prepared = prepare(opened, EXCLUDE, tmp_path / "c", SALT)
    assert len(prepared.subjects) == 3
    assert len(prepared.excluded) == 1


def test_one_name_twice_is_found(source: Path, tmp_path: Path) -> None:
    frames = [FrameFiles(source / name / "ED.nii.gz", None, None, 1) for name in ("ann", "bob")]
    twice = Source(tuple(Patient("same", None, (frame,)) for frame in frames), None)
    with pytest.raises(DataError, match="name stands twice"):
        prepare(twice, STOP, tmp_path / "c", SALT)
    assert len(prepare(twice, EXCLUDE, tmp_path / "c", SALT).subjects) == 1


@given(count=st.integers(2, 60), held_out=st.floats(0.01, 0.99), seed=st.integers(0, 2**63 - 1))
def test_a_split_is_a_partition_in_order_with_both_sides(count: int, held_out: float, seed: int) -> None:
    subjects = tuple(subject(f"s-{position}", position) for position in range(count))
    cohort = split(subjects, held_out, seed)
    assert cohort == split(subjects, held_out, seed)
    sides = [[int(found.id[2:]) for found in side] for side in (cohort.train, cohort.held_out)]
    assert sorted(sides[0] + sides[1]) == list(range(count))
    assert all(side and side == sorted(side) for side in sides)
    assert len(sides[1]) == min(max(round(held_out * count), 1), count - 1)


def test_a_split_depends_on_the_seed_and_not_on_the_salted_ids() -> None:
    one = tuple(subject(f"s-{position}", position) for position in range(20))
    other = tuple(subject(f"s-x{position}", position) for position in range(20))
    values = [
        [float(found.volumes[0].image[0, 0, 0]) for found in split(subjects, 0.3, 5).held_out]
        for subjects in (one, other)
    ]
    assert values[0] == values[1]
    assert len({tuple(found.id for found in split(one, 0.3, seed).held_out) for seed in range(20)}) > 10


def test_folds_hold_out_every_patient_once() -> None:
    subjects = tuple(subject(f"s-{position}", position) for position in range(11))
    held = [found.id for k in range(5) for found in split(subjects, 0.3, 4, (k, 5)).held_out]
    assert sorted(held) == sorted(found.id for found in subjects)
    for k in range(5):
        cohort = split(subjects, 0.3, 4, (k, 5))
        assert len(cohort.train) + len(cohort.held_out) == 11
        assert len(cohort.held_out) in (2, 3)
    with pytest.raises(DataError, match="4 patients of a site cannot be cut into 5 folds"):
        split(subjects[:4], 0.3, 4, (0, 5))


@given(count=st.integers(3, 40), seed=st.integers(0, 2**63 - 1), k=st.none() | st.integers(0, 2))
def test_validation_patients_come_from_the_training_side_and_train_nobody(count: int, seed: int, k: int | None) -> None:
    subjects = tuple(subject(f"s-{position}", position) for position in range(count))
    fold = None if k is None else (k, 3)
    scored, validated = (
        divide(subjects, DataSettings(judged=judged, fold=fold), seed) for judged in ("held-out", "validation")
    )
    held_out = {found.id for found in scored.held_out}
    assert scored == split(subjects, 0.3, seed, fold)
    assert validated.train
    assert validated.held_out
    assert not held_out & {found.id for found in (*validated.train, *validated.held_out)}
    assert {found.id for found in (*validated.train, *validated.held_out)} == {found.id for found in scored.train}


def test_two_patients_cannot_be_trained_on_validated_and_held_out() -> None:
    pair = (subject("s-1", 1), subject("s-2", 2))
    assert divide(pair, DataSettings(), 0).held_out
    with pytest.raises(DataError, match="needs three patients or more"):
        divide(pair, DataSettings(judged="validation"), 0)


def test_a_site_with_one_patient_cannot_be_split() -> None:
    for subjects in ((), (subject("s-1", 1),)):
        with pytest.raises(DataError, match=r"needs two patients or more.*add patients"):
            split(subjects, 0.3, 0)


def test_a_patient_on_both_sides_is_found_by_id_and_by_content() -> None:
    check_disjoint(Cohort((subject("s-1", 1),), (subject("s-2", 2),)))
    with pytest.raises(DataError, match="a patient is both"):
        check_disjoint(Cohort((subject("s-1", 1),), (subject("s-1", 2),)))
    with pytest.raises(DataError, match="an image is both"):
        check_disjoint(Cohort((subject("s-1", 1),), (subject("s-2", 1),)))


def test_the_real_cohorts_hold_no_copy(acdc: Path, hippocampus: Path, tmp_path: Path) -> None:
    for uri, names, patients, volumes in (
        (f"acdc:{acdc}", ("RV", "myocardium", "LV"), 69, 138),
        (f"msd:{hippocampus}", ("anterior", "posterior"), 260, 260),
    ):
        prepared = prepare(open_source(uri), DataSettings(structures=names), tmp_path, SALT)
        assert len(prepared.subjects) == patients
        found = [volume for each in prepared.subjects for volume in each.volumes]
        assert len({content_digest(volume) for volume in found}) == volumes
        assert all(np.isfinite(volume.image).all() for volume in found)
        cohort = split(prepared.subjects, 0.3, 0)
        assert (len(cohort.train), len(cohort.held_out)) == (patients - round(0.3 * patients), round(0.3 * patients))


def test_the_salt_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "node" / "salt"
    with ThreadPoolExecutor(8) as pool:
        salts = set(pool.map(lambda _: load_salt(path), range(16)))
    assert len(salts) == 1
    assert len(salts.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["salt"]
    assert load_salt(tmp_path / "other") != load_salt(path)


def test_a_damaged_or_unreadable_salt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "salt").write_bytes(b"short")
    with pytest.raises(DataError, match="damaged"):
        load_salt(tmp_path / "salt")
    with pytest.raises(DataError, match="cannot be read or made: Is a directory"):
        load_salt(tmp_path)
