"""The number printed is the number that holds: against the closed form, across accountants, whatever was released."""

from __future__ import annotations

import math
import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsecure.privacy import accountant, events, gdp
from fedsecure.privacy.accountant import Filter, UnknownEvent, excess, spent
from fedsecure.privacy.events import BadGraph, Contribution, DiscreteGaussian, Event, Gaussian, NonPrivate

DELTA = 1e-5


def gaussian(z: float, count: int = 1, sampling: float = 1.0, flow: str = "weights") -> Gaussian:
    return Gaussian(flow=flow, sensitivity=2.0, sigma=2 * z, sampling=sampling, count=count)


def discrete(
    z: float, count: int = 1, shares: int = 4, sampling: float = 1.0, distance: float = 1e-36
) -> DiscreteGaussian:
    return DiscreteGaussian(
        flow="weights",
        sensitivity=20.0,
        share_sigma=z * 20 / math.sqrt(shares),
        shares=shares,
        dimension=5000,
        distance=distance,
        sampling=sampling,
        count=count,
    )


@pytest.mark.parametrize(
    ("released", "epsilon"),
    [
        ([gaussian(3.73)], 1.0),
        ([gaussian(11.8, 10)], 1.0),
        ([gaussian(3.42, 10)], 4.0),
        ([gaussian(8.49, 200)], 8.0),
        ([gaussian(15, 200), gaussian(8, 10)], 4.49),
    ],
)
def test_pld_is_within_one_per_cent_of_the_closed_form_and_of_published_figures(
    released: list[Event], epsilon: float
) -> None:
    found = spent(released, DELTA)
    assert found.closed is not None
    assert found.epsilon == found.pld == pytest.approx(found.closed, rel=0.01)
    assert found.epsilon == pytest.approx(epsilon, rel=0.01)


def test_a_mixed_ledger_takes_less_than_three_seconds_and_rdp_is_above_pld() -> None:
    released = [gaussian(1.1, 200, 0.1), gaussian(8, 10, flow="features"), gaussian(20, 200, flow="distance")]
    released.append(gaussian(5, 3, flow="tuning"))
    start = time.process_time()
    found = spent(released, DELTA)
    assert time.process_time() - start < 3
    assert found.pld == pytest.approx(9.53, abs=0.02)
    assert found.rdp == pytest.approx(10.43, abs=0.02)
    assert found.closed is None  # sampled: there is none


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1.5, 50), st.integers(1, 20), st.sampled_from([1.0, 1.0, 0.5, 0.1])), min_size=1, max_size=3
    )
)
def test_rdp_is_never_below_pld(parts: list[tuple[float, int, float]]) -> None:
    found = spent([gaussian(*part) for part in parts], DELTA)
    assert found.pld is not None
    assert found.rdp >= found.pld - 1e-3


def test_the_doubled_sensitivity_of_a_site_update_is_counted_once() -> None:
    bound = 1.5
    site = events.sensitivity_of(Contribution.SITE_UPDATE, bound)
    assert site == 2 * bound
    assert events.sensitivity_of(Contribution.PATIENT_SUM, bound) == bound
    twice = Gaussian(flow="weights", sensitivity=site, sigma=8 * bound)
    assert spent([twice], DELTA).epsilon == pytest.approx(gdp.epsilon_of(1 / 4, DELTA), rel=0.01)


def test_discrete_noise_is_charged_by_rdp_and_pld_is_a_reference_below_it() -> None:
    found = spent([discrete(3, 10)], DELTA)
    assert found.discrete
    assert found.accountant.startswith("RDP")
    assert found.epsilon == found.rdp
    assert found.pld is not None
    assert found.closed is not None
    assert found.pld == pytest.approx(found.closed, rel=0.01)
    assert found.closed < found.rdp < 1.15 * found.closed


def test_one_discrete_flow_puts_the_whole_composition_under_rdp() -> None:
    found = spent([gaussian(3, 10), discrete(3, 10)], DELTA)
    assert found.epsilon == found.rdp > spent([gaussian(3, 10)], DELTA).epsilon


def test_zcdp_of_the_sum_is_the_textbook_conversion() -> None:
    """rho = 1/2z^2, at most rho + 2 sqrt(rho log 1/delta) (Bun and Steinke), and not far below."""
    rho = 10 / (2 * 3**2)
    found = spent([discrete(3, 10)], DELTA).epsilon
    loose = rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
    assert 0.8 * loose < found < loose


