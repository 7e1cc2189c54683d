"""Feature banks: a site's own momentum features, and two ways to draw Q' from all sites' (docs/method.md 2.3).

A bank here is torch on the training device; `types.Bank` is its form at the site's edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.types import Bank


@dataclass(frozen=True, slots=True)
class Features:
    """vectors: [B, d] float32, L2-normalised; partitions: [B] int64. Oldest first, where they form a queue."""

    vectors: Tensor
    partitions: Tensor

    def __len__(self) -> int:
        return len(self.partitions)

    def __repr__(self) -> str:
        return f"Features(size={len(self)})"


def empty(width: int, device: str) -> Features:
    return Features(torch.empty(0, width, device=device), torch.empty(0, dtype=torch.int64, device=device))


def join(*parts: Features) -> Features:
    return Features(torch.cat([p.vectors for p in parts]), torch.cat([p.partitions for p in parts]))


def enqueue(queue: Features, new: Features, capacity: int) -> Features:
    """First in, first out: the newest `capacity` of both."""
    both = join(queue, new)
    return Features(both.vectors[-capacity:], both.partitions[-capacity:])


def take(pool: Features, rows: Tensor) -> Features:
    return Features(pool.vectors[rows], pool.partitions[rows])


def uniform(pool: Features, count: int, generator: torch.Generator) -> Tensor:
    """Q' = {Q_i : i ~ U(|Q|, K)}: rows of `count` features, each as likely as any other, none twice.

    A pool of fewer is taken whole: repeating its members would only change their weight.
    """
    device = pool.vectors.device
    if len(pool) <= count:
        return torch.arange(len(pool), device=device)
    return torch.randperm(len(pool), generator=generator, device=device)[:count]


def stratified(pool: Features, count: int, partitions: int, generator: torch.Generator) -> Tensor:
    """Rows of K/S features of every partition, within it as `uniform`; where S does not divide K, partitions drawn anew
    each time give one more. A partition of fewer gives all it has, one that nobody has gives none, and no other makes
    up for it: the ratio of positives to negatives stays what the others have."""
    device = pool.vectors.device
    share, over = divmod(count, partitions)
    more = set(torch.randperm(partitions, generator=generator, device=device)[:over].tolist())
    rows = []
    for p in range(partitions):
        members = (pool.partitions == p).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator, device=device)
        rows.append(members[order[: share + (p in more)]])
    return torch.cat(rows)


def remote(banks: Mapping[str, Bank], width: int, partitions: int, device: str) -> Features:
    """The other sites' banks as one, in the order of their names, frozen for the round.

    Vectors are normalised again: noise or rounding on the way must not scale the loss. Raises ValueError if a bank
    does not fit the study; a node refuses such a bank when it arrives.
    """
    parts = [empty(width, device), *(from_bank(banks[name], width, partitions, device) for name in sorted(banks))]
    joined = join(*parts)
    return Features(F.normalize(joined.vectors, dim=1), joined.partitions)


def from_bank(bank: Bank, width: int, partitions: int, device: str) -> Features:
    """Raises ValueError if the bank is not finite [B, width] float32 with partitions [B] uint8 below `partitions`."""
    fits = (
        bank.features.dtype == np.float32
        and bank.partitions.dtype == np.uint8
        and bank.features.shape == (len(bank.partitions), width)
        and bool(np.isfinite(bank.features).all())
        and bool((bank.partitions < partitions).all())
    )
    if not fits:
        raise ValueError("a feature bank does not fit the study: shape, type, a value or a partition is wrong")
    vectors = torch.from_numpy(bank.features.copy())
    return Features(vectors.to(device), torch.from_numpy(bank.partitions.astype(np.int64)).to(device))


def to_bank(features: Features) -> Bank:
    return Bank(features.vectors.cpu().numpy().copy(), features.partitions.cpu().numpy().astype(np.uint8))
