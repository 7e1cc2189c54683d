from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedsecure.errors import SettingsError
from fedsecure.learning.partition import partition_labels
from fedsecure.learning.slices import SliceIndex
from fedsecure.types import Subject, Volume


def _volume(slices: int, mark: int) -> Volume:
    """Every pixel of slice z is 100 mark + z, so that a slice read tells where it came from."""
    image = np.tile((100 * mark + np.arange(slices, dtype=np.float32))[:, None, None], (1, 4, 4))
    return Volume(f"s{mark}", 0, image, None, (1.0, 1.0, 1.0))


def _subjects(count: int, slices: int = 8) -> list[Subject]:
    return [Subject(f"s{i}", None, (_volume(slices, i),)) for i in range(count)]


def test_every_slice_once_with_its_patient_place_and_partition() -> None:
    index = SliceIndex([Subject("a", None, (_volume(5, 0), _volume(8, 1))), *_subjects(3)[2:]], 4)
    read = list(index.in_order(6))
    values = np.concatenate([batch.images[:, 0, 0, 0] for batch in read])
    assert values.tolist() == [*range(5), *range(100, 108), *range(200, 208)]
    assert len(index) == 21
    assert [len(batch.partitions) for batch in read] == [6, 6, 6, 3]
    assert np.concatenate([batch.subjects for batch in read]).tolist() == [0] * 13 + [1] * 8
    expected = np.concatenate([partition_labels(n, 4) for n in (5, 8, 8)])
    assert np.concatenate([batch.partitions for batch in read]).tolist() == expected.tolist()


def test_stratified_batches_hold_every_partition_of_different_patients() -> None:
    index = SliceIndex(_subjects(6), 4)
    for batch in index.batches(16, 20, stratified=True, seed=1):
        assert Counter(batch.partitions.tolist()) == {0: 4, 1: 4, 2: 4, 3: 4}
        pairs = set(zip(batch.subjects.tolist(), batch.partitions.tolist(), strict=True))
        assert len(pairs) == 16  # four patients, none twice in a partition
        assert (batch.images[:, 0, 0, 0] // 100 == batch.subjects).all()


def test_stratified_reaches_every_slice_also_when_the_batch_is_no_multiple() -> None:
    index = SliceIndex(_subjects(3), 4)
    seen = {int(v) for b in index.batches(6, 100, stratified=True, seed=0) for v in b.images[:, 0, 0, 0]}
    assert seen == {100 * s + z for s in range(3) for z in range(8)}


def test_one_patient_with_fewer_slices_than_partitions_still_fills_a_batch() -> None:
    index = SliceIndex(_subjects(1, slices=2), 4)
    (batch,) = index.batches(10, 1, stratified=True, seed=0)
    assert batch.images.shape == (10, 1, 4, 4)
    assert set(batch.partitions.tolist()) == {0, 1}


def test_uniform_draws_without_repetition_while_it_can() -> None:
    index = SliceIndex(_subjects(2), 4)
    rng = np.random.default_rng(0)
    assert sorted(index.uniform(16, rng).tolist()) == list(range(16))
    assert len(index.uniform(20, rng)) == 20


@pytest.mark.parametrize("stratified", [True, False])
def test_the_seed_alone_decides_the_batches(stratified: bool) -> None:
    index = SliceIndex(_subjects(4), 4)

    def draws(seed: int) -> list[list[float]]:
        return [b.images[:, 0, 0, 0].tolist() for b in index.batches(8, 5, stratified=stratified, seed=seed)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_reads_only_the_slices_of_the_batch(tmp_path: Path) -> None:
    class Counting(np.ndarray):
        touched = 0

        def __getitem__(self, item):  # type: ignore[no-untyped-def]  # a spy on NumPy's own
            Counting.touched += 1
            return np.asarray(super().__getitem__(item))

    np.save(tmp_path / "volume.npy", _volume(8, 0).image)
    image = np.load(tmp_path / "volume.npy", mmap_mode="r").view(Counting)
    index = SliceIndex([Subject("a", None, (Volume("a", 0, image, None, (1.0, 1.0, 1.0)),))], 4)
    Counting.touched = 0
    index.read(np.array([1, 5, 7]))
    assert Counting.touched == 3


def test_no_volume_is_the_operators_affair() -> None:
    with pytest.raises(SettingsError, match="no volume to train on"):
        SliceIndex([Subject("a", None, ())], 4)
