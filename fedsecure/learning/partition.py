"""Structural partitions: which part of the organ a slice shows, told by its place along z alone (arXiv 2204.10983).

Every volume is cut along z, in order, into S contiguous partitions. Slices of one partition show about the same anatomy
in different patients; that is all the supervision federated contrastive learning needs.
"""

from __future__ import annotations

import numpy as np

from fedsecure.types import LabelArray


def partition_labels(slices: int, partitions: int) -> LabelArray:
    """Partition of each slice of a volume: [slices] uint8 in 0..partitions-1, never decreasing.

    The rule of docs/method.md 2.2: partitions of round_half_up(n/S) slices, the last one takes the
    rest. It leaves the last partition empty where the rest is nothing (6 slices, S = 4), and all above n-1 where there
    are fewer slices than partitions. Raises ValueError unless slices >= 1 and 2 <= partitions <= 255.
    """
    if slices < 1 or not 2 <= partitions <= 255:
        raise ValueError("a volume has at least one slice, and there are 2 to 255 partitions")
    # Half up in integers: Python's round() takes halves to even numbers.
    part = max((2 * slices + partitions) // (2 * partitions), 1)
    return np.minimum(np.arange(slices) // part, partitions - 1).astype(np.uint8)
