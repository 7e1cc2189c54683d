"""Every pseudo-random choice of a study has a seed of its own, derived from the study's seed and a label.

Nothing keeps generator state between rounds: a round that is replayed after a crash draws the same numbers. These
seeds decide *results* (views, batches, splits); they never touch keys, masks or privacy noise.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed bound to all `labels`, each of them length-prefixed so that ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256(b"fedsecure/seed/v1")
    for part in (str(seed), *(str(label) for label in labels)):
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return int.from_bytes(digest.digest()[:8], "big") >> 1
