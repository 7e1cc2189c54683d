"""Who shares masks and shares with whom: everybody with everybody up to 100 sites, a random regular graph above.

After Bell, Bonawitz, Gascon, Lepoint, Raykova (CCS 2020): a Harary graph on a random permutation. Sites stand in a
circle and each has the k/2 to either side for neighbours. For many thousands k grows with the logarithm of their
number; with one in five corrupted it grows faster up to about 2,000 sites, as few corrupted ones among few can all be
in one place: k / log2 n is 8 at 101 sites, 13 at 200, 18 at 400, 22 at 1,000, 23 at 2,000 and at 5,000. What differs
from the paper is the argument, which is ours and holds against a coordinator that chooses who drops out after it has
seen the graph:

    Let w = k/2, let the w places to either side of an honest site hold at most C corrupted ones, and let w + C + 2
    shares open a secret. If the honest survivors fell apart, each part would have an honest end, beyond which w places
    hold no honest survivor. Of the end's seed 1 share is its own, w come from the side of its part and C from corrupted
    sites beyond: one too few. So a sum is opened only if it is of all honest survivors together. And all corrupted
    neighbours of a site have at most 2C shares, too few as well where C < w + 2.

Staying alive is another matter. Nine in ten sites must advertise, and of those one in twenty may fall silent later, at
random places; corrupted sites do not choose theirs, and count like others. All corrupted sites together, one in five,
stop a sum by silence. In a complete graph n - t sites may, which is c or more from 4 sites on.

That the graph is bad has a probability below 2^-40, also for an adversary that tries 2^64 keysets: the permutation
follows from all advertised keys and from a seed to which the coordinator committed before it saw one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from typing import Final

from keys.encoding import prefixed, u64

COMPLETE: Final = 100  # sites up to which the graph is complete
FAILURE_BITS: Final = 40  # a graph is bad with a probability of at most 2^-40 ...
GRINDING_BITS: Final = 64  # ... for whoever can try 2^64 of them
LIVENESS_BITS: Final = 20  # 1 in 20 sites dropping out at random stops a sum with a probability of at most 2^-20
_DROPOUTS: Final = 20

_ORDER_LABEL: Final = b"fedsecure/secagg/graph/v1"
_COMMIT_LABEL: Final = b"fedsecure/secagg/graph/commitment/v1"


@dataclass(frozen=True, slots=True)
class Degree:
    """neighbours: k, 0 for the complete graph; holders: shares that open a secret; window: C, corrupted sites that the
    argument above allows among k/2 consecutive ones."""

    neighbours: int
    holders: int
    window: int = 0

    def guarantee(self, sites: int, corrupted: int) -> str:
        """What is guaranteed, in words for a report."""
        if not self.neighbours:
            return (
                f"complete graph of {sites} sites: {corrupted} of them together with the coordinator learn the sum of "
                f"the others and no more; {self.holders} sites must stay to the end"
            )
        return (
            f"random graph, {self.neighbours} neighbours each of {sites} sites, {self.holders} shares open a secret: "
            f"but for a probability of 2^-{FAILURE_BITS} (after 2^{GRINDING_BITS} attempts to choose the graph), "
            f"{corrupted} sites together with a coordinator that chooses who drops out learn the sum of all other "
            f"survivors and no more; nine in ten must advertise, and of these {sites * 9 // 10 // _DROPOUTS} falling "
            f"silent at random stop a sum with a probability of at most 2^-{LIVENESS_BITS}; all {corrupted} by silence "
            "stop it"
        )


def least_present(sites: int, threshold: int) -> int:
    """Sites that must have advertised. Above 100 nine in ten: fewer would raise the share of the corrupted."""
    return threshold if sites <= COMPLETE else max(threshold, -(-9 * sites // 10))


@lru_cache(maxsize=64)
def degree(sites: int, corrupted: int, threshold: int) -> Degree:
    """The smallest degree with the two bounds above. Raises ValueError if there is none below the complete graph."""
    if sites <= COMPLETE:
        return Degree(0, threshold)
    present = least_present(sites, threshold)
    for half in range(4, (present - 1) // 2):
        window = _window(present - 1, corrupted, half, sites)
        holders = half + window + 2
        spare = 2 * half + 1 - holders
        if window <= half + 1 and spare > 0:
            stopped = _tail(present - 1, -(-present // _DROPOUTS), 2 * half, spare)
            if sites * stopped[0] << LIVENESS_BITS <= stopped[1]:
                return Degree(2 * half, holders, window)
    raise ValueError("no graph holds so many corrupted sites: lower their number or the number of sites")


def neighbours(ranks: Iterable[int], degree_: int, keyset: bytes, opening: bytes) -> Mapping[int, frozenset[int]]:
    """rank -> the ranks of its neighbours. The order of the circle is that of a hash of keyset, opening and rank."""
    circle = _circle(ranks, keyset, opening)
    return {rank: _around(circle, place, degree_) for place, rank in enumerate(circle)}


def neighbours_of(rank: int, ranks: Iterable[int], degree_: int, keyset: bytes, opening: bytes) -> frozenset[int]:
    """Those of one of `ranks`, which need not look at the others'."""
    circle = _circle(ranks, keyset, opening)
    return _around(circle, circle.index(rank), degree_)


def commitment(opening: bytes) -> bytes:
    """What the manifest says of the coordinator's 32 bytes before keys are advertised. The opening is uniform."""
    return hashlib.sha256(prefixed(_COMMIT_LABEL, opening)).digest()


def _circle(ranks: Iterable[int], keyset: bytes, opening: bytes) -> list[int]:
    return sorted(ranks, key=lambda rank: hashlib.sha256(prefixed(_ORDER_LABEL, keyset, opening, u64(rank))).digest())


def _around(circle: list[int], place: int, degree_: int) -> frozenset[int]:
    """All others in a complete graph, or where there are too few for more."""
    if not degree_ or len(circle) <= degree_ + 1:
        return frozenset(circle) - {circle[place]}
    half = degree_ // 2
    return frozenset(circle[(place + step) % len(circle)] for step in (*range(-half, 0), *range(1, half + 1)))


def _window(population: int, corrupted: int, width: int, sites: int) -> int:
    """The most corrupted ones in `width` places, but for the allowed probability in any of two windows a site."""
    for window in range(width):
        above, total = _tail(population, corrupted, width, window)
        if 2 * sites * above << (FAILURE_BITS + GRINDING_BITS) <= total:
            return window
    return width


def _tail(population: int, marked: int, drawn: int, most: int) -> tuple[int, int]:
    """P[more than `most` of `marked` among `drawn` without replacement] as an exact fraction (hypergeometric)."""
    hits = range(most + 1, min(marked, drawn) + 1)
    return sum(comb(marked, i) * comb(population - marked, drawn - i) for i in hits), comb(population, drawn)
