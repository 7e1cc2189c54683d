from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import DiceHelper

from fedsecure.config import DataSettings, FinetuneSettings, Member, SecuritySettings, Study
from fedsecure.learning.evaluate import CHUNK, dice, mean_of_counted, predict, score
from fedsecure.learning.job import Job
from fedsecure.progress import Measured, Progress, Scored, ignore
from fedsecure.types import Flow, Subject, Volume

NAMES = ("disc", "ring")


def _labels(*values: int) -> np.ndarray:
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_dice_by_hand() -> None:
    # Structure 1: 2 predicted, 3 true, 2 in both: 4/5. Structure 2: 1 and 2, 1 in both: 2/3. Structure 3: in neither.
    result = dice(_labels(1, 1, 0, 2, 0, 0), _labels(1, 1, 1, 2, 2, 0), 3)
    np.testing.assert_allclose(result, [4 / 5, 2 / 3, np.nan])


def test_a_structure_made_up_or_missed_scores_nothing() -> None:
    np.testing.assert_array_equal(dice(_labels(1, 0), _labels(0, 2), 2), [0, 0])


@given(arrays(np.uint8, (2, 3, 4, 4), elements=st.integers(0, 3)))
def test_agrees_with_monai_where_the_label_has_the_structure(both: np.ndarray) -> None:
    prediction, label = both
    helper = DiceHelper(include_background=False, reduction="none", num_classes=4, get_not_nans=False)
    expected = helper(torch.from_numpy(prediction)[None, None], torch.from_numpy(label)[None, None])[0].numpy()
    present = np.isfinite(expected)
    np.testing.assert_allclose(dice(prediction, label, 3)[present], expected[present], rtol=1e-6)


def test_means_leave_out_what_is_not_counted() -> None:
    rows = np.array([[1.0, np.nan, np.nan], [0.5, 0.2, np.nan]])
    np.testing.assert_allclose(mean_of_counted(rows), [0.75, 0.2, np.nan])


class _Oracle(torch.nn.Module):
    """Predicts the image's own rounded value."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.largest = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, len(x))
        return torch.nn.functional.one_hot(x[:, 0].round().long(), 3).movedim(-1, 1).float()


def _volume(prediction: np.ndarray, label: np.ndarray | None) -> Volume:
    return Volume("p", 0, prediction.astype(np.float32), label, (10.0, 1.5, 1.5))


def _job(*, release: bool = False) -> Job:
    study = Study(
        sites=(Member(name="a", weight=1),),
        security=SecuritySettings(secagg=False),
        release_metrics=release,
        data=DataSettings(structures=NAMES),
        finetune=FinetuneSettings(modes=("local",), labelled=(1,)),
    )
    return Job(study, "a", 1, 0, {}, {}, {})


def _score(subjects: list[Subject], *, release: bool = False):
    events: list[Progress] = []
    steps: list[int] = []
    updates, pictures = score(_Oracle(), _job(release=release), subjects, events.append, lambda: steps.append(1))
    assert len(steps) == len(subjects)
    scored = {(e.subject, e.structure): e.dice for e in events if isinstance(e, Scored)}
    return updates, pictures, scored, [e.value for e in events if isinstance(e, Measured) and e.metric == "dice_mean"]


def _two_patients() -> list[Subject]:
    perfect = _volume(_labels(1, 1, 2, 0), _labels(1, 1, 2, 0))
    half = _volume(_labels(1, 0, 2, 0), _labels(1, 1, 1, 0))  # disc 2/4, ring made up: 0
    lacking = _volume(_labels(1, 0, 0, 0), _labels(1, 0, 0, 0))  # ring in neither: not counted
    unlabelled = _volume(_labels(0, 0, 0, 0), None)
    return [Subject("x", None, (perfect, half, unlabelled)), Subject("y", None, (lacking,))]


def test_scores_are_means_over_a_patients_volumes_then_over_patients() -> None:
    updates, _, scored, mean = _score(_two_patients())
    assert scored == {("x", "disc"): 0.75, ("x", "ring"): 0.5, ("y", "disc"): 1.0}
    assert mean == [pytest.approx((0.875 + 0.5) / 2)]
    assert updates == ()


def test_the_sites_mean_leaves_only_where_the_study_says_so() -> None:
    (update,), *_ = _score(_two_patients(), release=True)
    assert update.flow is Flow.METRICS
    np.testing.assert_allclose(update.arrays["dice"], [0.875, 0.5])
    assert update.arrays["dice"].dtype == np.float32


def test_no_number_is_made_up_for_a_structure_that_nobody_has() -> None:
    updates, _, scored, mean = _score(_two_patients()[1:], release=True)
    assert (updates, scored, mean) == ((), {("y", "disc"): 1.0}, [1.0])


@pytest.mark.parametrize(
    "subjects", [[], [Subject("x", None, (_volume(_labels(0), None),))]], ids=["nobody", "no label"]
)
def test_nothing_to_score_is_a_defined_outcome(subjects: list[Subject]) -> None:
    assert _score(subjects, release=True) == ((), {}, {}, [])


def test_pictures_are_the_middle_slices_of_two_patients() -> None:
    planes = np.stack([np.full((4, 6), z % 3, np.uint8) for z in range(5)])
    planes[:, 0] = 1
    subjects = [Subject(name, None, (_volume(planes, planes[::-1]),)) for name in "xyz"]
    _, pictures, *_ = _score(subjects)
    assert set(pictures) == {f"{k}/{part}" for k in (0, 1) for part in ("image", "label", "prediction")}
    assert all(picture.dtype == np.uint8 and picture.shape == (4, 6) for picture in pictures.values())
    np.testing.assert_array_equal(pictures["0/prediction"], planes[2])
    np.testing.assert_array_equal(pictures["0/label"], planes[::-1][2])
    assert (pictures["0/image"].min(), pictures["0/image"].max()) == (0, 255)


def test_a_long_volume_is_predicted_in_chunks(tmp_path) -> None:
    planes = np.arange(2 * CHUNK + 5, dtype=np.float32)[:, None, None] % 3 * np.ones((4, 4), np.float32)
    np.save(tmp_path / "image.npy", planes)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    oracle = _Oracle()
    np.testing.assert_array_equal(predict(oracle, _volume(mapped, None)), planes)
    assert oracle.largest == CHUNK


def test_the_observer_may_look_away() -> None:
    assert score(_Oracle(), _job(), _two_patients(), ignore, lambda: None)[0] == ()
