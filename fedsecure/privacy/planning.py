"""What a study's [privacy] section comes to, before it runs: every release charged at its worst case, noise found for
epsilon, and whether anything can be learnt under it.

All flows of a study have one noise multiplier. Releases that depend on the data (FCLOpt asks for targets when a
distance is large) are charged as if every round asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fedsecure.config import Study
from fedsecure.errors import SettingsError
from fedsecure.plan import made, schedule
from fedsecure.privacy import gdp
from fedsecure.privacy.accountant import Spent, spent
from fedsecure.privacy.calibrate import multiplier_for, share_sigma, signal_to_noise
from fedsecure.privacy.events import Contribution, DiscreteGaussian, Event, NonPrivate, read_alone, sensitivity_of
from fedsecure.privacy.noise import LEAST_SIGMA, distance, table
from fedsecure.privacy.patientsum import mixings
from fedsecure.privacy.quantize import BETA, likely_norm_bound
from fedsecure.types import Flow

COMPARED = (1.0, 2.0, 4.0, 8.0)  # epsilons of the table beside the study's own
# Least signal to noise of a round's sum that is worth a study. Ours, not measured: gradients lie in few directions and
# rounds add up, so that training bears noise of many times their norm, but not of any.
LEARNABLE = 0.03


@dataclass(frozen=True, slots=True)
class Line:
    """What one epsilon buys: the noise it takes, what an attacker can still do, and what is left of the signal."""

    epsilon: float
    multiplier: float
    meaning: gdp.Meaning
    signal_to_noise: float


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """A study's budget. `private` False: no guarantee, and the rest is what the flows would need."""

    private: bool
    sites: int
    patients: int
    least: int
    colluders: int
    delta: float
    releases: Mapping[str, int]  # flow -> times
    endless: tuple[str, ...]  # flows that have no guarantee, with why
    own: Line | None
    cost: Spent | None  # against whoever sees sums over sites alone
    alone: Spent | None  # against whoever reads each site's release unmasked
    one_round: float | None  # epsilon of one round of pre-training
    share_sigma: float | None  # grid units of each site's noise
    lines: tuple[Line, ...]
    warnings: tuple[str, ...]


def budget(study: Study) -> BudgetPlan:
    """Raises SettingsError, saying what to change, for a section that promises what it cannot hold."""
    if not study.sites:
        raise SettingsError("a budget is for a cohort: name the sites and their patients in [[sites]], or use --sites")
    asked = study.privacy
    delta = _delta(study)
    least, colluders = survivors(study)
    planned = releases(study)
    endless = tuple(sorted(f"{e.flow}: {e.reason}" for e in events_of(study, 1.0) if isinstance(e, NonPrivate)))
    if asked.enabled and endless:
        raise SettingsError(f"[privacy] is on, and these releases would have no noise: {'; '.join(endless)}")
    lines = tuple(_line(study, epsilon, delta) for epsilon in COMPARED)
    if not asked.enabled or asked.epsilon is None:
        warning = "[privacy] is off: epsilon is infinite, and nothing bounds what is learnt of a patient"
        return BudgetPlan(False, len(study.sites), _patients(study), least, colluders, delta, planned, endless, None,
                          None, None, None, None, lines, (warning, *_too_few(study, lines)))  # fmt: skip
    multiplier = asked.noise_multiplier or _multiplier(study, asked.epsilon, delta)
    sigma = _share(study, multiplier)
    if sigma < LEAST_SIGMA:
        raise SettingsError(
            f"each site's noise would be {sigma:.2g} grid units, under {LEAST_SIGMA:g}: write clip_units = "
            f"{2 ** (int(rounded_bound(study) * LEAST_SIGMA / sigma).bit_length())} or a larger noise_multiplier"
        )
    _refuse_too_fine(sigma)
    one_round = spent(events_of(study, multiplier, one_round=True), delta).epsilon
    if one_round > asked.epsilon:
        raise SettingsError(
            f"epsilon = {asked.epsilon:g} is less than one round costs ({one_round:.3g}): raise noise_multiplier or "
            "leave it out to have it found"
        )
    released = events_of(study, multiplier)
    cost, alone = spent(released, delta), spent(read_alone(released), delta, reference=False)
    own = _line_at(study, multiplier, cost.epsilon, delta)
    warnings = _too_few(study, (own,))
    if cost.epsilon > asked.epsilon:
        warnings += (
            f"the whole schedule costs epsilon {cost.epsilon:.3g}: sites stop at {asked.epsilon:g}, before it ends",
        )
    if asked.epsilon > 10:
        warnings += ("epsilon above 10 is a weak promise: see the attacker's chances",)
    return BudgetPlan(True, len(study.sites), _patients(study), least, colluders, delta, planned, (), own, cost, alone,
                      one_round, sigma, lines, warnings)  # fmt: skip


