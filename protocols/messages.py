"""The messages, all of them. Each is a frozen struct of bounded fields, has one kind and one sender's role.

Those of secure aggregation are in `protocols.secagg.messages`, those of logs in `protocols.tlog.messages`, what fields
are made of in `protocols.fields`.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, assert_never

from msgspec import Meta

from keys.hpke import OVERHEAD
from protocols.fields import (
    FLOAT_SIZE,
    MAXIMUM_MEMBERS,
    Count,
    CountOrNone,
    Digest,
    Name,
    Signature,
    Wire,
    require_ascending,
    require_floats,
)
from protocols.secagg.messages import (
    AdvertiseKeys,
    AgreedResult,
    ConsistencyCheck,
    Keyset,
    MaskedInput,
    RelayShares,
    ResultAgreement,
    SecAggOpen,
    ShareKeys,
    SumResult,
    Survivors,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.tlog.messages import LogHead, LogHeads, LogWitness

CONTENT_KEY_SIZE = 32  # of a box: AES-256
TAG_SIZE = 16  # of AES-GCM
MAXIMUM_METRICS = 1024  # values of one report

WrappedKey = Annotated[bytes, Meta(min_length=CONTENT_KEY_SIZE + OVERHEAD, max_length=CONTENT_KEY_SIZE + OVERHEAD)]


class Kind(StrEnum):
    """The four ways out of a node, and no other."""

    RELEASE = "release"  # computed from volumes
    CONTROL = "control"  # no float, array or free text
    SHARE = "share"  # keys, sealed shares and signatures of secure aggregation, heads of logs
    PUBLISH = "publish"  # the coordinator's model, and boxes it relays


class Role(StrEnum):
    SITE = "site"
    COORDINATOR = "coordinator"


class LeaveReason(StrEnum):
    VETOED = "vetoed"
    FAILED = "failed"
    FINISHED = "finished"


class CloseReason(StrEnum):
    FINISHED = "finished"
    ABORTED = "aborted"


class Wrap(Wire, frozen=True):
    """A box's content key, sealed to one recipient by HPKE."""

    recipient: Name
    key: WrappedKey


class SealedBox(Wire, frozen=True):
    """Content for several members that whoever relays it can neither read, alter, split nor move to another round.

    Made by `protocols.seal`, opened by `protocols.box`. `wraps` are sorted by recipient, each once.
    """

    sender: Name
    ciphertext: Annotated[bytes, Meta(min_length=TAG_SIZE)]
    wraps: Annotated[tuple[Wrap, ...], Meta(min_length=1, max_length=MAXIMUM_MEMBERS)]
    signature: Signature

    def __post_init__(self) -> None:
        require_ascending(tuple(wrap.recipient for wrap in self.wraps))


class BankRef(Wire, frozen=True):
    """Announces one relayed box: whose it is, and `protocols.box.box_digest` of it."""

    site: Name
    digest: Digest


class TargetRef(Wire, frozen=True):
    """Announces the target network that a round begins with, which every site must arrive at.

    `digest`: SHA-256 of it as in TargetModel; `follows`: a TargetModel follows, else every site predicts it; `asked`:
    every site sends its own target network with the round's updates.
    """

    digest: Digest
    follows: bool
    asked: bool


class Hello(Wire, frozen=True, tag="hello"):
    """Site: I am here. Sent on joining and then as a heartbeat; the answer is whatever the site lacks.

    `boot` counts the site's starts; stage and round are of the round it works on with all that it needs, else of the
    last one it has done, both -1 before the first;
    `done`: it has sent everything of that round.
    """

    boot: Count
    stage: CountOrNone
    round: CountOrNone
    done: bool

    def __post_init__(self) -> None:
        if (self.stage < 0) != (self.round < 0) or (self.stage < 0 and self.done):
            raise ValueError("before the first round stage and round are both -1 and nothing is done")


