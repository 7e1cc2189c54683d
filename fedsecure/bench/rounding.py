"""What the ring of secure sums costs in accuracy, measured on updates of real training.

Sites of phantom patients pre-train and fine-tune as in a study with default settings. Each round's updates go through
what a site puts into a secure sum and what a coordinator reads out of it (`privacy.summing`), for each ring, with and
without rotation; the integers are added up without masks, which change no sum. The study itself goes on by FedAvg.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedsecure.config import Member, Run, Site, Study, parse_study
from fedsecure.data.phantom import write_phantom
from fedsecure.learning.dispatch import initial_model, run
from fedsecure.learning.fedavg import average
from fedsecure.learning.job import Job
from fedsecure.learning.parts import start_of
from fedsecure.node.wiring import lay_out
from fedsecure.node.workbench import load_cohort
from fedsecure.packing import pack_vector
from fedsecure.plan import StageKind, keeps_decoder, schedule
from fedsecure.privacy.clip import l2_norm
from fedsecure.privacy.summing import opened, quantizer
from fedsecure.seeds import derive_seed
from fedsecure.types import Cohort, FloatArray, Flow, State, Tensors

_PATIENTS: Final = 3
_PIXELS: Final = 48
RINGS: Final = (16, 20, 24)


def bench_rounding(sites: int, rounds: int, seed: int = 0, **settings: Any) -> list[dict[str, float | str]]:
    """A row for each stage, round, ring and rotation.

    error: L2 norm of what rounding changed of the mean, relative to the mean's. of_site: relative to the norm of a
    site's update (median over sites). norm: that one. clipped: the least factor that a site's update was clipped by.
    settings: of the study, in place of the defaults.
    """
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory(prefix="fedsecure-bench-") as folder:
        study, cohorts = _hospitals(Path(folder), sites, rounds, seed, settings)
        encoder: Tensors | None = None
        for number, stage in enumerate(schedule(study)):
            model = initial_model(study, number, encoder)
            states: dict[str, State] = {name: {} for name in cohorts}
            for round_ in range(stage.rounds):
                deltas: dict[str, Tensors] = {}
                for name, cohort in cohorts.items():
                    job = Job(study, name, number, round_, model, {}, states[name])
                    done = run(job, cohort, "cpu", lambda _: None)
                    states[name] = done.state
                    update = next(update for update in done.updates if update.flow is Flow.WEIGHTS)
                    deltas[name] = {tensor: array.astype(np.float32) for tensor, array in update.arrays.items()}
                vectors = {name: np.frombuffer(pack_vector(delta), "<f4") for name, delta in deltas.items()}
                rows += [
                    {"stage": stage.name, "round": round_, **_errors(study, number, round_, ring, rotation, vectors)}
                    for ring in RINGS
                    for rotation in (False, True)
                ]
                model = average(model, [(site.name, site.weight, deltas[site.name]) for site in study.sites])
            if stage.kind is StageKind.PRETRAIN:
                encoder = start_of(model, keeps_decoder(study))
    return rows


def _hospitals(
    folder: Path, sites: int, rounds: int, seed: int, settings: Mapping[str, Any]
) -> tuple[Study, dict[str, Cohort]]:
    study = parse_study({
        "seed": seed, "baseline": False, "pretrain": {"rounds": rounds, "exchange": "none"},
        "finetune": {"labelled": [1], "modes": ["federated"], "rounds": rounds, "steps": 60 * rounds}, **settings,
    })  # fmt: skip
    cohorts = {}
    for number in range(sites):
        name, place = f"site-{number:02}", folder / f"{number}"
        write_phantom(place / "volumes", _PATIENTS, derive_seed(seed, "phantom", number), number, _PIXELS)
        site = Site(name=name, source=f"folder:{(place / 'volumes').resolve()}")
        lay_out(place, study, Run(), site)
        cohorts[name] = load_cohort(place, study, site)
    members = tuple(Member(name=name, weight=len(cohort.train)) for name, cohort in cohorts.items())
    return study.model_copy(update={"sites": members}), cohorts


def _errors(
    study: Study, stage: int, round_: int, ring: int, rotation: bool, vectors: Mapping[str, FloatArray]
) -> dict[str, float]:
    security = study.security.model_copy(update={"ring": ring, "rotation": rotation})
    study = study.model_copy(update={"security": security})
    length, total = len(next(iter(vectors.values()))), sum(member.weight for member in study.sites)
    integers, plain, clipped = np.zeros(length, np.int32), np.zeros(length), 1.0
    for member in study.sites:
        vector = vectors[member.name]
        quantiser, factor = quantizer(study, member.name, stage, round_, [(Flow.WEIGHTS, vector)])
        words: npt.NDArray[np.uint32] = np.zeros(length, np.uint32)
        quantiser.fill(0, words)
        integers += words.view(np.int32)
        plain += member.weight * factor * vector.astype(np.float64)
        clipped = min(clipped, factor)
    mean = opened(study, stage, round_, [(Flow.WEIGHTS, length)], integers)[Flow.WEIGHTS] / total
    off, norm = float(np.linalg.norm(mean - plain / total)), median(l2_norm(vector) for vector in vectors.values())
    return {
        "ring": ring, "rotation": float(rotation), "norm": norm, "clipped": clipped,
        "error": off / float(np.linalg.norm(plain / total)), "of_site": off / norm, "length": length,
    }  # fmt: skip