def test_poisson_sampling_amplifies_discrete_noise_at_whole_orders() -> None:
    """The moments E_Q[(P/Q)^k] the bound rests on, computed from the law itself, not from the continuous formula."""
    sigma, shift = 6.0, 4
    x = np.arange(-400, 401, dtype=np.float64)

    def log_law(mean: float) -> np.ndarray:
        w = -((x - mean) ** 2) / (2 * sigma**2)
        return w - np.logaddexp.reduce(w)

    p, q = log_law(shift), log_law(0)
    for k in (2, 3, 8, 16):
        moment = np.logaddexp.reduce(q + k * (p - q))
        assert moment == pytest.approx(k * (k - 1) * shift**2 / (2 * sigma**2), rel=1e-9)
    # and the Renyi divergence of the sampled mixture itself never exceeds what was charged
    rate = 0.2
    mixed = np.logaddexp(math.log(1 - rate) + q, math.log(rate) + p)
    charged = accountant._composed(
        accountant.RdpAccountant([8]), [discrete(sigma / shift, shares=1, sampling=rate)]
    )._rdp[0]
    for one, other in ((mixed, q), (q, mixed)):
        assert np.logaddexp.reduce(other + 8 * (one - other)) / 7 <= charged + 1e-9


@pytest.mark.parametrize("shares", [2, 3, 5])
@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.0])
def test_a_sum_of_discrete_gaussians_is_as_near_to_one_as_is_charged(sigma: float, shares: int) -> None:
    """By convolution, at parameters so small that the difference shows; ours are at least 3, where it is 1e-38."""
    x = np.arange(-60, 61, dtype=np.float64)

    def law(s: float) -> np.ndarray:
        w = np.exp(-(x**2) / (2 * s * s))
        return w / w.sum()

    total = law(sigma)
    for _ in range(shares - 1):
        total = np.convolve(total, law(sigma), "same")
    body = np.abs(x) <= 4 * sigma * math.sqrt(shares)
    measured = np.abs(np.log(total[body] / law(sigma * math.sqrt(shares))[body])).max()
    assert 0 < measured <= excess(sigma, shares)
    assert excess(3.0, 1000) < 1e-35


def test_delta_is_written_out_in_its_three_parts() -> None:
    found = spent([discrete(3, 10), BadGraph(flow="secure sum", chance=1e-7, count=10)], DELTA)
    assert found.delta_graph == pytest.approx(1e-6)
    assert found.delta_sampler > 0
    assert found.delta_dp + found.delta_sampler + found.delta_graph == pytest.approx(DELTA)
    assert found.epsilon > spent([discrete(3, 10)], DELTA).epsilon


@pytest.mark.parametrize(
    "released",
    [
        [discrete(3), BadGraph(flow="secure sum", chance=1e-4)],
        [msgspec.structs.replace(discrete(3), distance=1e-10)],
        [discrete(0.01)],
    ],
)
def test_a_delta_that_is_used_up_leaves_no_guarantee(released: list[Event]) -> None:
    found = spent(released, DELTA)
    assert found.epsilon == math.inf
    assert found.infinite or found.rdp == math.inf


def test_a_release_without_guarantee_makes_everything_infinite_and_is_named() -> None:
    released = [gaussian(3, 10), NonPrivate(flow="features", reason="vectors without noise")]
    found = spent(released, DELTA)
    assert found.epsilon == math.inf
    assert found.infinite == ("features: vectors without noise",)
    assert found.pld == found.rdp == found.mu == math.inf  # and not what the rest of them costs


def test_nothing_released_costs_nothing() -> None:
    assert spent([], DELTA).epsilon == 0


def test_an_unknown_event_is_refused_before_anything_is_charged() -> None:
    class Laplace:
        flow = "weights"

    with pytest.raises(UnknownEvent, match="Laplace"):
        spent([gaussian(3), Laplace()], DELTA)  # type: ignore[list-item]