class RoundDone(Wire, frozen=True, tag="round-done"):
    """Site: everything that I send in this round is on its way."""

    stage: Count
    round: Count


class Leave(Wire, frozen=True, tag="leave"):
    """Site: do not wait for me any more."""

    reason: LeaveReason


class WantTarget(Wire, frozen=True, tag="want-target"):
    """Site: what I predict is not the target network that the round announces; send it to me."""

    stage: Count
    round: Count


class AskTargets(Wire, frozen=True, tag="ask-targets"):
    """Coordinator, to all sites of a round or to none: send the target networks that the round ended with."""

    stage: Count
    round: Count


class StudyClosed(Wire, frozen=True, tag="study-closed"):
    """Coordinator: there is no further round."""

    reason: CloseReason


class WeightUpdate(Wire, frozen=True, tag="weight-update"):
    """Site: local minus global weights. `vector`: little-endian float32, tensors sorted by name."""

    stage: Count
    round: Count
    model_digest: Digest  # of the RoundOpen it answers
    vector: bytes

    def __post_init__(self) -> None:
        require_floats(self.vector)


class FeatureBank(Wire, frozen=True, tag="feature-bank"):
    """Site: features for the other sites, in a box: vectors or sums, as the study says."""

    stage: Count
    round: Count
    box: SealedBox


class PrototypeSum(Wire, frozen=True, tag="prototype-sum"):
    """Site: a vector that only enters the sum over all sites, which the next round opens with. `vector`: little-endian
    float32."""

    stage: Count
    round: Count
    model_digest: Digest  # of the RoundOpen whose model it was made with
    vector: bytes

    def __post_init__(self) -> None:
        require_floats(self.vector)


class MetricReport(Wire, frozen=True, tag="metric-report"):
    """Site: what the study has it measure. `values`: little-endian float32, in the order of the study's structures."""

    stage: Count
    round: Count
    values: Annotated[bytes, Meta(max_length=MAXIMUM_METRICS * FLOAT_SIZE)]

    def __post_init__(self) -> None:
        require_floats(self.values)


class TargetUpdate(Wire, frozen=True, tag="target-update"):
    """Site: its target network minus the round's. `vector` as in WeightUpdate."""

    stage: Count
    round: Count
    target_digest: Digest  # of the target network that the round began with
    vector: bytes

    def __post_init__(self) -> None:
        require_floats(self.vector)


class DistanceReport(Wire, frozen=True, tag="distance-report"):
    """Site: how far its target network is from what the prediction makes of its own round; one float32."""

    stage: Count
    round: Count
    distance: Annotated[bytes, Meta(min_length=FLOAT_SIZE, max_length=FLOAT_SIZE)]


class RoundOpen(Wire, frozen=True, tag="round-open"):
    """Coordinator: a round begins with this model and with these banks, which follow as BankRelay.

    `model`: safetensors, every tensor float32; `model_digest`: SHA-256 of it; `values`: in place of the model, to a
    site that has that of the round before, the values that changed, little-endian float32; `banks` sorted by site;
    `target`: none, or one where the round has a target network that is not part of the model; `prototypes`: the sum of
    the vectors that the sites sent as PrototypeSum in the round before, little-endian float32, empty where there is
    none.
    """

    stage: Count
    round: Count
    model_digest: Digest
    banks: Annotated[tuple[BankRef, ...], Meta(max_length=MAXIMUM_MEMBERS)]
    target: Annotated[tuple[TargetRef, ...], Meta(max_length=1)]
    prototypes: bytes
    values: bytes
    model: bytes

    def __post_init__(self) -> None:
        require_ascending(tuple(bank.site for bank in self.banks))
        require_floats(self.prototypes)
        require_floats(self.values)
        if self.values and (self.model or not self.round):
            raise ValueError("values come in place of a model, and after a round whose model they change")
        if not self.values and model_digest(self.model) != self.model_digest:
            raise ValueError("model_digest is the SHA-256 of model")


