from __future__ import annotations

from fedsecure.cli.outcome import lines
from fedsecure.config import Framework, Member, SecuritySettings, Study
from fedsecure.report.results import (
    DiceRow,
    Machine,
    Provenance,
    Representation,
    Results,
    StudyRecord,
    TrafficRow,
    WorldRecord,
)


def results() -> Results:
    """Two frameworks; the random start, and its traffic, in the first one's run only."""
    frameworks: tuple[Framework, ...] = ("fcl", "fclopt")
    members, clear = (Member(name="north", weight=1),), SecuritySettings(secagg=False)
    machine = Machine(processor="some", cores=1, system="some")
    return Results(
        world=WorldRecord(kind="phantom", partition=None, sites=1, phantom_patients=2),
        studies=tuple(
            StudyRecord.of(
                Study(framework=framework, sites=members, baseline=framework == "fcl", security=clear)
            )
            for framework in frameworks
        ),
        runs=(
            Provenance(
                command="fedsecure demo", release="0" * 64, commit=None, version="0", machine=machine,
                libraries={}, started="now", seconds=1,
            ),
        ),
        representation=(
            Representation(
                framework="fcl", seed=0, probe="pooled", site=None, knn_partition_accuracy=0.75, chance=0.25,
                untrained=0.5, neighbours=15, embedding_mean_norm=0.125, slices=9,
            ),
        ),
        dice=tuple(
            DiceRow(
                framework=framework, mode="federated", init="pretrained" if framework else "random", labelled=1,
                site="north", subject="s", structure="LV", seed=0, dice=dice,
            )
            for framework, dice in ((None, 0.5), ("fcl", 0.625))
        ),
        traffic=tuple(
            TrafficRow(
                framework=framework, seed=0, node="north", peer="coordinator", direction="up", kind="release",
                flow="weights", name="some" if stage else "pre-training", stage=stage, messages=1, bytes=size,
            )
            for framework, stage, size in (("fcl", 0, 1000), ("fcl", 1, 5000), ("fcl", 2, 5000), ("fclopt", 0, 2000))
        ),
        rounds=(),
        simulation_only=(),
    )  # fmt: skip


def test_what_is_said_in_the_end() -> None:
    assert list(lines(results())) == [
        "fcl     15-NN partition accuracy 0.750 (untrained 0.500, chance 0.250), norm of the mean embedding 0.12",
        "Dice, federated, N=1: random  0.500",
        "Dice, federated, N=1: fcl     0.625   against random +0.125: too few pairs (1 pair)",
        "fcl     secure sums: off; the coordinator could read each site's update",
        "fclopt  secure sums: off; the coordinator could read each site's update",
        "fcl     pre-training: 1 kB from the sites, 0 B to them",
        "fclopt  pre-training: 2 kB from the sites, 0 B to them",
        "fcl     fine-tuning: 10 kB from the sites, 0 B to them, random start included",
        "fclopt  fine-tuning: 0 B from the sites, 0 B to them",
    ]