def survivors(study: Study) -> tuple[int, int]:
    """(U_min, c). Raises SettingsError where no honest site's noise would be left, or more survive than there are."""
    asked, sites = study.privacy, len(study.sites)
    least = sites if asked.least_survivors is None else asked.least_survivors
    colluders = min(max(1, (sites - 1) // 5), sites - 1) if asked.colluders is None else asked.colluders
    if least > sites:
        raise SettingsError(f"least_survivors = {least} is more than the study's {sites} sites")
    if least - colluders < 1:
        raise SettingsError(
            f"least_survivors - colluders = {least} - {colluders} leaves no honest site whose noise is in the sum: "
            "raise least_survivors, or lower colluders"
        )
    return least, colluders


def events_of(study: Study, multiplier: float, *, one_round: bool = False) -> tuple[Event, ...]:
    """All that may be released in the whole study with noise multiplier z, or in its first round, worst case.

    Raises SettingsError where `contribution` or `sampling` claim what the study's training does not keep.
    """
    _refuse_a_sum_that_is_none(study)
    _refuse_a_draw_for_several(study)
    counts = releases(study, one_round)
    return tuple(_event(study, flow, multiplier, count) for flow, count in counts.items())


def releases(study: Study, one_round: bool = False) -> Counter[str]:
    """How often each flow may leave a site in the whole study, or in its first round, at most."""
    counts: Counter[str] = Counter()
    for number, stage in enumerate(schedule(study)):
        for round_ in range(stage.rounds):
            counts.update(str(flow) for flow in sorted(made(study, number, round_, targets=True)))
            if one_round:
                return counts
        if study.release_metrics:
            counts[str(Flow.METRICS)] += 1
    return counts


def _refuse_a_sum_that_is_none(study: Study) -> None:
    if study.privacy.contribution == "patient-sum" and (changes := mixings(study)):
        raise SettingsError(
            'contribution = "patient-sum" is charged at C, and what this study releases is no sum over patients: write '
            f'contribution = "site-update", or {"; ".join(changes)}'
        )


def _refuse_a_draw_for_several(study: Study) -> None:
    """Flows of one round are of the same drawn patients, and the accountant composes draws that are independent: ten
    rounds of weights and nine of targets (q .1, z 1.5) cost 3.57 by RDP where it would say 2.26."""
    if study.privacy.sampling == 1:
        return
    for number, stage in enumerate(schedule(study)):
        for round_ in range(stage.rounds):
            flows = sorted(made(study, number, round_, targets=True))
            if len(flows) > 1:
                raise SettingsError(
                    f"sampling = {study.privacy.sampling:g}, and {' and '.join(flows)} leave in one round, of the same "
                    'drawn patients: write sampling = 1, or have one flow a round (exchange = "none")'
                )


def _event(study: Study, flow: str, multiplier: float, count: int) -> Event:
    match Flow(flow):
        case Flow.FEATURES:
            return NonPrivate(flow=flow, count=count, reason='vectors without noise (write exchange = "none")')
        case Flow.PROTOTYPES | Flow.PROTOTYPE_SUM:
            reason = 'prototypes, which no mechanism here noises yet (write exchange = "none")'
            return NonPrivate(flow=flow, count=count, reason=reason)
        case Flow.METRICS:
            return NonPrivate(flow=flow, count=count, reason="Dice without noise (write release_metrics = false)")
        case Flow.WEIGHTS | Flow.TARGET | Flow.DISTANCE:
            least, colluders = survivors(study)
            sigma = _share(study, multiplier)
            return DiscreteGaussian(
                flow=flow,
                count=count,
                sensitivity=_sensitivity(study),
                share_sigma=sigma,
                shares=least - colluders,
                dimension=1 if flow == Flow.DISTANCE else study.privacy.parameters,
                distance=distance(sigma),
                sampling=study.privacy.sampling,
            )


def rounded_bound(study: Study) -> float:
    """Grid units that a contribution's norm is at most after it was rotated and rounded at random, each coordinate by
    less than one: drawn again until it is (`quantize.draw_key` with this limit)."""
    return likely_norm_bound(study.privacy.clip_units, 1.0, study.privacy.parameters, BETA)


def _sensitivity(study: Study) -> float:
    """Grid units."""
    return sensitivity_of(Contribution(study.privacy.contribution), rounded_bound(study))


def _share(study: Study, multiplier: float) -> float:
    return share_sigma(multiplier, _sensitivity(study), *survivors(study))


def _multiplier(study: Study, epsilon: float, delta: float) -> float:
    return multiplier_for(epsilon, delta, lambda z: _noisy(events_of(study, z)))


def _noisy(events: tuple[Event, ...]) -> list[Event]:
    return [event for event in events if not isinstance(event, NonPrivate)]


def _line(study: Study, epsilon: float, delta: float) -> Line:
    return _line_at(study, _multiplier(study, epsilon, delta), epsilon, delta)


def _line_at(study: Study, multiplier: float, epsilon: float, delta: float) -> Line:
    asked = study.privacy
    one_site = asked.contribution == "site-update"
    count = len(study.sites) if one_site else _patients(study) * asked.sampling
    signal = signal_to_noise(count, _sensitivity(study) / asked.clip_units, multiplier, asked.parameters)
    return Line(epsilon, multiplier, gdp.meaning(gdp.mu_of(epsilon, delta)), signal)


def _patients(study: Study) -> int:
    return sum(member.weight for member in study.sites)


def _delta(study: Study) -> float:
    patients = _patients(study)
    delta = study.privacy.delta
    if delta is None:
        return min(1e-6, 1 / (100 * patients))
    if delta > 1 / (10 * patients):
        raise SettingsError(
            f"delta = {delta:.1e} is above 1/(10 n) = {1 / (10 * patients):.1e} for {patients} patients: a mechanism "
            "that publishes a patient outright could pass; lower it, or leave it out"
        )
    return delta


def _too_few(study: Study, lines: tuple[Line, ...]) -> tuple[str, ...]:
    weakest = lines[-1]
    if weakest.signal_to_noise >= LEARNABLE:
        return ()
    factor = (LEARNABLE / weakest.signal_to_noise) ** 2
    return (
        f"nothing can be learnt at epsilon {weakest.epsilon:.3g}: the norm of the noise of a round's sum is "
        f"{1 / weakest.signal_to_noise:.0f} times the most that {len(study.sites)} sites can say together. Send fewer "
        f"parameters (d = {max(1, int(study.privacy.parameters / factor))}), or have more sites or fewer rounds",
    )


def _refuse_too_fine(sigma: float) -> None:
    try:
        table(sigma)
    except ValueError as error:
        raise SettingsError(f"{error}: write a smaller clip_units") from None
