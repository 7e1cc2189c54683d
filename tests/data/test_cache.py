from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsecure.config import DataSettings
from fedsecure.data import cache
from fedsecure.data.cache import Store
from fedsecure.data.layout import FrameFiles
from fedsecure.data.nifti import write
from fedsecure.errors import DataError, SettingsError

SETTINGS = DataSettings(size=32)


@pytest.fixture
def frame(tmp_path: Path) -> FrameFiles:
    rng = np.random.default_rng(0)
    write(tmp_path / "i.nii.gz", rng.random((20, 24, 4), np.float32), np.eye(4))
    write(tmp_path / "l.nii.gz", rng.integers(0, 4, (20, 24, 4)).astype(np.uint8), np.eye(4))
    return FrameFiles(tmp_path / "i.nii.gz", tmp_path / "l.nii.gz", None, 1)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[FrameFiles]:
    """Every frame that is prepared rather than found."""
    calls: list[FrameFiles] = []
    original = cache.prepare_frame

    def count(frame: FrameFiles, *rest: object) -> object:
        calls.append(frame)
        return original(frame, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(cache, "prepare_frame", count)
    return calls


def test_a_volume_is_prepared_once_and_found_again(
    tmp_path: Path, frame: FrameFiles, counted: list[FrameFiles]
) -> None:
    first = Store(tmp_path / "c", SETTINGS).volume(frame)
    again = Store(tmp_path / "c", SETTINGS).volume(frame)
    assert len(counted) == 1
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert first.spacing_mm == again.spacing_mm
    assert first.label is not None
    for array in (first.image, first.label):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


def test_folder_and_files_are_their_owners_alone(tmp_path: Path, frame: FrameFiles) -> None:
    before = os.umask(0)
    try:
        Store(tmp_path / "above" / "c", SETTINGS).volume(frame)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "above" / "c").iterdir()}
    assert modes == {0o600}
    assert (tmp_path / "above" / "c").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"size": 48},
        {"crop": 16},
        {"orientation": "LPS"},
        {"spacing_mm": (2.0, 1.0)},
        {"structures": ("a", "b", "c", "d")},
    ],
)
def test_settings_that_change_arrays_change_the_key(
    tmp_path: Path, frame: FrameFiles, counted: list[FrameFiles], change: dict[str, object]
) -> None:
    Store(tmp_path / "c", SETTINGS).volume(frame)
    Store(tmp_path / "c", SETTINGS.model_copy(update=change)).volume(frame)
    assert len(counted) == 2


def test_settings_that_change_no_array_do_not(tmp_path: Path, frame: FrameFiles, counted: list[FrameFiles]) -> None:
    Store(tmp_path / "c", SETTINGS).volume(frame)
    same = SETTINGS.model_copy(update={"held_out": 0.5, "on_error": "exclude", "structures": ("x", "y", "z")})
    Store(tmp_path / "c", same).volume(frame)
    assert len(counted) == 1


def test_file_bytes_frame_and_format_are_in_the_key(
    tmp_path: Path, frame: FrameFiles, counted: list[FrameFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    cine = tmp_path / "cine.nii.gz"
    write(cine, np.random.default_rng(1).random((20, 24, 4, 2), np.float32), np.eye(4))
    frames = [frame, FrameFiles(frame.image, None, None, 1), FrameFiles(cine, None, 0, 1), FrameFiles(cine, None, 1, 2)]
    store = Store(tmp_path / "c", SETTINGS)
    grids = [store.volume(each) for each in frames]
    assert len(counted) == 4
    assert not np.array_equal(grids[2].image, grids[3].image)
    assert frame.label is not None
    write(frame.label, np.zeros((20, 24, 4), np.uint8), np.eye(4))
    label = Store(tmp_path / "c", SETTINGS).volume(frame).label
    assert label is not None
    assert not label.any()
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    Store(tmp_path / "c", SETTINGS).volume(frame)
    assert len(counted) == 6


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("part", ["image.npy", "label.npy", "json"])
def test_a_damaged_entry_is_noticed_and_rebuilt(
    tmp_path: Path, frame: FrameFiles, counted: list[FrameFiles], damage: Callable[[Path], None], part: str
) -> None:
    expected = np.array(Store(tmp_path / "c", SETTINGS).volume(frame).image)
    (file,) = (tmp_path / "c").glob(f"*.{part}")
    damage(file)
    np.testing.assert_array_equal(Store(tmp_path / "c", SETTINGS).volume(frame).image, expected)
    assert len(counted) == 2
    Store(tmp_path / "c", SETTINGS).volume(frame)
    assert len(counted) == 2


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, frame: FrameFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(SettingsError, match="cannot be written: No space left"):
        Store(tmp_path / "c", SETTINGS).volume(frame)
    assert list((tmp_path / "c").iterdir()) == []


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, frame: FrameFiles) -> None:
    with pytest.raises(SettingsError, match="cache folder cannot be made"):
        Store(frame.image, SETTINGS)


def test_a_missing_file_is_the_datas_fault(tmp_path: Path, frame: FrameFiles) -> None:
    frame.image.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Store(tmp_path / "c", SETTINGS).volume(frame)


def test_file_descriptors_do_not_grow_with_volumes(tmp_path: Path, frame: FrameFiles) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list a process's descriptors under /proc")
    store = Store(tmp_path / "c", SETTINGS)
    kept = [store.volume(frame)]
    before = len(list(descriptors.iterdir()))
    kept += [store.volume(frame) for _ in range(50)]
    assert len(list(descriptors.iterdir())) == before


_PREPARE = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from fedsecure.config import DataSettings
from fedsecure.data.cohort import prepare
from fedsecure.data.source import open_source

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

source = open_source("folder:" + sys.argv[1])
kept = prepare(source.select(range(2)), DataSettings(size=128), Path(sys.argv[2]), b"s" * 32)
start = anonymous()
kept = prepare(source, DataSettings(size=128), Path(sys.argv[2]), b"s" * 32)
print(sum(v.image.nbytes + v.label.nbytes for s in kept.subjects for v in s.volumes), (anonymous() - start) * 1024)
"""


def test_processes_share_a_cache_and_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell a process's anonymous memory under /proc")
    rng = np.random.default_rng(0)
    for number in range(25):
        folder = tmp_path / "in" / f"p{number:02d}"
        folder.mkdir(parents=True)
        write(folder / "a.nii.gz", rng.integers(0, 255, (64, 64, 24)).astype(np.uint8), np.eye(4))
        write(folder / "a_gt.nii.gz", rng.integers(0, 4, (64, 64, 24)).astype(np.uint8), np.eye(4))
    command = [sys.executable, "-c", _PREPARE, str(tmp_path / "in"), str(tmp_path / "c")]
    # Arrays go back to the system when freed, so that what grows is what is held and not what malloc keeps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    for output in outputs:
        held, grown = map(int, output.split())
        assert held > 45e6
        assert grown < 10e6
    names = {path.name.partition(".")[2] for path in (tmp_path / "c").iterdir()}
    assert names == {"image.npy", "label.npy", "json"}  # no temporary file is left
    assert len(list((tmp_path / "c").iterdir())) == 3 * 25
