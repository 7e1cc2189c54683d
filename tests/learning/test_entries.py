"""Patients' entries: whose they are, of which model, and that no patient sees another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from fedsecure.config import Study
from fedsecure.learning.entries import patient_entries
from fedsecure.learning.job import Job
from fedsecure.learning.model import Branch, load_tensors
from fedsecure.learning.pretrain import initial
from fedsecure.learning.prototypes import cell_labels
from fedsecure.types import Cohort, Subject

from .conftest import subjects


def _job(study: Study) -> Job:
    return Job(study, "a", 0, 0, initial(study), {}, {})


def test_an_entry_is_the_mean_feature_of_a_patients_slices_in_a_cell(toy_study: Callable[..., Study]) -> None:
    study = toy_study(exchange="prototypes", prototypes_per_partition=2)
    first, second = subjects(2, slices=11)
    both = Subject(first.id, None, (*first.volumes, *second.volumes))  # a patient of two volumes
    cohort = Cohort((both, second), ())
    entries = patient_entries(_job(study), cohort, "cpu")
    branch = Branch(study.model).eval()
    load_tensors(branch, initial(study))
    labels = cell_labels(11, 4, 2)
    with torch.no_grad():
        features = [
            normalize(branch(torch.from_numpy(v.image[:, None].copy())), dim=1).numpy()
            for v in (*first.volumes, *second.volumes)
        ]
    for cell in range(8):
        own = np.concatenate([f[labels == cell] for f in features])
        expected = own.mean(0) if len(own) else np.zeros(8)
        np.testing.assert_allclose(entries[0, cell], expected, atol=1e-5)
    assert entries.shape == (2, 8, 8)
    assert entries.dtype == np.float32


def test_a_patients_entries_do_not_hang_on_the_other_patients(toy_study: Callable[..., Study], cohort: Cohort) -> None:
    job = _job(toy_study(exchange="prototypes"))
    together = patient_entries(job, cohort, "cpu")
    alone = patient_entries(job, replace(cohort, train=cohort.train[2:3]), "cpu")
    np.testing.assert_allclose(together[2], alone[0], atol=1e-6)


def test_they_are_made_with_the_released_model_whatever_the_site_keeps(
    toy_study: Callable[..., Study], cohort: Cohort
) -> None:
    """A momentum encoder of the site's own in its state changes nothing."""
    study = toy_study(exchange="prototypes")
    moved = {f"momentum.{name}": value + 1 for name, value in initial(study).items()}
    job = _job(study)
    assert (
        patient_entries(replace(job, state=moved), cohort, "cpu").tobytes()
        == patient_entries(job, cohort, "cpu").tobytes()
    )


def test_fewer_slices_than_partitions_leave_entries_empty(toy_study: Callable[..., Study]) -> None:
    cohort = Cohort(subjects(1, slices=2), ())
    entries = patient_entries(_job(toy_study(exchange="prototypes", prototypes_per_partition=1)), cohort, "cpu")
    assert (np.abs(entries[0]).sum(1) > 0).tolist() == [True, True, False, False]