class TargetModel(Wire, frozen=True, tag="target-model"):
    """Coordinator: the target network of a round, as it was corrected or as a site asked for it.

    `target`: safetensors, every tensor float32; `target_digest`: SHA-256 of it.
    """

    stage: Count
    round: Count
    target_digest: Digest
    target: bytes

    def __post_init__(self) -> None:
        if model_digest(self.target) != self.target_digest:
            raise ValueError("target_digest is the SHA-256 of target")


class BankRelay(Wire, frozen=True, tag="bank-relay"):
    """Coordinator: a site's box, as it came. `stage` and `round` are those of the FeatureBank it came in."""

    stage: Count
    round: Count
    site: Name
    box: SealedBox

    def __post_init__(self) -> None:
        if self.site != self.box.sender:
            raise ValueError("a box is relayed under its sender's name")


Logging = LogHead | LogHeads | LogWitness
Control = Hello | RoundDone | Leave | WantTarget | AskTargets | StudyClosed
Unmasked = WeightUpdate | FeatureBank | PrototypeSum | MetricReport | TargetUpdate | DistanceReport
Release = Unmasked | MaskedInput
Publish = RoundOpen | BankRelay | TargetModel | SecAggOpen | SumResult
SiteShare = AdvertiseKeys | ShareKeys | ConsistencyCheck | UnmaskShares | ResultAgreement
CoordinatorShare = Keyset | RelayShares | Survivors | UnmaskRequest | AgreedResult
Share = SiteShare | CoordinatorShare | Logging
SumAnswer = SiteShare | MaskedInput  # of a site in a secure sum
SumRequest = CoordinatorShare | SecAggOpen | SumResult  # of the coordinator
Message = Control | Release | Publish | Share


def kind_of(message: Message) -> Kind:
    """Which way out the message takes. A message in two kinds, or in none, does not type-check."""
    match message:
        case Hello() | RoundDone() | Leave() | WantTarget() | AskTargets() | StudyClosed():
            return Kind.CONTROL
        case WeightUpdate() | FeatureBank() | PrototypeSum() | MetricReport() | TargetUpdate() | DistanceReport():
            return Kind.RELEASE
        case MaskedInput():
            return Kind.RELEASE
        case RoundOpen() | BankRelay() | TargetModel() | SecAggOpen() | SumResult():
            return Kind.PUBLISH
        case AdvertiseKeys() | ShareKeys() | ConsistencyCheck() | UnmaskShares() | ResultAgreement():
            return Kind.SHARE
        case Keyset() | RelayShares() | Survivors() | UnmaskRequest() | AgreedResult():
            return Kind.SHARE
        case LogHead() | LogHeads() | LogWitness():
            return Kind.SHARE
        case _:
            assert_never(message)


def role_of(message: Message) -> Role:
    """Who may send it. The other role receives it: sites do not write to each other."""
    match message:
        case Hello() | RoundDone() | Leave() | WantTarget() | LogHead() | LogWitness():
            return Role.SITE
        case WeightUpdate() | FeatureBank() | PrototypeSum() | MetricReport() | TargetUpdate() | DistanceReport():
            return Role.SITE
        case MaskedInput():
            return Role.SITE
        case AdvertiseKeys() | ShareKeys() | ConsistencyCheck() | UnmaskShares() | ResultAgreement():
            return Role.SITE
        case AskTargets() | StudyClosed() | RoundOpen() | BankRelay() | TargetModel() | SecAggOpen() | SumResult():
            return Role.COORDINATOR
        case LogHeads():
            return Role.COORDINATOR
        case Keyset() | RelayShares() | Survivors() | UnmaskRequest() | AgreedResult():
            return Role.COORDINATOR
        case _:
            assert_never(message)


def model_digest(model: bytes) -> bytes:
    """SHA-256 of a model's or target network's bytes, by which updates say what they were computed from."""
    return hashlib.sha256(model).digest()
