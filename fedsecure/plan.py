"""The stages a study runs through, derived from the study alone, so that coordinator and sites cannot disagree.

Each stage has `rounds` training rounds and then one evaluation round (round == rounds), in which sites receive the
stage's final model and measure it on their held-out patients:

    pretrain                       framework's rounds; evaluation = k-NN partition accuracy, mean embedding norm
    finetune local    INIT, N      no training round; the evaluation round fine-tunes on the site and scores Dice
    finetune federated INIT, N     supervised FedAvg; evaluation = Dice
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedsecure.config import Study
from fedsecure.types import Flow


class StageKind(StrEnum):
    PRETRAIN = "pretrain"
    LOCAL = "local"
    FEDERATED = "federated"


class Init(StrEnum):
    """Where a segmenter's encoder comes from. The decoder's start is the same for both, so that runs pair."""

    RANDOM = "random"
    PRETRAINED = "pretrained"


@dataclass(frozen=True, slots=True)
class Stage:
    kind: StageKind
    rounds: int
    init: Init = Init.RANDOM
    labelled: int = 0  # N; 0 in pre-training

    @property
    def name(self) -> str:
        if self.kind is StageKind.PRETRAIN:
            return "pre-training"
        return f"{self.kind} fine-tuning, N={self.labelled}, {self.init}"


def schedule(study: Study) -> tuple[Stage, ...]:
    """All stages of a study in order. Pre-training comes first, as the fine-tuning stages start from its encoder."""
    inits = (Init.RANDOM, Init.PRETRAINED) if study.baseline else (Init.PRETRAINED,)
    tuning = tuple(
        Stage(StageKind(mode), study.finetune.rounds if mode == "federated" else 0, init, labelled)
        for mode in study.finetune.modes
        for labelled in study.finetune.labelled
        for init in inits
    )
    return (Stage(StageKind.PRETRAIN, study.pretrain.rounds), *tuning)


def owed(study: Study, stage: int, round_: int) -> frozenset[Flow]:
    """The flows that every site releases in a round. A site offers no other, and none other is accepted.

    A site alone has nobody to share features with.
    """
    plan = schedule(study)[stage]
    if round_ == plan.rounds:
        return frozenset({Flow.METRICS}) if study.release_metrics else frozenset()
    exchanges = study.framework == "fcl" and study.pretrain.exchange == "vectors" and len(study.sites) > 1
    if plan.kind is StageKind.PRETRAIN and exchanges:
        return frozenset({Flow.WEIGHTS, Flow.FEATURES})
    return frozenset({Flow.WEIGHTS})
