"""What can happen to a node, and what a node can want. Frozen values; no machine knows a socket, a file or a clock."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.messages import BankRelay, FeatureBank, Message, MetricReport, RoundOpen, WeightUpdate

# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FrameIn:
    """A frame that passed every check of the envelope; `sender` is authenticated."""

    sender: str
    message: Message


@dataclass(frozen=True, slots=True)
class Restarted:
    """The process began, with whatever state its store held (possibly none)."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes. `now` in seconds, monotonic within one process."""

    now: float


@dataclass(frozen=True, slots=True)
class Veto:
    """The site's own operator said stop. Obeyed at once, also in the middle of training."""


@dataclass(frozen=True, slots=True)
class TrainDone:
    """The trainer finished a round; its result waits at the shell for the gate."""

    stage: int
    round: int


@dataclass(frozen=True, slots=True)
class TrainFailed:
    """The trainer cannot go on. `reason` has been cleared of paths and names."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The first model of a stage is in the coordinator's store."""

    stage: int
    model_digest: bytes


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The model after a round is in the coordinator's store."""

    stage: int
    round: int
    model_digest: bytes


Event = FrameIn | Restarted | Tick | Veto | TrainDone | TrainFailed | Prepared | Aggregated

# --- effects --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SayHello:
    """Site -> coordinator: alive, and how far."""

    stage: int
    round: int
    done: bool


@dataclass(frozen=True, slots=True)
class SayLeave:
    """Site -> coordinator: not coming back, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class KeepIncoming:
    """Write what a round needs to disk: a model or a sealed bank at a site, an update or a bank at the coordinator."""

    sender: str
    message: RoundOpen | BankRelay | WeightUpdate | FeatureBank | MetricReport


@dataclass(frozen=True, slots=True)
class Train:
    """Start the round's job in the trainer. Returns at once; `TrainDone` follows."""

    stage: int
    round: int
    banks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CancelTraining:
    """Stop the trainer now; its unfinished result is dropped."""


@dataclass(frozen=True, slots=True)
class Release:
    """Hand the round's updates to the gate, then say RoundDone."""

    stage: int
    round: int


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the stored frames of a round again: the same bytes, nothing new."""

    stage: int
    round: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the first model of a stage; `Prepared` follows."""

    stage: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """FedAvg the stored updates of these sites onto the round's model; `Aggregated` follows."""

    stage: int
    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenRound:
    """Publish the round's model to one site, and relay the banks of the others."""

    site: str
    stage: int
    round: int
    banks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloseStudy:
    """Tell these sites that the study is over, or over for them."""

    sites: tuple[str, ...]
    finished: bool


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the state that this step returns; it is what a restart begins from."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """A peer broke the order of the protocol: note who and which rule, drop the message, go on."""

    peer: str
    rule: str


@dataclass(frozen=True, slots=True)
class RoundOver:
    """For the operator's display: a round closed with this many sites."""

    stage: int
    round: int
    sites: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process. `reason` is "finished", "vetoed", "aborted" or "failed"."""

    reason: str
    detail: str = ""


Effect = (
    SayHello
    | SayLeave
    | KeepIncoming
    | Train
    | CancelTraining
    | Release
    | Resend
    | Prepare
    | Aggregate
    | OpenRound
    | CloseStudy
    | Persist
    | Refuse
    | RoundOver
    | Stop
)
