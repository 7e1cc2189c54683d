"""The stages a study runs through, derived from the study alone, so that coordinator and sites cannot disagree.

Each stage has `rounds` training rounds and then one evaluation round (round == rounds), in which sites receive the
stage's final model and measure it on their held-out patients:

    pretrain                       framework's rounds; evaluation = k-NN partition accuracy, mean embedding norm
                                   pre-training alone has no training round: its evaluation round holds them all
    (a study whose `start` is not "pretrain" has no such stage)
    finetune local    INIT, N      no training round; the evaluation round fine-tunes on the site and scores Dice
    finetune federated INIT, N     supervised FedAvg; evaluation = Dice
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fedsecure.config import Framework, Study
from fedsecure.errors import SettingsError
from fedsecure.types import Flow
from protocols.secagg.manifest import assumed_corrupted, least_threshold

SUMMED: Final = frozenset({Flow.WEIGHTS, Flow.PROTOTYPE_SUM, Flow.TARGET})  # of which only sums over sites are used
EXCHANGING: Final[frozenset[Framework]] = frozenset({"fcl", "fedca"})  # sites share features beside weights
_FORMS: Final[Mapping[str, Flow]] = {
    "vectors": Flow.FEATURES,
    "prototypes": Flow.PROTOTYPES,
    "secagg-prototypes": Flow.PROTOTYPE_SUM,
}


class StageKind(StrEnum):
    PRETRAIN = "pretrain"
    LOCAL = "local"
    FEDERATED = "federated"


class Init(StrEnum):
    """Where a segmenter's encoder comes from. The decoder's start is the same for both, so that runs pair, unless it
    was pre-trained too (`keeps_decoder`)."""

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
    inits: tuple[Init, ...] = (Init.RANDOM, Init.PRETRAINED) if study.baseline else (Init.PRETRAINED,)
    if study.start == "random":
        inits = (Init.RANDOM,)
    tuning = tuple(
        Stage(StageKind(mode), study.finetune.rounds if mode == "federated" else 0, init, labelled)
        for mode in study.finetune.modes
        for labelled in study.finetune.labelled
        for init in inits
    )
    if study.start != "pretrain":
        return tuning
    return (Stage(StageKind.PRETRAIN, 0 if pretrains_alone(study) else study.pretrain.rounds), *tuning)


def number_of(study: Study, stage: int, round_: int) -> int:
    """A round's number over all stages, from 0; of the stage behind the last, round 0: how many rounds there are."""
    return sum(plan.rounds + 1 for plan in schedule(study)[:stage]) + round_


def places(study: Study) -> tuple[tuple[int, int], ...]:
    """(stage, round) of all rounds of a study, in order."""
    return tuple((number, round_) for number, stage in enumerate(schedule(study)) for round_ in range(stage.rounds + 1))


def deadline_of(study: Study, stage: int, round_: int) -> float | None:
    """Seconds that a round is open at least for a site that is not done with it. None: it waits for every site."""
    evaluation = round_ == schedule(study)[stage].rounds
    own = study.evaluation_deadline_s if evaluation else None
    return study.round_deadline_s if own is None else own


def pretrains_alone(study: Study) -> bool:
    """Whether each site pre-trains an encoder of its own, which stays there: no model of pre-training is averaged."""
    return study.framework == "local" and study.start == "pretrain"


def keeps_decoder(study: Study) -> bool:
    """Whether pre-training trains a decoder that fine-tuning starts from, beside the encoder."""
    return trains_pixels(study) or (study.framework == "mae" and study.mae.keep_decoder)


def trains_pixels(study: Study) -> bool:
    """Whether the decoder is pre-trained by contrast of pixels, beside the framework's own loss (learning/dense.py)."""
    return study.framework in ("fcl", "fclopt") and study.pretrain.dense.weight > 0


def shared_flow(study: Study) -> Flow | None:
    """What sites share of their features beside weights, in the study's form of exchange. None if they share nothing,
    as a site alone, who has nobody to share with."""
    if study.framework not in EXCHANGING or len(study.sites) < 2:
        return None
    return _FORMS.get(study.pretrain.exchange)


def relays_boxes(study: Study) -> bool:
    """Whether sites' features go sealed from site to site, so that rounds open with boxes."""
    return shared_flow(study) in (Flow.FEATURES, Flow.PROTOTYPES)


