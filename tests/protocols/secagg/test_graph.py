from __future__ import annotations

import hashlib
import math
import random
from itertools import combinations

import pytest

from protocols.secagg.graph import COMPLETE, Degree, _tail, commitment, degree, least_present, neighbours, neighbours_of
from protocols.secagg.manifest import assumed_corrupted, least_threshold


def sized(sites: int, corrupted: int | None = None) -> tuple[int, int, Degree]:
    c = assumed_corrupted(sites) if corrupted is None else corrupted
    t = least_threshold(sites, c)
    return c, t, degree(sites, c, t)


def test_a_hundred_sites_are_a_complete_graph() -> None:
    _, t, wanted = sized(COMPLETE)
    assert wanted == Degree(0, t)
    assert sized(COMPLETE + 1)[2].neighbours > 0
    assert neighbours(range(4), 0, bytes(32), bytes(32)) == {r: frozenset(range(4)) - {r} for r in range(4)}


def test_the_degree_grows_no_faster_than_the_logarithm() -> None:
    degrees = {sites: sized(sites, sites // 20)[2].neighbours for sites in (1000, 4000, 16000)}
    ratio = {sites: k / math.log2(sites) for sites, k in degrees.items()}
    assert ratio[16000] <= ratio[4000] <= 1.05 * ratio[1000]


def test_a_graph_is_regular_symmetric_and_follows_from_the_seed() -> None:
    edges = neighbours(range(120), 20, b"k" * 32, b"o" * 32)
    assert all(len(near) == 20 and rank not in near for rank, near in edges.items())
    assert all(rank in edges[other] for rank, near in edges.items() for other in near)
    assert all(near == neighbours_of(r, range(120), 20, b"k" * 32, b"o" * 32) for r, near in edges.items())
    assert edges == neighbours(reversed(range(120)), 20, b"k" * 32, b"o" * 32)
    assert edges != neighbours(range(120), 20, b"K" * 32, b"o" * 32)
    assert edges != neighbours(range(120), 20, b"k" * 32, b"O" * 32)


@pytest.mark.parametrize("sites", [101, 300, 1000])
def test_the_bound_holds_for_random_corrupted_sites(sites: int) -> None:
    """Whoever is corrupted, no half neighbourhood of an honest site has more of them than the bound says."""
    c, _, wanted = sized(sites)
    draw, half = random.Random(sites), wanted.neighbours // 2
    for attempt in range(20):
        edges = neighbours(range(sites), wanted.neighbours, bytes([attempt]) * 32, bytes(32))
        corrupted = set(draw.sample(range(sites), c))
        assert max(len(near & corrupted) for near in edges.values()) <= 2 * wanted.window
        assert 2 * wanted.window < wanted.holders <= wanted.neighbours + 1
    assert wanted.holders == half + wanted.window + 2


def test_no_choice_of_dropouts_splits_a_graph() -> None:
    """The argument of graph.py, tried: with t_k > w + C + 1 shares, whatever set of sites is dropped, either some
    survivor's secret stays closed or the honest survivors hang together. Twelve sites in a circle, every set."""
    sites, half = 12, 2
    circle = {r: {(r + step) % sites for step in (-2, -1, 1, 2)} for r in range(sites)}
    for corrupted in (set(), {0}, {0, 6}):
        window = max(
            len({(r + s * d) % sites for d in range(1, half + 1)} & corrupted)
            for r in set(range(sites)) - corrupted for s in (-1, 1)
        )  # fmt: skip
        holders = half + window + 2
        for left in (set(c) | corrupted for size in range(2, sites + 1) for c in combinations(range(sites), size)):
            honest = left - corrupted
            opens = all(len((circle[r] | {r}) & left) >= holders for r in honest)
            assert not honest or not opens or connected(honest, circle)


def connected(some: set[int], edges: dict[int, set[int]]) -> bool:
    found, queue = set(), [min(some)]
    while queue:
        rank = queue.pop()
        if rank not in found:
            found.add(rank)
            queue += edges[rank] & some
    return found == some


def test_tails_are_exact() -> None:
    """Against counting all draws: 3 of 7 marked, 4 drawn."""
    draws = [len(set(drawn) & {0, 1, 2}) for drawn in combinations(range(7), 4)]
    for most in range(4):
        above, total = _tail(7, 3, 4, most)
        assert above * len(draws) == sum(hits > most for hits in draws) * total


def test_too_many_corrupted_sites_have_no_graph() -> None:
    with pytest.raises(ValueError, match="no graph"):
        degree(200, 99, 150)


def test_above_a_hundred_nine_in_ten_must_be_there() -> None:
    assert least_present(10, 6) == 6
    assert least_present(1000, 600) == 900
    assert least_present(1000, 950) == 950


def test_what_is_guaranteed_is_said_in_words() -> None:
    assert "1 of them together with the coordinator learn the sum of the others" in sized(10)[2].guarantee(10, 1)
    said = sized(1000)[2].guarantee(1000, 199)
    assert "220 neighbours each of 1000 sites" in said
    assert "2^-40" in said


def test_the_commitment_is_a_labelled_hash() -> None:
    assert commitment(bytes(32)) != hashlib.sha256(bytes(32)).digest()
    assert commitment(bytes(32)) != commitment(b"\1" * 32)
