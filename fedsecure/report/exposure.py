"""Who could learn what in a setting: the coordinator, another site, sites that work together with it, and who steals
keys later. Computed from a study and from how many sites its rounds had; it rests on protocols/secagg/THREATS.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fedsecure.config import Study
from fedsecure.plan import SUMMED, made, schedule, shared_flow
from fedsecure.types import Flow
from protocols.secagg.graph import FAILURE_BITS, Degree, degree
from protocols.secagg.manifest import assumed_corrupted, least_threshold

_SUMMED_WORDS: Final[Mapping[Flow, str]] = {
    Flow.WEIGHTS: "updates", Flow.TARGET: "target networks", Flow.PROTOTYPE_SUM: "sums of features"
}  # fmt: skip
_SEALED_WORDS: Final[Mapping[Flow | None, str]] = {
    Flow.FEATURES: "feature vectors", Flow.PROTOTYPES: "sums of features"
}  # fmt: skip
_NOTHING: Final = "no update: none is averaged in this study"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    who: str
    learns: str


@dataclass(frozen=True, slots=True)
class Terms:
    """n sites, of which c are taken to work together with the coordinator and t must stay to the end of a sum."""

    n: int
    c: int
    t: int
    graph: Degree

    @classmethod
    def of(cls, study: Study) -> Terms:
        n = len(study.sites)
        c = assumed_corrupted(n)
        t = least_threshold(n, c)
        return cls(n, c, t, degree(n, c, t))


def exposure(study: Study, rounds: Sequence[int] = ()) -> tuple[Line, ...]:
    """The table of a study with sites. rounds: how many sites each average of a run was of, if it has been run."""
    at = Terms.of(study)
    lines = [
        Line("the coordinator", _join(*_to_coordinator(study, at, rounds))),
        Line("another site", _join(*_to_site(study, at, rounds))),
        Line(f"{_sites(at.c)} and the coordinator", _join(*_to_colluders(study, at, rounds))),
    ]
    if study.security.secagg:
        lines.append(_to_many(study, at))
    return (
        *lines,
        Line("who steals keys later", _join(*_to_thief(study))),
        Line("who has a model", f"what training put into it; {_noise(study)}"),
    )


def terms(study: Study) -> str:
    """The numbers and switches behind the table, in a sentence or two."""
    at = Terms.of(study)
    form = shared_flow(study)
    parts = [
        f"n = {at.n} sites, of which c = {at.c} may work together with the coordinator",
        f"secure aggregation {'on' if study.security.secagg else 'off'}",
        f"noise {'on' if study.privacy.enabled else 'off'}",
        f"features exchanged: {study.pretrain.exchange if form else 'none'}",
    ]
    if not study.security.secagg:
        return "; ".join(parts) + "."
    guarantee = at.graph.guarantee(at.n, at.c)
    return f"{'; '.join((*parts, f't = {at.t} sites close a sum'))}. {guarantee[0].upper()}{guarantee[1:]}."


# --- one reader each: what it learns, part by part ---


def _to_coordinator(study: Study, at: Terms, rounds: Sequence[int]) -> tuple[str, ...]:
    what = _averaged(study)
    if not what:
        return _NOTHING, *_asides(study)
    if not study.security.secagg:
        return f"each site's {what} in each round", *_asides(study)
    seen = f" (in this run {_span(rounds)})" if rounds else ""
    return (
        f"the sum of {what} over the survivors of a round, at least {at.t} of {at.n} sites{seen}",
        "who dropped out", *_asides(study),
    )  # fmt: skip


def _to_site(study: Study, at: Terms, rounds: Sequence[int]) -> tuple[str, ...]:
    sealed = _sealed(study)
    if not _averaged(study):
        return _NOTHING, *sealed
    others = _fewest(study, at, rounds) - 1
    if at.n == 1:
        return ("there is none",)
    rest = "the update of the other one" if others == 1 else f"the sum over the others, at least {others} sites"
    total = ("the sum of features over all sites",) if shared_flow(study) is Flow.PROTOTYPE_SUM else ()
    return f"the models, and so, its own update taken off, {rest}", *total, *sealed


def _to_colluders(study: Study, at: Terms, rounds: Sequence[int]) -> tuple[str, ...]:
    what, sealed = _averaged(study), _sealed(study)
    if not what:
        return _NOTHING, *sealed, *_asides(study)
    if not study.security.secagg:
        return f"each site's {what}", *sealed, *_asides(study)
    chance = f", but for a probability of 2^-{FAILURE_BITS}" if at.graph.neighbours else ""
    others = _fewest(study, at, rounds) - at.c
    return (
        f"the sum of {what} over the other survivors, at least {others} sites, and no smaller one{chance}",
        *sealed, *_asides(study),
    )  # fmt: skip


def _to_many(study: Study, at: Terms) -> Line:
    """As many as put a secret together: any t sites, in a sparse graph as many neighbours of one."""
    what = _averaged(study)
    if at.graph.neighbours:
        who = f"{at.graph.holders} neighbours of a site and the coordinator"
        return Line(who, f"that site's {what}" if what else _NOTHING)
    return Line(f"{at.t} sites and the coordinator", f"each site's {what}" if what else _NOTHING)


def _to_thief(study: Study) -> tuple[str, ...]:
    parts = ["nothing of what was recorded between nodes: keys of a session are made for it"]
    if what := _averaged(study):
        parts.append(
            "in the coordinator's folder are sums and masked vectors, whose keys were made for one sum and are gone"
            if study.security.secagg
            else f"in the coordinator's folder are the {what} of the last round, site by site"
        )
    if form := _SEALED_WORDS.get(shared_flow(study)):
        parts.append(f"{form} that the coordinator kept sealed open with the keys of a site that they were sealed to")
    return tuple(parts)


# --- parts ---


def _averaged(study: Study) -> str:
    """What of a site's training goes into averages; empty if nothing does."""
    flows: set[Flow] = set()
    for stage, _ in enumerate(schedule(study)):
        flows |= made(study, stage, 0, targets=True) & SUMMED
    return _listed([words for flow, words in _SUMMED_WORDS.items() if flow in flows])


def _sealed(study: Study) -> tuple[str, ...]:
    """What sites seal for one another, and each of them reads."""
    form = _SEALED_WORDS.get(shared_flow(study))
    return (f"each other site's {form}",) if form else ()


def _asides(study: Study) -> tuple[str, ...]:
    """What the coordinator reads site by site beside sums."""
    scores = any(Flow.DISTANCE in made(study, stage, 0) for stage, _ in enumerate(schedule(study)))
    return (
        *(["each site's distance from the predicted target network"] if scores else []),
        *(["each site's mean scores"] if study.release_metrics else []),
    )


def _fewest(study: Study, at: Terms, rounds: Sequence[int]) -> int:
    """Sites that an average is of at least: as in the run or, before it, as the study has it."""
    if rounds:
        return min(rounds)
    if study.security.secagg:
        return at.t
    return at.n if study.round_deadline_s is None else study.minimum_sites


def _noise(study: Study) -> str:
    if not study.privacy.enabled:
        return "no noise bounds it (epsilon is infinite)"
    return f"at most epsilon = {study.privacy.epsilon:g} of one patient"


def _span(rounds: Sequence[int]) -> str:
    least, most = min(rounds), max(rounds)
    return str(least) if least == most else f"{least} to {most}"


def _sites(count: int) -> str:
    return f"{count} {'site' if count == 1 else 'sites'}"


def _join(*parts: str) -> str:
    return "; ".join(parts)


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
