"""From an experiment, a budget and a source to the ordered list of shards: what is run once, and never again.

A shard is one arm under one seed and, with folds, one fold: pre-training once and fine-tuning for every N and mode. Its
digest covers everything that determines its result, and not its name: experiments that need the same share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import ceil
from typing import Any, Final

import msgspec

from fedsecure.config import Study, parse_study
from fedsecure.errors import SettingsError
from sim.partition import Scheme, partition
from sim.reproduce.protocols import Arm, Budget, Experiment, Protocol, Settings, over
from sim.reproduce.sources import Described
from sim.world import World, at_most

PHANTOM_PATIENTS: Final = 8  # of a site, where a budget does not say how many it keeps


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for. `target`: the source to fine-tune on, of transfer alone. None: as the budget and
    the source have it."""

    experiment: str
    budget: str
    data: Described
    target: Described | None = None
    judged: str = "held-out"
    frameworks: frozenset[str] | None = None
    sites: int | None = None
    scheme: Scheme | None = None
    crop: int | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Leg:
    """One federation of a shard: a study without its cohort, as a file has it, and the world it runs in."""

    study: Settings
    world: World
    fingerprint: str
    fold: int | None = None

    def parsed(self) -> Study:
        return parse_study(self.study)


@dataclass(frozen=True, slots=True)
class Shard:
    """The legs run in order; where the first alone pre-trains, the others start from its encoder."""

    arm: str
    seed: int
    fold: int | None
    legs: tuple[Leg, ...]
    digest: str

    @property
    def id(self) -> str:
        fold = "" if self.fold is None else f"-f{self.fold}"
        return f"{self.arm}-s{self.seed}{fold}-{self.digest[:10]}"


@dataclass(frozen=True, slots=True)
class Expanded:
    """`left_out`: what of the experiment this source cannot have, each with why."""

    shards: tuple[Shard, ...]
    arms: tuple[Arm, ...]
    labelled: tuple[int, ...]
    left_out: tuple[str, ...]
    world: World  # in which Dice is measured


def expand(protocol: Protocol, asked: Asked) -> Expanded:
    """All shards of an experiment, seed by seed, so that whole seeds are done first. Raises SettingsError."""
    if asked.experiment not in protocol.experiments:
        raise SettingsError(f"no such experiment: {asked.experiment}; there are {', '.join(protocol.experiments)}")
    if asked.budget not in protocol.budgets:
        raise SettingsError(f"no such budget: {asked.budget}; there are {', '.join(protocol.budgets)}")
    experiment, budget = protocol.experiments[asked.experiment], protocol.budgets[asked.budget]
    if (asked.target is not None) != (asked.experiment == "transfer"):
        raise SettingsError("transfer needs --target-data, the source to fine-tune on, and no other experiment has one")
    arms = _arms(protocol, experiment, asked.frameworks)
    world = _world(budget, asked.data, asked)
    base = _base(protocol, budget, experiment, asked, asked.data)
    tuned_world, tuned_base = world, base
    if asked.target is not None:
        # One site: the other set is not federated, and N counts patients in all, as in the paper's table.
        tuned_world = replace(_world(budget, asked.target, replace(asked, sites=1, scheme="random")), most=None)
        tuned_base = over(_base(protocol, budget, experiment, asked, asked.target), {"finetune": {"modes": ["local"]}})
    tuned_on = asked.target or asked.data
    tuned_base, labelled, too_many = _possible(tuned_base, budget, tuned_world, tuned_on)
    missing = [f"N = {n}: the smallest site has fewer patients to train on" for n in too_many]
    missing += [f"{arm.title}: it takes {arm.sites} sites" for arm in arms if arm.sites > world.sites]
    arms = tuple(arm for arm in arms if arm.sites <= world.sites)
    shards: list[Shard] = []
    for number, seed in enumerate(budget.seeds):
        for arm in arms:
            if arm.always or number < budget.few:
                if asked.target is None:
                    shards += _plain(protocol, budget, arm, seed, tuned_base, world, asked)
                else:
                    shards.append(
                        _transferred(protocol, budget, arm, seed, (base, world), (tuned_base, tuned_world), asked)
                    )
    return Expanded(tuple(shards), arms, labelled, tuple(missing), tuned_world)


def chosen(shards: tuple[Shard, ...], patterns: tuple[str, ...]) -> tuple[Shard, ...]:
    """Those whose id fits one of the patterns, all without patterns. Raises SettingsError if one fits none."""
    for pattern in patterns:
        if not any(fnmatchcase(shard.id, pattern) for shard in shards):
            raise SettingsError(f"no shard is called {pattern}: --list shows their ids, and * stands for any text")
    return tuple(shard for shard in shards if not patterns or any(fnmatchcase(shard.id, p) for p in patterns))


def _arms(protocol: Protocol, experiment: Experiment, wanted: frozenset[str] | None) -> tuple[Arm, ...]:
    if wanted is not None and (missing := wanted - set(experiment.arms)):
        raise SettingsError(f"{min(missing)} is no arm of this experiment; it has {', '.join(experiment.arms)}")
    # The random start stays in: without it there is nothing to compare with.
    first, *others = experiment.arms
    return tuple(protocol.arm(name) for name in (first, *(n for n in others if wanted is None or n in wanted)))


