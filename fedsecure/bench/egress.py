"""What the gate costs beside the round whose update it lets out: content tests, over real training and a real cohort's
index, and the transparency log; and what it costs to verify the logs of a study.

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

from fedsecure.audit import evidence
from fedsecure.audit.tap import Tap, reference
from fedsecure.audit.testimony import Status, read
from fedsecure.audit.verify import verify
from fedsecure.bench.logs import write_logs
from fedsecure.config import Study
from fedsecure.learning.dispatch import initial_model, run
from fedsecure.learning.job import Job
from fedsecure.types import Cohort, Flow, State, Subject, Volume

_PATIENTS: Final = 14
_FRAMES: Final = 2
_SHAPE: Final = (10, 64, 64)
_SITES: Final = 10  # of the logs
_MEMORY: Final = Path("/dev/shm")  # noqa: S108  a place in memory, for a folder of a name of its own


def bench_egress(study: Study, rounds: int, logged: int = 20) -> dict[str, float]:
    """round_s: training of one round of the study's first stage; gate_s: content tests of all its updates; share: the
    one of the other; index_s and index_bytes: the cohort's index, made once.

    log_s: all that a site's log adds to a round, of ten sites (leaves, its head, the heads of all others); verify_s:
    `audit verify` of `logged` rounds of these, with verify_leaves and verify_signatures. Raises SettingsError."""
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
    measured = {"gate_s": spent, "round_s": taken, "share": spent / taken}
    return measured | {"index_s": index_s, "index_bytes": known.size} | bench_logs(logged)


def bench_logs(rounds: int) -> dict[str, float]:
    """The last keys of `bench_egress`. The logs' folder is in memory where the machine has one there: a study's waits
    for the disk are its own."""
    with tempfile.TemporaryDirectory(prefix="fedsecure-bench-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        run = Path(folder) / "run"
        world = write_logs(run, _SITES, rounds)
        began = time.perf_counter()
        findings = verify(run, world.edition)
        spent = time.perf_counter() - began
        if any(one.status is Status.FAILED for one in findings):
            raise RuntimeError("logs of the bench's own do not hold")
        nodes = [read(each, world.edition) for each in evidence.folders(run)]
    hub = nodes[0]
    signed = len(hub.heads) + sum(len(shown.countersigned) for shown in hub.heads) + len(hub.vouches)
    return {
        "log_s": world.log_seconds / (rounds * _SITES), "verify_s": spent, "verify_rounds": rounds,
        "verify_leaves": sum(len(one.leaves) for one in nodes), "verify_signatures": signed,
    }  # fmt: skip


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
