"""The values that data passes through, one type per door, so that a wrong hand-over does not type-check.

    file -> Volume -> (training) -> Update -> Accounted -> Released -> wire
                                                            Disclosed -> post_processed -> Disclosed     free of charge

All are frozen, and free of torch: they cross processes as arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.uint8]
_T = TypeVar("_T")
_R = TypeVar("_R")
Tensors = Mapping[str, FloatArray]  # a model: name -> float32 array, in the order of its schema
State = Mapping[str, FloatArray | LabelArray]  # arrays of the only two dtypes there are, by name


@dataclass(frozen=True, slots=True)
class Volume:
    """One 3D image that came through the data door. Headers and names did not.

    image: [Z, H, W] float32, normalised per volume, memory-mapped; label: [Z, H, W] uint8 or None;
    spacing_mm: (z, y, x) of this grid, nominal where the source's own is.
    """

    subject: str
    frame: int
    image: FloatArray
    label: LabelArray | None
    spacing_mm: tuple[float, float, float]

    def __repr__(self) -> str:
        return f"Volume(shape={self.image.shape}, labelled={self.label is not None})"


@dataclass(frozen=True, slots=True)
class Subject:
    """One patient: the unit of splitting and of privacy. `id` is opaque and keyed by a secret of the site."""

    id: str
    group: str | None
    volumes: tuple[Volume, ...]

    @property
    def labelled(self) -> bool:
        return any(volume.label is not None for volume in self.volumes)


@dataclass(frozen=True, slots=True)
class Cohort:
    """What one site trains on and what it holds out. No patient is on both sides."""

    train: tuple[Subject, ...]
    held_out: tuple[Subject, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name and shape of one float32 tensor of a model."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


Schema = tuple[TensorSpec, ...]


def schema_of(tensors: State) -> Schema:
    """Names and shapes, in the order of the mapping."""
    return tuple(TensorSpec(name, tuple(array.shape)) for name, array in tensors.items())


def schema_size(schema: Schema) -> int:
    """Number of float32 values of a model."""
    return sum(spec.size for spec in schema)


@dataclass(frozen=True, slots=True)
class Bank:
    """Momentum features of one site with the structural partition each came from (docs/method.md 2.3).

    features: [B, d] float32, L2-normalised; partitions: [B] uint8 in 0..S-1.
    """

    features: FloatArray
    partitions: LabelArray

    def __repr__(self) -> str:
        return f"Bank(size={len(self.partitions)})"


class Flow(StrEnum):
    """What a release carries. Anything else has no way out."""

    WEIGHTS = "weights"
    FEATURES = "features"
    PROTOTYPES = "prototypes"
    PROTOTYPE_SUM = "prototype-sum"
    METRICS = "metrics"
    TARGET = "target"
    DISTANCE = "distance"


@dataclass(frozen=True, slots=True)
class Update:
    """What training computed from volumes, before any protection. Never leaves a site.

    WEIGHTS: one array per tensor, local minus global. FEATURES: "features" [B, d] and "partitions" [B].
    PROTOTYPES, PROTOTYPE_SUM: "entries" [patients, cells, d], of which the gate makes one sum, sealed for the other
    sites or to enter the sum over all sites.
    METRICS: "dice" [structures] or "knn_partition_accuracy" [1]. TARGET: one array per tensor of the target network,
    the site's minus the shared one. DISTANCE: "distance" [1], not negative.
    """

    flow: Flow
    arrays: State

    def __repr__(self) -> str:
        return f"Update({self.flow}, arrays={len(self.arrays)})"


@dataclass(frozen=True, slots=True)
class Accounted:
    """An update whose privacy cost is on the ledger. Only the gate makes one."""

    update: Update
    event: str  # the accountant's name of what happened, e.g. "non-private"

    def __repr__(self) -> str:
        return f"Accounted({self.update.flow}, {self.event})"


@dataclass(frozen=True, slots=True)
class Released:
    """A sealed frame with its log row written. The one type the transport of a site accepts."""

    frame: bytes = field(repr=False)
    kind: str
    flow: str
    stage: int
    round: int


@dataclass(frozen=True, slots=True)
class Disclosed(Generic[_T]):
    """A value that others have already: what a site released, or what the coordinator published.

    source: the release, or the digest of the signed frame, by which they have it. Weights before noise, banks and
    momentum encoders of a site are never disclosed, whatever they were computed from.
    """

    value: _T
    source: Released | bytes

    def __repr__(self) -> str:
        return "Disclosed()"


def post_processed(function: Callable[..., _R], *inputs: Disclosed[Any]) -> Disclosed[_R]:
    """`function` of disclosed values alone: the one computation whose result costs no privacy.

    It type-checks for nothing else, so an update of a site cannot be taken for free by mistake. `function` must look
    at its arguments alone.
    """
    if not inputs:
        raise ValueError("a result of nothing disclosed is not post-processing")
    return Disclosed(function(*(one.value for one in inputs)), inputs[0].source)