def _world(budget: Budget, data: Described, asked: Asked) -> World:
    device = asked.device or budget.device
    if data.address is None:
        patients = budget.most or PHANTOM_PATIENTS
        sites = asked.sites or budget.sites
        return World(None, sites, "random", patients, budget.study["data"]["size"], device=device)
    natural = data.natural_sites
    scheme: Scheme = asked.scheme or budget.partition or ("group" if natural else "random")
    sites = asked.sites or (natural if scheme == "group" and natural else budget.sites)
    if budget.exactly and data.patients < sites * (budget.most or 1):
        raise SettingsError(
            f"this budget is for {sites} sites of {budget.most} patients, and the source has {data.patients} in all: "
            "use the whole set, or another budget"
        )
    return World(data.address, sites, scheme, most=budget.most, device=device)


def _base(protocol: Protocol, budget: Budget, experiment: Experiment, asked: Asked, data: Described) -> Settings:
    """The study that all arms share. Where budget and source set the same, the budget's counts; a flag before both."""
    known = protocol.sources.get(data.kind)
    flags: Settings = {"structures": list(data.structures), "judged": asked.judged}
    if asked.crop is not None:
        flags["crop"] = asked.crop
    base = over({"data": known.data if known else {}}, budget.study, {"baseline": False, "data": flags})
    if experiment.double_rounds:
        rounds, steps = base["pretrain"]["rounds"], base["pretrain"]["local_steps"]
        base = over(base, {"pretrain": {"rounds": 2 * rounds, "local_steps": max(steps // 2, 1)}})
    return base


def _possible(
    base: Settings, budget: Budget, world: World, data: Described
) -> tuple[Settings, tuple[int, ...], tuple[int, ...]]:
    """The base with those N that every site has patients for, on the side that trains; they; and the others."""
    settings = parse_study(over(base, _fold(0, budget))).data
    least = min(_sizes(base, world, data))
    if budget.folds:
        train = least - ceil(least / budget.folds)
    else:
        train = least - min(max(round(settings.held_out * least), 1), least - 1)
    if settings.judged == "validation":
        train -= min(max(round(settings.held_out * train), 1), max(train - 1, 1))
    wanted = tuple(base["finetune"]["labelled"])
    labelled = tuple(n for n in wanted if n <= train)
    if not labelled:
        raise SettingsError(f"the smallest site has {train} patients to train on, and {min(wanted)} are needed")
    left_out = tuple(n for n in wanted if n > train)
    return over(base, {"finetune": {"labelled": list(labelled)}}), labelled, left_out


def _sizes(base: Settings, world: World, data: Described) -> list[int]:
    if data.address is None:
        return [world.phantom_patients] * world.sites
    study = parse_study(base)
    parts = partition(data.groups, world.sites, world.scheme, study.split_seed)
    return [len(at_most(part, world.most, study)) for part in parts]


def _fold(fold: int | None, budget: Budget) -> Settings:
    return {"data": {"fold": [fold, budget.folds]}} if fold is not None and budget.folds else {}


def _folds(budget: Budget, asked: Asked) -> tuple[int | None, ...]:
    """Under "validation" the first alone: its held-out patients would be another's validation patients."""
    if budget.folds is None:
        return (None,)
    return (0,) if asked.judged == "validation" else tuple(range(budget.folds))


def _plain(
    protocol: Protocol, budget: Budget, arm: Arm, seed: int, base: Settings, world: World, asked: Asked
) -> Iterator[Shard]:
    for fold in _folds(budget, asked):
        leg = Leg(_study(arm, seed, over(base, _fold(fold, budget))), world, asked.data.fingerprint, fold)
        yield _shard(protocol, arm, seed, fold, (leg,))


def _transferred(
    protocol: Protocol, budget: Budget, arm: Arm, seed: int, first: tuple[Settings, World],
    then: tuple[Settings, World], asked: Asked,
) -> Shard:  # fmt: skip
    if asked.target is None:
        raise RuntimeError("a transfer without a target")
    legs = []
    if arm.start == "pretrain":
        study = over(_study(arm, seed, first[0]), {"finetune": {"modes": []}})
        legs.append(Leg(study, first[1], asked.data.fingerprint))
    start: Settings = {"start": "random"} if arm.start == "random" else {"start": "encoder", "encoder": "0" * 64}
    for fold in _folds(budget, asked):
        study = over(_study(arm, seed, over(then[0], _fold(fold, budget))), start)
        study.pop("pretrain", None)
        legs.append(Leg(study, then[1], asked.target.fingerprint, fold))
    return _shard(protocol, arm, seed, None, tuple(legs))


def _study(arm: Arm, seed: int, base: Settings) -> Settings:
    study = over(base, arm.study, {"framework": arm.framework, "seed": seed, "start": arm.start})
    if arm.start == "random":
        study.pop("pretrain", None)  # of no effect: one random start serves every experiment of a budget
    return study


def _shard(protocol: Protocol, arm: Arm, seed: int, fold: int | None, legs: tuple[Leg, ...]) -> Shard:
    for leg in legs:
        leg.parsed()  # what does not hold is said before anything is trained
    return Shard(arm.name, seed, fold, legs, _digest(protocol.edition, legs))


def _digest(edition: int, legs: tuple[Leg, ...]) -> str:
    parts: list[dict[str, Any]] = []
    for leg in legs:
        world = msgspec.to_builtins(leg.world)
        del world["source"]  # where the files lie decides nothing; what they are, the fingerprint says
        parts.append({"study": leg.study, "world": world, "source": leg.fingerprint})
    raw = msgspec.json.encode([edition, parts], order="sorted")
    return hashlib.sha256(b"fedsecure/shard/v1\0" + raw).hexdigest()
