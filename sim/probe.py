"""What only a simulation can measure, as it holds all hospitals' volumes: the pooled k-NN partition probe."""

from __future__ import annotations

from pathlib import Path

from fedsecure.config import Site, Study, load
from fedsecure.node.workbench import load_cohort
from fedsecure.packing import unpack_model
from fedsecure.report.results import Representation
from fedsecure.types import Cohort
from sim.world import site_folder


def pooled_cohort(run: Path, study: Study) -> Cohort:
    """All hospitals' patients as one cohort, each on the side its own site put it."""
    cohorts = []
    for member in study.sites:
        folder = site_folder(run, member.name)
        cohorts.append(load_cohort(folder, study, load(Site, (folder / "site.json").read_bytes())))
    return Cohort(
        train=tuple(subject for cohort in cohorts for subject in cohort.train),
        held_out=tuple(subject for cohort in cohorts for subject in cohort.held_out),
    )


def pooled_probe(run: Path, study: Study, model: bytes) -> Representation:
    """The released pre-training `model` probed over all sites' patients at once, and the one that all started from."""
    from fedsecure.learning.pretrain import initial, probe_model

    cohort = pooled_cohort(run, study)
    result = probe_model(study, unpack_model(model), cohort, "cpu")
    untrained = probe_model(study, initial(study), cohort, "cpu")
    return Representation(
        framework=study.framework,
        seed=study.seed,
        probe="pooled",
        site=None,
        knn_partition_accuracy=result.accuracy,
        chance=result.chance,
        untrained=untrained.accuracy,
        neighbours=study.neighbours,
        embedding_mean_norm=result.mean_norm,
        slices=result.slices,
    )