def opens_with_sum(study: Study, stage: int, round_: int) -> bool:
    """Whether a round opens with the sum of what the sites released in the round before: it trains with it."""
    plan = schedule(study)[stage]
    sums = shared_flow(study) is Flow.PROTOTYPE_SUM
    return sums and plan.kind is StageKind.PRETRAIN and 0 < round_ < plan.rounds


def owed(study: Study, stage: int, round_: int, targets: bool = False) -> frozenset[Flow]:
    """The flows that every site must release in a round before it may say that it is done. Of a study with secure
    aggregation these are not the summed ones. targets: as in `made`."""
    flows = made(study, stage, round_, targets)
    return flows - SUMMED if study.security.secagg else flows


def summed(study: Study, stage: int, round_: int, targets: bool = False) -> tuple[Flow, ...]:
    """The flows that leave the sites of a round as one masked vector, in its order. targets: as in `made`."""
    flows = made(study, stage, round_, targets) if study.security.secagg else frozenset()
    return tuple(sorted(flows & SUMMED))


def least_sites(study: Study) -> int:
    """Sites without which no round closes: minimum_sites or, with secure aggregation, as many as open a sum."""
    if not study.security.secagg:
        return max(1, study.minimum_sites)
    sites = len(study.sites)
    return max(study.minimum_sites, least_threshold(sites, assumed_corrupted(sites)))


def made(study: Study, stage: int, round_: int, targets: bool = False) -> frozenset[Flow]:
    """What every site makes in a round for others, in the clear or for a sum.

    targets: the round opened with all sites asked for their target networks. Features of the last training round would
    train nobody.
    """
    plan = schedule(study)[stage]
    if round_ == plan.rounds:
        return frozenset()
    flows = {Flow.WEIGHTS}
    shared = shared_flow(study)
    if plan.kind is StageKind.PRETRAIN and shared is not None and round_ + 1 < plan.rounds:
        flows.add(shared)
    if makes_target(study, stage, round_):
        flows |= {Flow.TARGET} if targets else set()
        flows |= {Flow.DISTANCE} if study.pretrain.distance == "r2" else set()
    return frozenset(flows)


def offered(study: Study, stage: int, round_: int, targets: bool = False) -> frozenset[Flow]:
    """The flows that may leave a site in a round, and that the coordinator takes: what is owed and, after an
    evaluation, metrics where the study releases them and the site had something to measure."""
    evaluation = round_ == schedule(study)[stage].rounds
    metrics = {Flow.METRICS} if evaluation and study.release_metrics else set()
    return owed(study, stage, round_, targets) | metrics


def has_target(study: Study, stage: int, round_: int) -> bool:
    """Whether a round begins with a target network that all nodes arrive at by themselves or are sent apart from the
    model. The evaluation round trains nothing and has none."""
    plan = schedule(study)[stage]
    predicted = study.framework == "fclopt" and study.pretrain.target not in ("naive", "local")
    return predicted and plan.kind is StageKind.PRETRAIN and round_ < plan.rounds


def makes_target(study: Study, stage: int, round_: int) -> bool:
    """Whether a round ends with such a target, as the next one trains with it."""
    return has_target(study, stage, round_) and has_target(study, stage, round_ + 1)


def frame_limit(study: Study) -> int:
    """Bytes that no frame of this study exceeds: an upper bound of its largest model and bank, both generous.

    A U-Net of f filters has about 7,600 f^2 parameters; FCLOpt publishes encoder and heads twice.
    """
    f, hidden, features = study.model.filters, study.model.hidden, study.model.features
    heads = 3 * hidden * (80 * f + 2 * features + 8)
    bank = study.pretrain.bank * (4 * features + 1) + 256 * len(study.sites)
    cells = study.pretrain.partitions * study.pretrain.prototypes_per_partition
    prototypes = 4 * (study.swav.prototypes + cells) * features
    return 8 * (8000 * f * f + heads) + prototypes + bank + (1 << 18)


def require_no_noise(study: Study) -> None:
    """Raises SettingsError for a study with differential privacy: no node runs it without the noise it asks for."""
    if study.privacy.enabled:
        raise SettingsError(
            "this study asks for differential privacy ([privacy] enabled = true), and nodes cannot add its noise yet: "
            "plan it with `fedsecure budget plan`, or take [privacy] out and accept that epsilon is infinite"
        )
