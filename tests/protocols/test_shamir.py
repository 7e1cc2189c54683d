"""Everything in a tiny field, some of it in the real one."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.shamir import PRIME, SHARE_SIZE, combine, parse_share, secret_bytes, share_bytes, split

TINY = 5


@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_every_sharing_in_a_tiny_field(threshold: int) -> None:
    """All secrets, all polynomials, all subsets: t shares give the secret; t - 1 fit every secret equally often."""
    points = (1, 2, 3, 4)
    views: dict[tuple[object, ...], list[int]] = {}
    for secret, *drawn in itertools.product(range(TINY), repeat=threshold):
        draws = iter(drawn)
        shares = split(secret, points, threshold, lambda size, d=draws: next(d).to_bytes(size, "big"), TINY)
        for some in itertools.combinations(points, threshold):
            assert combine({x: shares[x] for x in some}, TINY) == secret
        for few in itertools.combinations(points, threshold - 1):
            views.setdefault((few, *(shares[x] for x in few)), []).append(secret)
    assert all(sorted(fits) == list(range(TINY)) for fits in views.values())


@given(st.integers(0, 2**256 - 1), st.integers(1, 8), st.data())
def test_any_t_of_n(secret: int, threshold: int, data: st.DataObject) -> None:
    points = data.draw(st.lists(st.integers(1, 1024), min_size=threshold, max_size=12, unique=True))
    shares = split(secret, points, threshold, os.urandom)
    some = data.draw(st.permutations(points))[:threshold]
    assert combine({x: parse_share(share_bytes(shares[x])) for x in some}) == secret


@pytest.mark.parametrize(
    ("secret", "points", "threshold", "rule"),
    [
        (1, (0, 1, 2), 2, "not 0"),
        (1, (1, 1, 2), 2, "different"),
        (1, (1, 6), 2, "different"),
        (1, (5,), 1, "not 0"),
        (1, (1, 2), 3, "threshold"),
        (1, (1, 2), 0, "threshold"),
        (5, (1, 2), 2, "element of the field"),
    ],
)
def test_what_is_no_sharing(secret: int, points: tuple[int, ...], threshold: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        split(secret, points, threshold, os.urandom, TINY)


@pytest.mark.parametrize("raw", [b"", bytes(32), bytes(34), share_bytes(PRIME), b"\xff" * SHARE_SIZE])
def test_what_is_no_share(raw: bytes) -> None:
    with pytest.raises(ValueError, match="element of the field"):
        parse_share(raw)


@pytest.mark.parametrize("value", [-1, 2**256, PRIME - 1])
def test_what_is_no_secret(value: int) -> None:
    with pytest.raises(ValueError, match="not a secret"):
        secret_bytes(value)
