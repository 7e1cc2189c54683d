"""What a node tells its own operator while it works: one closed union, handed to an `observe` callable.

Progress bars, `metrics.jsonl`, status and health are subscribers. A site's events stay on its disk; none is sent.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class _Event(msgspec.Struct, frozen=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """Common shape: `stage` and `round` count from 0; the evaluation round of a stage has round == stage.rounds."""

    stage: int
    round: int


class RoundStarted(_Event, frozen=True, kw_only=True):
    """Training (or evaluation) of a round began. `name` is the stage's, `rounds` its number of training rounds."""

    name: str
    rounds: int


class Step(_Event, frozen=True, kw_only=True):
    """One optimiser step, or one patient evaluated. `done` of `total` in this round; `loss` is None in evaluation."""

    done: int
    total: int
    loss: float | None = None


class Measured(_Event, frozen=True, kw_only=True):
    """A number: a site's from its own data, e.g. metric "knn_partition_accuracy"; the coordinator's of a round's target
    network: "target_expected", "target_distance", "target_asked" and "target_corrected" (1 or 0)."""

    metric: str
    value: float


class Scored(_Event, frozen=True, kw_only=True):
    """Dice of one structure in one held-out patient (opaque id), mean over the patient's volumes."""

    subject: str
    structure: str
    dice: float


class Sent(_Event, frozen=True, kw_only=True):
    """A sealed frame left this node. `kind` is release, control, share or publish; `size` in bytes, whole frame."""

    kind: str
    flow: str
    size: int
    peer: str


class Refused(_Event, frozen=True, kw_only=True):
    """Something was refused, here or at the gate: the rule that was broken, never the content."""

    rule: str
    peer: str


class SumAsked(_Event, frozen=True, kw_only=True):
    """Coordinator: a step of a secure sum began. `step` is what sites answer in it ("advertise-keys", ...,
    protocols/secagg/SPEC.md), `sites` are waited for; `attempt` counts from 0 in the round."""

    attempt: int
    step: str
    sites: tuple[str, ...]


class SumHeard(_Event, frozen=True, kw_only=True):
    """Coordinator: a site is not waited for any more in the step: it has answered, or what it answered was refused."""

    step: str
    site: str


class SumStepEnded(_Event, frozen=True, kw_only=True):
    """Coordinator: a step was closed after `seconds`. Of `asked` sites those in `late` had not answered."""

    attempt: int
    step: str
    asked: int
    late: tuple[str, ...]
    seconds: float


class Summed(_Event, frozen=True, kw_only=True):
    """Coordinator: a secure sum is open. `survivors`: whose vectors are in it, of `sites` that had trained; `agreed`:
    how many of them signed what came of it. `attempts`: sums begun for it; `seconds`: of the last one of these."""

    flows: tuple[str, ...]
    sites: int
    survivors: tuple[str, ...]
    agreed: int
    attempts: int
    seconds: float


class RoundEnded(_Event, frozen=True, kw_only=True):
    """A round is over on this node. `seconds` is wall time since it started here; `sites` is how many took part."""

    seconds: float
    sites: int


class Stopped(_Event, frozen=True, kw_only=True):
    """The node stopped. `reason` is "finished", "interrupted", "vetoed" or "failed"."""

    reason: str


Progress = (
    RoundStarted | Step | Measured | Scored | Sent | Refused | SumAsked | SumHeard | SumStepEnded | Summed | RoundEnded
    | Stopped
)  # fmt: skip
Observe = Callable[[Progress], None]

_ENCODER = msgspec.json.Encoder()


def ignore(_: Progress) -> None:
    """An observer for those who do not look."""


def to_json(event: Progress) -> bytes:
    """One line of `metrics.jsonl`, without the line feed."""
    return _ENCODER.encode(event)
