"""Patients' entries: what each patient would add to its site's prototypes (prototypes.py), before the gate clips.

They are features of the model that the round was released with, never of the momentum encoder: a function of the
patient and of what everybody has, so that clipping bounds what a patient can change.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from fedsecure.learning.job import Job
from fedsecure.learning.model import Branch, load_tensors
from fedsecure.learning.parts import branch_of
from fedsecure.learning.prototypes import cell_labels, cells
from fedsecure.learning.slices import SliceIndex
from fedsecure.types import Cohort, FloatArray, Flow, Update

_AT_ONCE = 64  # slices of a forward pass


def update(job: Job, cohort: Cohort, device: str, flow: Flow) -> Update:
    """PROTOTYPES or PROTOTYPE_SUM: "entries" [patients, C, d] of the patients this site trains on."""
    return Update(flow, {"entries": patient_entries(job, cohort, device)})


@torch.no_grad()
def patient_entries(job: Job, cohort: Cohort, device: str) -> FloatArray:
    """Mean normalised projection of every patient's slices in each cell, over all its volumes: [patients, C, d].

    Slices as they are, without views, so that nothing is drawn. 0 where a patient has no slice of a cell.
    """
    settings = job.study.pretrain
    branch = Branch(job.study.model).to(device).eval()
    load_tensors(branch, branch_of(job.model))
    index = SliceIndex(cohort.train, settings.partitions)
    labels = np.concatenate(
        [
            cell_labels(len(volume.image), settings.partitions, settings.prototypes_per_partition)
            for subject in cohort.train
            for volume in subject.volumes
        ]
    )
    sums = np.zeros((len(cohort.train), cells(settings), job.study.model.features))
    counts = np.zeros(sums.shape[:2])
    start = 0
    for batch in index.in_order(_AT_ONCE):
        z = F.normalize(branch(torch.from_numpy(batch.images).to(device)), dim=1).cpu().numpy()
        at = (batch.subjects, labels[start : start + len(z)])
        np.add.at(sums, at, z.astype(np.float64))
        np.add.at(counts, at, 1)
        start += len(z)
    return (sums / np.maximum(counts, 1)[:, :, None]).astype(np.float32)
