"""What a node asks of its trainer: one job per round, plain arrays in and out, so that it can run in another process.

A job is a pure function of its fields and the cohort: a round that is replayed after a crash gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedsecure.config import Study
from fedsecure.plan import Stage, schedule
from fedsecure.types import Bank, State, Tensors, Update


@dataclass(frozen=True, slots=True)
class Job:
    """One round of one stage on one site. `round == stage.rounds` is the stage's evaluation round."""

    study: Study
    site: str
    stage_index: int
    round: int
    model: Tensors  # the released global model of this round; to train FCLOpt, with the target network it opens with
    # Other sites' features of the round before, or their prototypes, where the method exchanges any; with one sum over
    # all sites, that of `prototypes.FEDERATION`
    banks: Mapping[str, Bank]
    # The site's private state after the round before. Empty in a stage's first round, but for the encoder ("encoder.*")
    # of a site that pre-trained alone, in the first round of a stage that starts from it.
    state: State

    @property
    def stage(self) -> Stage:
        return schedule(self.study)[self.stage_index]

    def __repr__(self) -> str:
        return f"Job(stage={self.stage_index}, round={self.round})"


@dataclass(frozen=True, slots=True)
class JobResult:
    """`updates` go to the gate; `state` and `pictures` stay in the site's own folder.

    pictures: name -> uint8 array, for the site's own report: image [H, W], label [H, W], prediction [H, W].
    """

    updates: tuple[Update, ...]
    state: State
    pictures: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"JobResult(updates={len(self.updates)})"
