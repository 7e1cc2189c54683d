"""Dice of a segmenter on the held-out patients of a site: per structure and patient, at the last step of training.

Never the best step on these patients: keeping that one is a bias the published code line has (docs/method.md 5, traps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from fedsecure.learning.job import Job
from fedsecure.learning.model import Segmenter
from fedsecure.progress import Measured, Observe, Scored
from fedsecure.types import FloatArray, Flow, LabelArray, Subject, Update, Volume

CHUNK = 32  # slices predicted at once: bounds memory however long a volume is
PICTURED = 2  # held-out subjects shown in the site's own report

Scores = npt.NDArray[np.float64]
Pictures = Mapping[str, LabelArray]


def dice(prediction: LabelArray, label: LabelArray, structures: int) -> Scores:
    """3D Dice of each structure: 2|P and L| / (|P| + |L|), [structures]; arrays are [Z, H, W] of 0..structures.

    NaN, not counted, where a structure is in neither; 0 where it is in one alone. MONAI's metric offers two ways out
    for a structure the label lacks, not counted whatever is predicted, or 1 where rightly left out: the first forgives
    what is made up, the second rewards a score for structures that are not there.
    """
    values = np.arange(1, structures + 1)[:, None]
    predicted, true = prediction.ravel() == values, label.ravel() == values
    both, total = (predicted & true).sum(1), predicted.sum(1) + true.sum(1)
    scores: Scores = np.divide(2.0 * both, total, out=np.full(structures, np.nan), where=total > 0)
    return scores


def predict(segmenter: Segmenter, volume: Volume) -> LabelArray:
    """The label of each pixel, uint8 [Z, H, W]."""
    device = next(segmenter.parameters()).device
    segmenter.eval()
    planes = []
    with torch.inference_mode():
        for start in range(0, len(volume.image), CHUNK):
            image = torch.from_numpy(np.array(volume.image[start : start + CHUNK])).unsqueeze(1)
            planes.append(segmenter(image.to(device)).argmax(1).to(torch.uint8).cpu().numpy())
    return np.concatenate(planes)


def score(
    segmenter: Segmenter, job: Job, held_out: Sequence[Subject], observe: Observe, step: Callable[[], None]
) -> tuple[tuple[Update, ...], Pictures]:
    """Dice of the held-out subjects, told to `observe`; the METRICS update, if the study releases one; pictures.

    One volume is in memory at a time. A subject without labels is passed over. `step` is called after each subject.
    """
    structures = len(job.study.data.structures)
    patients: list[Scores] = []
    pictures: dict[str, LabelArray] = {}
    for subject in held_out:
        rows: list[Scores] = []
        for volume in subject.volumes:
            if volume.label is None:
                continue
            prediction = predict(segmenter, volume)
            if not rows and len(patients) < PICTURED:
                pictures |= _picture(len(patients), volume.image, volume.label, prediction)
            rows.append(dice(prediction, volume.label, structures))
        if rows:
            patients.append(mean_of_counted(np.stack(rows)))
            _tell(job, subject, patients[-1], observe)
        step()
    if not patients:
        return (), {}
    site = mean_of_counted(np.stack(patients))
    if np.isfinite(site).any():
        observe(Measured(stage=job.stage_index, round=job.round, metric="dice_mean", value=float(np.nanmean(site))))
    return _release(job, site), pictures


def mean_of_counted(rows: Scores) -> Scores:
    """Mean over the rows of [rows, structures], leaving out NaN; NaN for a structure that no row counts."""
    counted = np.isfinite(rows)
    number = counted.sum(0)
    total = np.where(counted, rows, 0.0).sum(0)
    mean: Scores = np.divide(total, number, out=np.full(rows.shape[1], np.nan), where=number > 0)
    return mean


def _tell(job: Job, subject: Subject, row: Scores, observe: Observe) -> None:
    for structure, value in zip(job.study.data.structures, row, strict=True):
        if np.isfinite(value):
            observe(
                Scored(
                    stage=job.stage_index, round=job.round, subject=subject.id, structure=structure, dice=float(value)
                )
            )


def _release(job: Job, site: Scores) -> tuple[Update, ...]:
    # All or nothing: a number in place of a structure that no held-out patient has would be made up, and a hole does
    # not fit the schema.
    if not job.study.release_metrics or not np.isfinite(site).all():
        return ()
    return (Update(Flow.METRICS, {"dice": site.astype(np.float32)}),)


def _picture(number: int, image: FloatArray, label: LabelArray, prediction: LabelArray) -> dict[str, LabelArray]:
    """The middle slice, for the site's own report: it stays on the site."""
    z = len(image) // 2
    return {
        f"{number}/image": _grey(image[z]),
        f"{number}/label": np.array(label[z]),
        f"{number}/prediction": prediction[z],
    }


def _grey(plane: FloatArray) -> npt.NDArray[np.uint8]:
    low, high = np.percentile(plane, [1, 99])
    unit = (np.asarray(plane, dtype=np.float64) - low) / max(high - low, 1e-6)
    grey: LabelArray = (255 * np.clip(unit, 0, 1)).round().astype(np.uint8)
    return grey