@pytest.mark.parametrize(
    "raw",
    [
        b'[{"type":"Laplace","flow":"weights"}]',
        b'[{"type":"Gaussian","flow":"weights","sensitivity":1.0,"sigma":1.0,"unit":"slice"}]',
        b'[{"type":"Gaussian","flow":"weights","sensitivity":1.0,"sigma":1.0,"relation":"REPLACE_ONE"}]',
        b'[{"type":"Gaussian","flow":"weights","sensitivity":1.0,"sigma":0.0}]',
        b'[{"type":"Gaussian","flow":"weights","sensitivity":-1.0,"sigma":1.0}]',
        b'[{"type":"Gaussian","flow":"weights","sensitivity":1.0,"sigma":1.0,"sampling":0.0}]',
        b'[{"type":"Gaussian","flow":"weights","sensitivity":1.0,"sigma":1.0,"count":0}]',
        b'[{"type":"Gaussian","flow":"","sensitivity":1.0,"sigma":1.0}]',
        b'[{"type":"BadGraph","flow":"sum","chance":1.0}]',
        b'{"type":"NonPrivate"}',
        b"",
    ],
)
def test_what_is_not_a_known_event_does_not_parse(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"event|noise|count|chance|rate"):
        events.decode(raw)


def test_events_survive_their_json() -> None:
    released = (gaussian(3), discrete(2, 3), NonPrivate(flow="a", reason="b"), BadGraph(flow="g", chance=0.0))
    assert events.decode(events.encode(released)) == released


def test_a_filter_holds_at_any_stopping_time_and_wastes_little() -> None:
    """Gaussian releases admitted one by one, whatever asked for them, stay within the budget."""
    limit = Filter.of(8.0, DELTA)
    released: list[Event] = []
    while limit.admits([*released, discrete(6)]):
        released.append(discrete(6))
    assert spent(released, DELTA).epsilon <= 8
    assert spent([*released, *released[: len(released) // 4]], DELTA).epsilon > 8
    assert not limit.admits([*released, NonPrivate(flow="x", reason="y")])


@pytest.mark.parametrize(
    ("charged", "named"),
    [
        ([BadGraph(flow="sums", chance=0.5)], "sums: delta is used up by the chance of a bad graph"),
        ([discrete(6), BadGraph(flow="sums", chance=DELTA)], "sums: delta is used up by the chance of a bad graph"),
        ([BadGraph(flow="sums", chance=DELTA / 10, count=10)], "sums: delta is used up by the chance of a bad graph"),
        ([discrete(6, distance=1e-3)], "weights: delta is used up by the sampler's distance from its law"),
    ],
)
def test_where_nothing_is_left_of_delta_epsilon_is_infinite_and_the_flow_named(
    charged: list[Event], named: str
) -> None:
    found = spent(charged, DELTA)
    assert found.epsilon == math.inf
    assert named in found.infinite
    assert not Filter.of(8.0, DELTA).admits(charged)


def test_a_graph_that_leaves_delta_costs_its_chance_alone() -> None:
    found = spent([BadGraph(flow="sums", chance=DELTA / 4)], DELTA)
    assert (found.epsilon, found.infinite) == (0, ())
    assert found.delta_dp == pytest.approx(0.75 * DELTA)


def test_a_filter_keeps_a_part_of_delta_for_sampler_and_graph() -> None:
    limit = Filter.of(8.0, DELTA)
    graph = BadGraph(flow="sums", chance=DELTA / 1000)
    assert limit.admits([discrete(6), *[graph] * 10])
    assert not limit.admits([discrete(6), *[graph] * 11])
    assert not limit.admits([discrete(6, distance=1e-11)])  # 4 sites x 5000 values x (1 + e^8)
    assert limit.admits([discrete(6, distance=1e-16)])


def test_a_filter_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="larger epsilon"):
        Filter.of(1e-6, 1e-30)


def test_meaning_reproduces_the_published_row() -> None:
    row = gdp.meaning(gdp.mu_of(8.0, DELTA))
    assert (row.mu, row.advantage, row.auc) == pytest.approx((1.666, 0.595, 0.881), abs=1e-3)
    assert (row.tpr_at_1_percent, row.tpr_at_01_percent, row.naming_1_of_500) == pytest.approx(
        (0.255, 0.077, 0.113), abs=1e-3
    )
    assert gdp.meaning(math.inf).auc == 1


@given(st.floats(0.01, 30), st.floats(1e-12, 1e-2))
@settings(max_examples=60, deadline=None)
def test_mu_and_epsilon_are_inverses(mu: float, delta: float) -> None:
    epsilon = gdp.epsilon_of(mu, delta)
    if epsilon > 0:
        assert gdp.mu_of(epsilon, delta) == pytest.approx(mu, rel=1e-6)
