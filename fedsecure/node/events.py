"""What can happen to a node, and what a node can want. Frozen values; no machine knows a socket, a file or a clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fedsecure.types import Flow
from protocols.messages import BankRelay, Message, RoundOpen, SumAnswer, SumRequest, TargetModel, Unmasked

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
class TargetFound:
    """The site's own answer to a round's target network. `digest`: of what it holds or predicts; empty if nothing."""

    stage: int
    round: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Prepared:
    """The first model of a stage is in the coordinator's store, with a target network if its digest is not empty."""

    stage: int
    model_digest: bytes
    target_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Bounded:
    """The sites' scores of a round bound the relative distance of its predicted target from above."""

    stage: int
    round: int
    bound: float


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The model after a round is in the coordinator's store, and its target network if `target_digest` is not empty.

    distance: measured, of its prediction; None if it was not measured. corrected: it is not the prediction.
    """

    stage: int
    round: int
    model_digest: bytes
    target_digest: bytes = b""
    distance: float | None = None
    corrected: bool = False


class SumStep(StrEnum):
    """Steps of a secure sum, by what sites answer in them (protocols/secagg/SPEC.md)."""

    KEYS = "advertise-keys"
    SHARES = "share-keys"
    VECTORS = "masked-input"
    CHECKS = "consistency-check"
    ANSWERS = "unmask-shares"
    AGREEMENT = "result-agreement"


@dataclass(frozen=True, slots=True)
class SumStands:
    """Where the running sum is: who has not answered its step yet. told: they were sent its message just now."""

    attempt: int
    step: SumStep
    waiting: tuple[str, ...]
    told: bool = False


@dataclass(frozen=True, slots=True)
class SumShort:
    """Too few sites answered a step that was closed. Nothing was opened in it."""

    attempt: int
    step: SumStep
    reason: str


@dataclass(frozen=True, slots=True)
class SumDone:
    """The sum is in the coordinator's store, and `agreed` know what came of it. survivors: whose sum it is."""

    attempt: int
    survivors: tuple[str, ...]
    agreed: tuple[str, ...]


Event = (
    FrameIn | Restarted | Tick | Veto | TrainDone | TrainFailed | TargetFound | Prepared | Bounded | Aggregated
    | SumStands | SumShort | SumDone
)  # fmt: skip

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
    """Write what a round needs to disk: models and sealed banks at a site, what sites released at the coordinator."""

    sender: str
    message: RoundOpen | BankRelay | TargetModel | Unmasked


@dataclass(frozen=True, slots=True)
class FindTarget:
    """Look whether the target network that is held is the announced one, else predict it; `TargetFound` follows."""

    stage: int
    round: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SayWantTarget:
    """Site -> coordinator: send me the round's target network."""

    stage: int
    round: int


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
    """Hand the round's updates to the gate, with the site's target network if `targets`, then say RoundDone."""

    stage: int
    round: int
    targets: bool


@dataclass(frozen=True, slots=True)
class ReleaseTarget:
    """Hand the target network that a finished round ended with to the gate."""

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
    """FedAvg the stored updates of these sites onto the round's model, and predict its target network or, with
    `targets`, measure the prediction by the sites' own; `Aggregated` follows."""

    stage: int
    round: int
    sites: tuple[str, ...]
    targets: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """Put the scores of these sites together; `Bounded` follows."""

    stage: int
    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenRound:
    """Publish the round's model to one site, relay the banks of the others, and send the target network if it
    `follows`. asked: the site is to send its own with its updates. behind: it may not know what came of the stage's
    sums, and is shown. holds: updates are sparse, and it
    has the model of the round before."""

    site: str
    stage: int
    round: int
    banks: tuple[str, ...]
    follows: bool = False
    asked: bool = False
    behind: bool = False
    holds: bool = False


@dataclass(frozen=True, slots=True)
class SendTarget:
    """Send one site the target network of the round."""

    site: str
    stage: int
    round: int


@dataclass(frozen=True, slots=True)
class OpenSum:
    """Begin a secure sum of these flows among `sites`, or go on with it after a restart; `SumStands` follows."""

    stage: int
    round: int
    attempt: int
    flows: tuple[Flow, ...]
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakeForSum:
    """Check and keep what a site says in the running sum; `SumStands` follows if it counts."""

    sender: str
    message: SumAnswer


@dataclass(frozen=True, slots=True)
class CloseSumStep:
    """Go on with whoever answered this step, if it still runs; `SumStands`, `SumShort` or `SumDone` follows."""

    attempt: int
    step: SumStep


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Send a site the running step's message again."""

    site: str


@dataclass(frozen=True, slots=True)
class HearSum:
    """Site: take a step of a secure sum. mine: it may begin one here, of the round that this site has done."""

    message: SumRequest
    mine: bool


@dataclass(frozen=True, slots=True)
class AskForTarget:
    """Ask one site for the target network that it ended the round with."""

    site: str
    stage: int
    round: int


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
    | FindTarget
    | SayWantTarget
    | Train
    | CancelTraining
    | Release
    | ReleaseTarget
    | Resend
    | Prepare
    | Score
    | Aggregate
    | OpenRound
    | SendTarget
    | AskForTarget
    | OpenSum
    | TakeForSum
    | CloseSumStep
    | AskAgain
    | HearSum
    | CloseStudy
    | Persist
    | Refuse
    | RoundOver
    | Stop
)
