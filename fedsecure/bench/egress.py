"""What the gate's content tests cost beside the round whose update they look at: real training, a real cohort's index.

The cohort has a small hospital's size (14 patients, two frames of ten slices); its pictures are smooth noise, as speed
looks at their size alone. One process; seconds are medians.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from fedsecure.audit.tap import Tap, reference
from fedsecure.config import Study
from fedsecure.learning.dispatch import initial_model, run
from fedsecure.learning.job import Job
from fedsecure.types import Cohort, Flow, State, Subject, Volume

_PATIENTS: Final = 14
_FRAMES: Final = 2
_SHAPE: Final = (10, 64, 64)


def bench_egress(study: Study, rounds: int) -> dict[str, float]:
    """round_s: training of one round of the study's first stage; gate_s: content tests of all its updates; share: the
    one of the other; index_s and index_bytes: the cohort's index, made once. Raises SettingsError."""
    torch.set_num_threads(study.threads)
    with tempfile.TemporaryDirectory(prefix="fedsecure-bench-") as folder:
        cohort = _cohort(Path(folder))
        began = time.perf_counter()
        known = reference(volume.image for subject in cohort.train for volume in subject.volumes)
        index_s = time.perf_counter() - began
        tap = Tap(known, rounds * len(Flow))
        model = initial_model(study, 0, None)
        state: State = {}
        round_s, gate_s = [], []
        for number in range(rounds):
            began = time.perf_counter()
            result = run(Job(study, "bench", 0, number, model, {}, state), cohort, "cpu", lambda _: None)
            trained = time.perf_counter()
            for update in result.updates:
                tap(update)
            gate_s.append(time.perf_counter() - trained)
            round_s.append(trained - began)
            state = result.state
    spent, taken = median(gate_s), median(round_s)
    return {"gate_s": spent, "round_s": taken, "share": spent / taken, "index_s": index_s, "index_bytes": known.size}


def _cohort(folder: Path) -> Cohort:
    rng = np.random.default_rng(0)
    subjects = []
    for number in range(_PATIENTS):
        volumes = []
        for frame in range(_FRAMES):
            file = folder / f"{number}-{frame}.npy"
            picture = gaussian_filter(rng.standard_normal(_SHAPE), (0, 1, 1)) + 0.2 * rng.standard_normal(_SHAPE)
            np.save(file, picture.astype(np.float32))
            volumes.append(Volume(str(number), frame, np.load(file, mmap_mode="r"), None, (1.0, 1.0, 1.0)))
        subjects.append(Subject(str(number), None, tuple(volumes)))
    return Cohort(tuple(subjects), ())
