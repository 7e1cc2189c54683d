from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fedsecure.config import DataSettings
from fedsecure.data.cohort import prepare
from fedsecure.data.phantom import write_phantom
from fedsecure.data.source import open_source
from fedsecure.data.volume import FrameReader
from fedsecure.types import Subject

SALT = bytes(32)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folders = tuple(tmp_path_factory.mktemp(f"site{site}") for site in range(3))
    for site, folder in enumerate(folders):
        write_phantom(folder, 4, seed=7, site=site)
    return folders


def subjects(folder: Path, cache: Path) -> tuple[Subject, ...]:
    return prepare(open_source(f"folder:{folder}"), DataSettings(size=128), cache, SALT).subjects


def test_a_phantom_is_a_plain_folder_with_named_structures(sites: tuple[Path, ...]) -> None:
    source = open_source(f"folder:{sites[0]}")
    assert [len(patient.frames) for patient in source.patients] == [2, 2, 2, 2]
    assert all(frame.label for patient in source.patients for frame in patient.frames)
    assert source.structures == DataSettings().structures


def test_anatomy_is_a_heart(sites: tuple[Path, ...], tmp_path: Path) -> None:
    for folder in sites:
        for subject in subjects(folder, tmp_path):
            diastole, systole = (volume.label for volume in subject.volumes)
            assert diastole is not None
            assert systole is not None
            assert 8 <= len(diastole) <= 12
            for value in (1, 2, 3):
                area = (diastole == value).sum((1, 2))
                assert area[0] > area[-1]  # base to apex
                assert area[0] > 40
            assert 0.2 < (systole == 3).sum() / (diastole == 3).sum() < 0.75
            ring = diastole[0] == 2
            rows, columns = np.nonzero(diastole[0] == 3)
            # The cavity lies inside its ring: myocardium on all four sides of its centre.
            y, x = int(rows.mean()), int(columns.mean())
            assert all(part.any() for part in (ring[:y, x], ring[y:, x], ring[y, :x], ring[y, x:]))


def test_the_seed_decides_every_voxel(sites: tuple[Path, ...], tmp_path: Path) -> None:
    for seed, site, same in ((7, 0, True), (8, 0, False), (7, 1, False)):
        folder = tmp_path / f"{seed}-{site}"
        write_phantom(folder, 1, seed, site)
        one, other = (open_source(f"folder:{root}").patients[0].frames[0] for root in (folder, sites[0]))
        images = [FrameReader().image(frame).voxels for frame in (one, other)]
        assert (images[0].shape == images[1].shape and np.array_equal(*images)) is same


def test_a_scanner_and_its_patients_draw_from_streams_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy pads a list of seeds with zeros: [seed, site] and [seed, site, 0] are one stream."""
    starts: list[float] = []
    original = np.random.default_rng

    def watched(seed: object) -> np.random.Generator:
        starts.append(original(seed).random())
        return original(seed)

    monkeypatch.setattr(np.random, "default_rng", watched)
    for site in range(2):
        write_phantom(tmp_path / str(site), 2, seed=7, site=site, size=32)
    assert len(starts) == 6
    assert len(set(starts)) == 6


def test_sites_differ_more_than_their_patients(sites: tuple[Path, ...]) -> None:
    backgrounds = []
    for folder in sites:
        frames = [patient.frames[0] for patient in open_source(f"folder:{folder}").patients]
        raws = [FrameReader().image(frame) for frame in frames]
        assert len({raw.spacing_mm for raw in raws}) == 1  # one scanner
        backgrounds.append((raws[0].spacing_mm, np.mean([raw.voxels[:4, :4].mean() for raw in raws])))
    assert len({spacing for spacing, _ in backgrounds}) == 3


def test_threshold_alone_does_not_segment_it(sites: tuple[Path, ...], tmp_path: Path) -> None:
    for subject in subjects(sites[0], tmp_path):
        volume = subject.volumes[0]
        assert volume.label is not None
        blood = np.isin(volume.label, (1, 3))
        dice = [
            2 * (blood & (volume.image > cut)).sum() / (blood.sum() + (volume.image > cut).sum())
            for cut in np.linspace(-1, 3, 30)
        ]
        assert max(dice) < 0.7


def test_a_volume_takes_milliseconds(tmp_path: Path) -> None:
    write_phantom(tmp_path, 1, 0)
    start = time.process_time()
    write_phantom(tmp_path, 10, 0)
    assert (time.process_time() - start) / 20 < 0.06  # 0.03 s on an idle core
