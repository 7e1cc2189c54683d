"""From events to the epsilon that holds, with every other number a reader would ask for beside it.

    continuous Gaussian flows, sampled or not    PLD of dp-accounting; closed form beside it where nothing is sampled
    distributed discrete noise (and all with it) RDP of the sum at whole orders; PLD is then a "continuous reference"

Why RDP at whole orders holds for discrete noise, sampled or not: for an integer shift D the discrete Gaussian has
E_Q[(P/Q)^k] = exp(k (k-1) |D|^2 / 2 sigma^2) exactly, as the continuous one has, since the k-fold shifted lattice is
the lattice; the bound for Poisson sampling at whole orders (Mironov, Talwar and Zhang, arXiv 1908.10530) uses these
moments alone. The SUM of n discrete Gaussians is not one, but is within exp(+-tau) of it in each coordinate (Kairouz,
Liu and Steinke, arXiv 2102.06387), which adds (2 a - 1)/(a - 1) tau d <= 3 tau d to the RDP of any order a >= 2.

dp-accounting reads REPLACE_ONE in two ways (its PLD doubles the sensitivity, its RDP does not), so it is never passed:
both are fed sigma / sensitivity under ADD_OR_REMOVE_ONE, and the tests hold them against the closed form.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import dp_accounting
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from fedsecure.privacy.events import BadGraph, DiscreteGaussian, Event, Gaussian, NonPrivate
from fedsecure.privacy.gdp import epsilon_of

LIBRARY: Final = "dp-accounting"
_NEIGHBOURS: Final = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
WHOLE_ORDERS: Final = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 768, 1024)
_ORDERS: Final = (*(1 + k / 20 for k in range(2, 100)), *(a for a in WHOLE_ORDERS if a > 5))
_FINE: Final = 1e-4  # of a PLD's grid, up to epsilon 20; coarser in proportion above
_RESERVE: Final = 0.01  # share of a filter's delta that is kept for sampler and graph
_TOO_LARGE: Final = 500.0  # an RDP epsilon above which a PLD's grid costs minutes and tells nobody anything


class UnknownEvent(ValueError):
    """An event that no accountant here knows. Nothing was charged."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What a list of events cost a patient. `epsilon` is the number that holds; the others are beside it.

    shares: it holds against whoever sees sums alone in which at least so many honest sites' noise is, U_min - c; None
    where each release has all its noise, which hides it from anybody. `events.read_alone` is for who sees more.
    delta = delta_dp + delta_sampler + delta_graph. `pld` is a reference only where `discrete`: it takes the noise for
    continuous. `closed` is None where something was sampled. `infinite` names the flows that have no guarantee.
    """

    epsilon: float
    accountant: str
    delta: float
    delta_dp: float
    delta_sampler: float
    delta_graph: float
    rdp: float
    pld: float | None
    closed: float | None
    mu: float | None
    discrete: bool
    shares: int | None
    infinite: tuple[str, ...]


def check(events: Sequence[Event]) -> None:
    """Raises UnknownEvent if one of `events` is not of the closed union. Called before anything is charged."""
    for event in events:
        match event:
            case Gaussian() | DiscreteGaussian() | NonPrivate() | BadGraph():
                pass
            case _:
                raise UnknownEvent(f"{type(event).__name__} is not a privacy event that is accounted for")


def spent(events: Sequence[Event], delta: float, *, reference: bool | None = True) -> Spent:
    """The cost of all `events` together at a total `delta`; infinite where sampler and graph leave nothing of it.

    reference: whether to compute a PLD that would be a reference only; None: compute none at all, and let RDP hold.
    Raises UnknownEvent.
    """
    check(events)
    if not 0 < delta < 1:
        raise ValueError("delta lies between 0 and 1")
    noisy = [event for event in events if isinstance(event, Gaussian | DiscreteGaussian)]
    infinite = {f"{event.flow}: {event.reason}" for event in events if isinstance(event, NonPrivate)}
    graph = math.fsum(event.count * event.chance for event in events if isinstance(event, BadGraph))
    discrete = any(isinstance(event, DiscreteGaussian) for event in noisy)
    unsampled = all(event.sampling == 1 for event in noisy)
    mu = mu_of_events(noisy) if unsampled else None

    # A sampler within total variation v of its law turns (e, d) into (e, d + (1 + e^e) v). The first estimate of
    # epsilon plus 1 is used for e, and the result must stay below it, so no circle has to be solved.
    tv = math.fsum(_distance(event) for event in noisy)
    guess = _rdp(noisy, delta) + 1
    sampler = _share(tv, guess)
    dp = delta - sampler - graph
    rdp = _rdp(noisy, dp) if dp > 0 else math.inf
    if dp <= 0 or (sampler and rdp > guess):
        infinite |= {f"{flow}: delta is used up by {part}" for flow, part in _beside(events)}
    wanted = reference is not None and (reference or not discrete)
    pld = _pld(noisy, dp, rdp) if wanted else None
    closed = None if mu is None else epsilon_of(mu, dp) if dp > 0 else math.inf
    holds, name = (rdp, "RDP") if discrete or pld is None else (pld, "PLD")
    if infinite:  # of all events, whichever accountant is asked
        holds, rdp, pld, closed, mu = (
            math.inf,
            math.inf,
            *(None if x is None else math.inf for x in (pld, closed, mu)),
        )
    return Spent(
        epsilon=holds,
        accountant=f"{name} of {LIBRARY} {version(LIBRARY)}",
        delta=delta,
        delta_dp=dp,
        delta_sampler=sampler,
        delta_graph=graph,
        rdp=rdp,
        pld=pld,
        closed=closed,
        mu=mu,
        discrete=discrete,
        shares=min((event.shares for event in noisy if isinstance(event, DiscreteGaussian)), default=None),
        infinite=tuple(sorted(infinite)),
    )


def quick(events: Sequence[Event], delta: float) -> float:
    """`spent(...).epsilon` without a PLD, for searches: the closed form where it is exact, else RDP, which is above."""
    check(events)
    if all(isinstance(event, Gaussian) and event.sampling == 1 for event in events):
        return epsilon_of(mu_of_events([event for event in events if isinstance(event, Gaussian)]), delta)
    found = spent(events, delta, reference=None)
    return math.inf if found.infinite else found.rdp


def mu_of_events(events: Sequence[Gaussian | DiscreteGaussian]) -> float:
    """mu = sqrt(sum 1/z^2): exact for continuous noise without sampling, the continuous reference for discrete."""
    return math.sqrt(math.fsum(event.count / event.multiplier**2 for event in events))


def excess(share_sigma: float, shares: int) -> float:
    """tau: how far, in max divergence a coordinate, a sum of `shares` discrete Gaussians is from a discrete Gaussian.

    10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k+1)), sigma in grid units (arXiv 2102.06387).
    """
    return 10 * math.fsum(math.exp(-2 * math.pi**2 * share_sigma**2 * k / (k + 1)) for k in range(1, shares))


@dataclass(frozen=True, slots=True)
class Filter:
    """A cap for a schedule that depends on the data (FCLOpt asks for targets when a distance is large).

    Epsilons of an adaptively chosen number of releases may not simply be composed. RDP at ONE order fixed beforehand
    may (Feldman and Zrnic, arXiv 2008.11193): whoever stops before the budget at that order is passed stays within
    (epsilon, delta), whatever made them stop. The other way is to charge the worst case of the schedule beforehand.
    A part of delta, fixed beforehand too, is kept for what is no divergence: sampler and graph.
    """

    order: int
    budget: float  # of RDP at `order`
    epsilon: float
    reserve: float  # of delta

    @staticmethod
    def of(epsilon: float, delta: float) -> Filter:
        """The whole order at which (epsilon, delta) leaves room for the most Gaussian releases, by 1/z^2.

        Raises ValueError where none leaves room for any.
        """
        reserve = _RESERVE * delta
        room = {a: _room(a, epsilon, delta - reserve) for a in WHOLE_ORDERS}
        order = max(room, key=lambda a: room[a] / a)
        if room[order] <= 0:
            raise ValueError("a filter needs a larger epsilon or delta: no order leaves room for any release")
        return Filter(order, room[order], epsilon, reserve)

    def admits(self, events: Sequence[Event]) -> bool:
        """Whether all `events` so far, the next one among them, stay within the budget and the reserve."""
        check(events)
        if any(isinstance(event, NonPrivate) for event in events):
            return False
        noisy = [event for event in events if isinstance(event, Gaussian | DiscreteGaussian)]
        graph = math.fsum(event.count * event.chance for event in events if isinstance(event, BadGraph))
        if not graph + _share(math.fsum(_distance(event) for event in noisy), self.epsilon) <= self.reserve:
            return False
        if not noisy:
            return True
        accountant = _composed(RdpAccountant([self.order], _NEIGHBOURS), noisy)
        return float(accountant._rdp[0]) <= self.budget  # the curve itself has no public name


def _room(order: int, epsilon: float, delta: float) -> float:
    """The most RDP at `order` that is (epsilon, delta)-DP (Canonne, Kamath and Steinke, arXiv 2004.00010, prop. 12)."""
    return epsilon - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)


def _share(tv: float, epsilon: float) -> float:
    """(1 + e^epsilon) tv, what a sampler's distance adds to delta; in logarithms, as e^epsilon of a careless study
    leaves the floats."""
    return 0.0 if tv == 0 else math.exp(min(0.0, math.log(tv) + epsilon + math.log1p(math.exp(-epsilon))))


def _beside(events: Sequence[Event]) -> Iterator[tuple[str, str]]:
    """(flow, part of delta) of every event that takes of delta what its mechanism is left without."""
    for event in events:
        if isinstance(event, BadGraph) and event.chance > 0:
            yield event.flow, "the chance of a bad graph"
        if isinstance(event, DiscreteGaussian) and event.distance > 0:
            yield event.flow, "the sampler's distance from its law"


def _distance(event: Gaussian | DiscreteGaussian) -> float:
    if isinstance(event, Gaussian):
        return 0.0
    return event.count * event.shares * event.dimension * event.distance


def _rdp(events: Sequence[Gaussian | DiscreteGaussian], delta: float) -> float:
    if not events:
        return 0.0
    # Discrete noise has bounds at whole orders alone, and the series of sampled noise converges at few others.
    whole = any(isinstance(event, DiscreteGaussian) or event.sampling < 1 for event in events)
    accountant = RdpAccountant(list(WHOLE_ORDERS if whole else _ORDERS), _NEIGHBOURS)
    return float(_composed(accountant, events).get_epsilon(delta))


def _pld(events: Sequence[Gaussian | DiscreteGaussian], delta: float, rdp: float) -> float | None:
    if not events:
        return 0.0
    if rdp > _TOO_LARGE:  # or infinite
        return None
    step = _FINE * max(1.0, rdp / 20)
    accountant = PLDAccountant(_NEIGHBOURS, value_discretization_interval=step)
    for (multiplier, sampling), count in _grouped(events).items():
        accountant.compose(_sampled(multiplier, sampling), count)
    return float(accountant.get_epsilon(delta))


def _composed(accountant: RdpAccountant, events: Sequence[Gaussian | DiscreteGaussian]) -> RdpAccountant:
    for (multiplier, sampling), count in _grouped(events).items():
        accountant.compose(_sampled(multiplier, sampling), count)
    beyond = math.fsum(
        3 * event.count * event.dimension * excess(event.share_sigma, event.shares)
        for event in events
        if isinstance(event, DiscreteGaussian)
    )
    if beyond:
        accountant.compose(dp_accounting.dp_event.ZCDpEvent(0.0, beyond))
    return accountant


def _grouped(events: Sequence[Gaussian | DiscreteGaussian]) -> Counter[tuple[float, float]]:
    """Equal events together: composing one distribution n times costs a logarithm of n."""
    groups: Counter[tuple[float, float]] = Counter()
    for event in events:
        groups[event.multiplier, event.sampling] += event.count
    return groups


def _sampled(multiplier: float, sampling: float) -> dp_accounting.DpEvent:
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    return gaussian if sampling == 1 else dp_accounting.PoissonSampledDpEvent(sampling, gaussian)
