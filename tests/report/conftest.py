"""A made-up study with the shape of a real one: five sites, two frameworks, rounds, traffic, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest

from fedsecure.config import Framework, Member, SecuritySettings, Study
from fedsecure.plan import Init, StageKind, schedule
from fedsecure.report.results import (
    SIMULATED,
    DiceRow,
    Machine,
    Provenance,
    Representation,
    Results,
    RoundRow,
    StudyRecord,
    TrafficRow,
    WorldRecord,
)

SITES = tuple(f"hospital-{letter}" for letter in "abcde")
MODEL = 4_725_000  # bytes of one weights frame

Make = Callable[..., Results]


def make_study(framework: Framework, seed: int, sites: tuple[str, ...]) -> Study:
    return Study(
        name="cardiac-demo", framework=framework, seed=seed, sites=tuple(Member(name=name, weight=7) for name in sites),
        security=SecuritySettings(secagg=False),  # as the frames below: weights in the clear
    )  # fmt: skip


def make_results(framework: Framework = "fcl", seed: int = 0, sites: tuple[str, ...] = SITES) -> Results:
    study = make_study(framework, seed, sites)
    rng = np.random.default_rng([seed, framework == "fcl"])
    return Results(
        world=WorldRecord(kind="acdc", partition="random", sites=len(sites), phantom_patients=None),
        studies=(StudyRecord.of(study),),
        runs=(_provenance(framework),),
        representation=_representation(framework, seed, sites, rng),
        dice=_dice(study, rng),
        traffic=_traffic(framework, seed, sites),
        rounds=_rounds(study, rng),
        simulation_only=SIMULATED,
    )


def _provenance(framework: str) -> Provenance:
    return Provenance(
        command=f"fedsecure simulate <...> --framework {framework} --data acdc:<...>",
        release="0" * 64,
        commit="0123456789abcdef0123456789abcdef01234567",
        version="0.1.0",
        machine=Machine(processor="Some CPU @ 2.50GHz", cores=2, system="Linux x86_64"),
        libraries={"torch": "2.13.0", "numpy": "2.4.6", "monai": "1.6.1"},
        started="2026-03-01T09:30:00+00:00",
        seconds=2712.4,
    )


def _representation(
    framework: Framework, seed: int, sites: tuple[str, ...], rng: np.random.Generator
) -> tuple[Representation, ...]:
    base = 0.58 if framework == "fcl" else 0.46
    return tuple(
        Representation(
            framework=framework,
            seed=seed,
            probe="pooled" if site is None else "site",
            site=site,
            knn_partition_accuracy=float(base + rng.normal(0, 0.04)),
            chance=0.27,
            untrained=0.41 if site is None else None,
            neighbours=15,
            embedding_mean_norm=float(0.2 + 0.1 * rng.random()),
            slices=120,
        )
        for site in (*sites, None)
    )


def _dice(study: Study, rng: np.random.Generator) -> tuple[DiceRow, ...]:
    rows = []
    shared = np.random.default_rng([study.seed, 99])  # the random start does not depend on the framework
    for mode in study.finetune.modes:
        for labelled in study.finetune.labelled:
            for site in (member.name for member in study.sites):
                for patient in range(3):
                    for s, structure in enumerate(study.data.structures):
                        level = 0.42 + 0.07 * s + 0.05 * labelled + 0.1 * (mode == "federated")
                        start = float(np.clip(level + shared.normal(0, 0.05), 0, 1))
                        gain = 0.05 if labelled == 1 else 0.0
                        tuned = float(np.clip(start + gain + rng.normal(0, 0.03), 0, 1))
                        common = {
                            "mode": mode,
                            "labelled": labelled,
                            "site": site,
                            "subject": f"s-{patient:04x}",
                            "structure": structure,
                            "seed": study.seed,
                        }
                        rows.append(DiceRow(framework=None, init="random", dice=start, **common))
                        rows.append(DiceRow(framework=study.framework, init="pretrained", dice=tuned, **common))
    return tuple(rows)


def _traffic(framework: Framework, seed: int, sites: tuple[str, ...]) -> tuple[TrafficRow, ...]:
    def row(node: str, peer: str, kind_flow: str, messages: int, size: int, stage: int = 0) -> TrafficRow:
        kind, flow = kind_flow.split("/")
        direction = "down" if node == "coordinator" else "up"
        return TrafficRow(
            framework=framework, seed=seed, node=node, peer=peer, direction=direction, kind=kind, flow=flow,
            name="pre-training" if stage == 0 else "federated fine-tuning, N=1, random",
            stage=stage, messages=messages, bytes=size,
        )  # fmt: skip

    rows = []
    for site in sites:
        rows += [
            row(site, "coordinator", "release/weights", 10, 10 * MODEL),
            row(site, "coordinator", "release/weights", 40, 40 * MODEL, stage=5),
            row(site, "coordinator", "control/ready", 54, 54 * 412),
            row("coordinator", site, "publish/weights", 10, 10 * MODEL),
            row("coordinator", site, "publish/weights", 40, 40 * MODEL, stage=5),
            row("coordinator", site, "control/round", 54, 54 * 300),
        ]
        if framework == "fcl":
            rows.append(row(site, "coordinator", "release/features", 10, 10 * 263_000))
            rows.append(row("coordinator", site, "publish/BankRelay", 40, 40 * 263_000))
    return tuple(rows)


def _rounds(study: Study, rng: np.random.Generator) -> tuple[RoundRow, ...]:
    rows = []
    names = [member.name for member in study.sites]
    for index, stage in enumerate(schedule(study)):
        start = 5.1 if stage.kind is StageKind.PRETRAIN else 1.4 - 0.2 * (stage.init is Init.PRETRAINED)
        for round_ in range(stage.rounds + 1):
            trains = round_ < stage.rounds
            for node in ("coordinator", *names):
                site = node != "coordinator"
                loss = float(start * (0.45 + 0.55 * np.exp(-round_ / 3)) + rng.normal(0, 0.04))
                rows.append(
                    RoundRow(
                        framework=study.framework, seed=study.seed, node=node,
                        name=stage.name, stage=index, round=round_,
                        seconds=float(9 + rng.random()),
                        loss=loss if site and trains else None,
                        sent=(MODEL if site else MODEL * len(names)) if trains else 4000,
                    )
                )  # fmt: skip
    return tuple(rows)


def make_pictures(
    arms: tuple[str, ...] = ("random", "fcl", "fclopt"), sites: tuple[str, ...] = SITES, size: int = 64, cases: int = 1
) -> Mapping[str, npt.NDArray[np.uint8]]:
    """Rings with noise: a left ventricle, its muscle and a right ventricle, roughly."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size] * (64 / size)
    pictures = {}
    for i, (mode, labelled, site, k) in enumerate(
        (mode, labelled, site, k)
        for mode in ("local", "federated")
        for labelled in (1, 4)
        for site in sites
        for k in range(cases)
    ):
        cx, cy = 34 + i % 5, 30 + i % 4

        def heart(dx: float, dy: float, scale: float, cx: int = cx, cy: int = cy) -> npt.NDArray[np.uint8]:
            d = np.hypot(x - cx - dx, y - cy - dy) / scale
            right = np.hypot((x - cx + 15 - dx) / 0.8, (y - cy - dy) / 1.2) / scale
            return np.select([d < 8, d < 12, right < 9], [3, 2, 1], 0).astype(np.uint8)

        label = heart(0, 0, 1)
        tone = np.choose(label, [60, 190, 110, 200]) + 30 * np.cos(x / 9) * np.sin(y / 7)
        image = np.clip(tone + rng.normal(0, 12, tone.shape), 0, 255).astype(np.uint8)
        for arm in arms:
            spread = 2.5 if arm == "random" else 1.0
            prediction = heart(*rng.normal(0, spread, 2), 1 + rng.normal(0, 0.05 * spread))
            key = f"{arm}/{mode}/{labelled}/{site}/{k}"
            pictures |= {f"{key}/image": image, f"{key}/label": label, f"{key}/prediction": prediction}
    return pictures


@pytest.fixture(scope="session")
def make() -> Make:
    return make_results


@pytest.fixture(scope="session")
def pictured() -> Callable[..., Mapping[str, npt.NDArray[np.uint8]]]:
    return make_pictures
