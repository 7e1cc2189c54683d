from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsecure.data.nifti import write
from fedsecure.errors import SettingsError
from sim.reproduce.sources import describe


def patients(root: Path, labels: dict[str, int], groups: dict[str, str] | None = None) -> str:
    """A Decathlon folder; the value is the largest in each patient's label."""
    for name, value in labels.items():
        for part in ("images", "labels"):
            (root / part).mkdir(parents=True, exist_ok=True)
        image = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
        write(root / "images" / f"{name}.nii.gz", image, np.eye(4))
        write(root / "labels" / f"{name}.nii.gz", np.minimum(image, value).astype(np.uint8), np.eye(4))
    if groups is not None:
        rows = "".join(f"{name},{group}\n" for name, group in groups.items())
        (root / "volumes.csv").write_text(f"case,kind_group\n{rows}")
    return f"msd:{root}"


def test_structures_that_a_source_does_not_name_are_counted_in_its_labels(tmp_path: Path) -> None:
    found = describe(patients(tmp_path, {"a": 1, "b": 3}))
    assert found.structures == ("structure 1", "structure 2", "structure 3")
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "background", "1": "X", "2": "Y", "3": "Z"}}')
    assert describe(f"msd:{tmp_path}").structures == ("X", "Y", "Z")


def test_labels_without_a_structure_or_no_labels_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="hold no structure"):
        describe(patients(tmp_path / "empty", {"a": 0}))
    address = patients(tmp_path / "bare", {"a": 1})
    (tmp_path / "bare/labels/a.nii.gz").unlink()
    with pytest.raises(SettingsError, match="no patient of this source has a label"):
        describe(address)


def test_groups_are_natural_sites_where_each_could_be_a_hospital(tmp_path: Path) -> None:
    names = dict.fromkeys("abcd", 1)
    assert describe(patients(tmp_path, names, {"a": "X", "b": "X", "c": "Y", "d": "Y"})).natural_sites == 2
    assert describe(patients(tmp_path, names, {"a": "X", "b": "X", "c": "X", "d": "Y"})).natural_sites is None
    assert describe(patients(tmp_path, names, {"a": "X"})).natural_sites is None


def test_a_copy_elsewhere_has_the_same_fingerprint_and_another_patient_another(tmp_path: Path) -> None:
    one, two = (describe(patients(tmp_path / name, {"a": 1, "b": 1})) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    assert describe(patients(tmp_path / "two", {"c": 1})).fingerprint != one.fingerprint
    assert "one" not in repr(one)


def test_phantoms_need_no_files() -> None:
    found = describe("phantom")
    assert (found.address, found.kind, len(found.structures)) == (None, "phantom", 3)


def test_the_real_hippocampus_has_three_natural_sites_and_two_structures(hippocampus: Path) -> None:
    found = describe(f"msd:{hippocampus}")
    assert (found.natural_sites, len(found.structures), found.patients) == (3, 2, 260)
