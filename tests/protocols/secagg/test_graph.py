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


def test_the_degree_at_a_sites_own_floor() -> None:
    """One in five corrupted, as each site demands: k / log2 n grows up to about 2,000 sites, and then no more."""
    found = {sites: sized(sites)[2].neighbours for sites in (101, 128, 200, 256, 400, 512, 724, 1000, 1024)}
    assert found == {101: 52, 128: 64, 200: 98, 256: 122, 400: 156, 512: 182, 724: 202, 1000: 220, 1024: 224}
    ratios = [k / math.log2(sites) for sites, k in found.items()]
    assert ratios == sorted(ratios)
    assert sized(5000)[2].neighbours / math.log2(5000) < sized(2000)[2].neighbours / math.log2(2000) < 23.1


def test_the_degree_grows_no_faster_than_the_logarithm_where_few_are_corrupted() -> None:
    degrees = {sites: sized(sites, sites // 20)[2].neighbours for sites in (1000, 4000, 16000)}
    ratio = {sites: k / math.log2(sites) for sites, k in degrees.items()}
    assert ratio[16000] <= ratio[4000] <= 1.05 * ratio[1000]


@pytest.mark.parametrize("sites", [101, 200, 400, 1000])
def test_who_may_fall_silent(sites: int) -> None:
    """Of those who advertised one in twenty at random, whoever they are; all corrupted sites are too many."""
    c, t, wanted = sized(sites)
    present = least_present(sites, t)
    draw = random.Random(sites)

    def stopped(silent: int) -> int:
        edges = neighbours(range(present), wanted.neighbours, draw.randbytes(32), bytes(32))
        left = set(draw.sample(range(present), present - silent))
        return sum(len(near & left) + (rank in left) < wanted.holders for rank, near in edges.items())

    assert not any(stopped(present // 20) for _ in range(20))
    assert all(stopped(c) for _ in range(20))


@pytest.mark.parametrize("sites", [5, 10, 50, 100])
def test_in_a_complete_graph_all_corrupted_may_fall_silent(sites: int) -> None:
    c, t, _ = sized(sites)
    assert sites - c >= t


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


@pytest.mark.parametrize("corrupted", [set(), {0}, {0, 6}])
def test_no_choice_of_dropouts_splits_a_graph(corrupted: set[int]) -> None:
    """The argument of graph.py, tried: with w + C + 2 shares, whatever set of sites is dropped, either some survivor's
    secret stays closed or the honest survivors hang together. Fourteen sites in a circle, w = 3, every set; and with
    fewer shares there are sets that split it, so that the search would find one."""
    sites, half = 14, 3
    circle = {r: {(r + step) % sites for step in (-3, -2, -1, 1, 2, 3)} for r in range(sites)}
    window = max(
        len({(r + s * d) % sites for d in range(1, half + 1)} & corrupted)
        for r in set(range(sites)) - corrupted for s in (-1, 1)
    )  # fmt: skip
    honest_sites = sorted(set(range(sites)) - corrupted)
    opened = split = 0
    for size in range(2, len(honest_sites) + 1):
        for honest in map(set, combinations(honest_sites, size)):
            shares = min(len((circle[r] | {r}) & (honest | corrupted)) for r in honest)
            whole = connected(honest, circle)
            if shares >= half + window + 2:
                opened += 1
                assert whole
            split += not whole and shares >= 2 + window
    assert opened > 1
    assert split


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
    assert "of these 45 falling silent at random" in said
    assert "all 199 by silence stop it" in said


def test_the_commitment_is_a_labelled_hash() -> None:
    assert commitment(bytes(32)) != hashlib.sha256(bytes(32)).digest()
    assert commitment(bytes(32)) != commitment(b"\1" * 32)
