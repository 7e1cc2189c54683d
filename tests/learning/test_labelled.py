from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.learning.labelled import EMPTY_SHARE, Slices, choose
from fedsecure.types import Subject, Volume


def _volume(slices: int, shown: int, *, labelled: bool = True, first: int = 0) -> Volume:
    """Slice z holds the value first + z everywhere; the first `shown` slices show structure 1."""
    image = np.broadcast_to(np.arange(first, first + slices, dtype=np.float32)[:, None, None], (slices, 8, 8))
    label = np.zeros((slices, 8, 8), np.uint8)
    label[:shown, 2:4] = 1
    return Volume("s", 0, image, label if labelled else None, (10.0, 1.5, 1.5))


def _subject(name: str, *, labelled: bool = True) -> Subject:
    return Subject(name, None, (_volume(3, 2, labelled=labelled),))


@given(st.integers(0, 12), st.integers(0, 5), st.integers(0, 2**62))
def test_choices_are_nested_labelled_and_repeat(patients: int, unlabelled: int, seed: int) -> None:
    subjects = [_subject(f"u{i}", labelled=False) for i in range(unlabelled)] + [
        _subject(f"l{i}") for i in range(patients)
    ]
    for fewer in range(patients + 2):
        chosen = choose(subjects, fewer, seed)
        assert len(chosen) == min(fewer, patients) == len({subject.id for subject in chosen})
        assert all(subject.labelled for subject in chosen)
        assert choose(subjects, fewer + 1, seed)[: len(chosen)] == chosen
        assert choose(subjects, fewer, seed) == chosen


def test_the_seed_decides_and_the_ids_do_not() -> None:
    first = {choose([_subject(f"a{i}") for i in range(10)], 1, seed)[0].id for seed in range(200)}
    assert len(first) == 10
    renamed = [choose([_subject(name + str(i)) for i in range(10)], 4, 3) for name in ("a", "z")]
    assert [subject.id[1:] for subject in renamed[0]] == [subject.id[1:] for subject in renamed[1]]


def test_a_site_without_labels_chooses_nobody() -> None:
    assert choose([_subject("a", labelled=False)], 4, 0) == ()
    with pytest.raises(ValueError, match="no labelled volume"):
        Slices.of([_subject("a", labelled=False)])


def test_image_and_label_of_a_draw_are_of_the_same_slice() -> None:
    subject = Subject("a", None, (_volume(4, 2), _volume(5, 5, labelled=False), _volume(3, 1, first=100)))
    slices = Slices.of([subject])
    image, label = slices.draw(500, torch.Generator().manual_seed(0))
    assert (image.shape, image.dtype) == ((500, 1, 8, 8), torch.float32)
    assert (label.shape, label.dtype) == ((500, 8, 8), torch.uint8)
    value = image[:, 0, 0, 0]
    assert set(value.tolist()) == {0, 1, 2, 3, 100, 101, 102}  # none of the volume without a label
    shown = torch.isin(value, torch.tensor([0.0, 1.0, 100.0]))
    assert torch.equal(label.flatten(1).any(1), shown)


def test_the_same_generator_draws_the_same_slices() -> None:
    slices = Slices.of([_subject("a")])
    one, two, other = (slices.draw(64, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("slices", "shown", "empty_share"),
    [(10, 8, 0.2), (10, 10, 0.0), (100, 10, EMPTY_SHARE), (10, 0, 1.0)],
    ids=["few empty: as they come", "none empty", "mostly empty: held down", "all empty: nothing else to draw"],
)
def test_slices_without_structure_do_not_dominate(slices: int, shown: int, empty_share: float) -> None:
    shares = Slices.of([Subject("a", None, (_volume(slices, shown),))]).shares
    assert float(shares.sum()) == pytest.approx(1)
    assert float(shares[shown:].sum()) == pytest.approx(empty_share)
    assert len(set(shares[:shown].tolist())) <= 1
