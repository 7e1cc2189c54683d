"""The bytes of a secure sum: of the vector by hand, of the rest as the protocol's own parties make it."""

from __future__ import annotations

import pytest

from fedsecure.config import Study, parse_study
from fedsecure.report.sum_bytes import SumBytes, sum_bytes
from fedsecure.types import Flow, TensorSpec

MODEL = (TensorSpec("a", (10_000,)),)


def study(sites: int = 5, **security: object) -> Study:
    members = [{"name": f"site-{number:04}", "weight": 3} for number in range(sites)]
    return parse_study({"sites": members, "security": security})


def cost(sites: int = 5, values: int = 10_000, **security: object) -> SumBytes:
    return sum_bytes(study(sites, **security), (Flow.WEIGHTS,), (TensorSpec("a", (values,)),))


@pytest.mark.parametrize("ring", [16, 20, 24, 32])
def test_a_value_has_the_bits_of_the_ring(ring: int) -> None:
    assert cost(ring=ring).vector - cost(ring=ring, values=2_000).vector == 8_000 * ring // 8
    assert 0 < cost(ring=ring).vector - 10_000 * ring / 8 < 300  # header, signature, digest of the keyset


def test_keys_and_shares_do_not_hang_on_the_vector_and_grow_with_the_sites() -> None:
    short, long = cost(values=1_000), cost(values=100_000)
    assert (short.up, short.down) == pytest.approx((long.up, long.down), abs=8)  # lengths are written shorter
    for fewer, more in ((5, 10), (10, 20)):
        assert 1.6 < cost(more).up / cost(fewer).up < 2.3
        assert 1.6 < cost(more).down / cost(fewer).down < 2.3


def test_the_rest_by_hand_for_five_sites() -> None:
    """Four neighbours: sealed shares of 1202 bytes, for two of them on average offers of 1168; two publics of 1216."""
    found, frames = cost(), 5 * 200
    assert found.up == pytest.approx(4 * 1202 + 2 * 1168 + 2 * 1216 + 5 * 3 * 64 + 5 * 35 + frames, rel=0.15)
    assert found.down == pytest.approx(4 * (2 * 1216 + 1202 + 3 * 64) + 2 * 1168 + 7 * 200 + 2 * 5 * 66 + 500, rel=0.15)


def test_above_100_sites_only_neighbours_cost_keys_and_shares() -> None:
    """k = 98 of 200 sites: less than of 150 sites in a graph that were complete."""
    assert cost(200).up < 1.1 * cost(100).up
