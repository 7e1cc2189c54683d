"""The protocol as data: methods and arms, experiments, budgets and the paper's own numbers, from two TOML files.

Nothing here runs anything. What an experiment is made of is decided by these files, the data and the flags alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from fedsecure.config import Framework
from fedsecure.errors import SettingsError
from fedsecure.report.results import Mode
from sim.partition import Scheme

Start = Literal["pretrain", "random"]
Settings = dict[str, Any]  # of a study, as a study file has them
Paired = tuple[float, float]  # mean, standard deviation
_Positive = Annotated[int, msgspec.Meta(ge=1)]
_T = TypeVar("_T")

RANDOM: Final = "random"  # the arm that all others are compared with


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common shape of the tables of the files: named fields only, nothing unknown accepted."""


class Arm(_Table, frozen=True, kw_only=True):
    """One line of a table. `study`: where it differs from the budget's. `always`: under every seed of a budget.
    `sites`: so many it takes; with fewer it is left out."""

    name: str
    title: str
    framework: Framework
    start: Start = "pretrain"
    always: bool = False
    sites: _Positive = 1
    study: Settings = {}


class Experiment(_Table, frozen=True, kw_only=True):
    """One table. `modes`: the fine-tuning it shows. `double_rounds`: twice the rounds of pre-training of half the
    steps, in all of its arms."""

    title: str
    modes: tuple[Mode, ...]
    arms: tuple[str, ...]
    double_rounds: bool = False


class Budget(_Table, frozen=True, kw_only=True):
    """What is spent on every arm alike. `study` holds every setting that training reads.

    sites: where the source names no groups; most: patients that a site keeps; exactly: refuse a source with fewer.
    few: so many of the seeds for arms that are not `always`. minutes: of a shard, a guess before one has finished.
    """

    about: str
    device: str
    sites: _Positive
    seeds: tuple[int, ...]
    few: _Positive
    minutes: Annotated[float, msgspec.Meta(gt=0)]
    study: Settings
    most: _Positive | None = None
    exactly: bool = False
    folds: Annotated[int, msgspec.Meta(ge=2)] | None = None
    partition: Scheme | None = None


class Known(_Table, frozen=True, kw_only=True):
    """What the files of a known kind of source do not say: data settings for budgets that do not set them."""

    data: Settings


class Protocol(_Table, frozen=True, kw_only=True):
    """All of protocol.toml."""

    edition: _Positive
    arms: tuple[Arm, ...]
    experiments: Mapping[str, Experiment]
    budgets: Mapping[str, Budget]
    sources: Mapping[str, Known]

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError("an arm's name stands twice")
        for name, experiment in self.experiments.items():
            if missing := set(experiment.arms) - set(names):
                raise ValueError(f"{name} has an arm that is nowhere described: {min(missing)}")
            if experiment.arms[0] != RANDOM:
                raise ValueError(f"{name} does not begin with the random start, which all others are compared with")

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


class PaperTable(_Table, frozen=True, kw_only=True):
    """One table of the paper: rows by the arm's name, a [mean, SD] for each of `labelled`."""

    source: str
    labelled: tuple[int, ...]
    rows: Mapping[str, tuple[Paired, ...]]

    def dice(self, arm: str, labelled: int) -> Paired | None:
        if arm not in self.rows or labelled not in self.labelled:
            return None
        return self.rows[arm][self.labelled.index(labelled)]


def load_protocol() -> Protocol:
    """The committed protocol. Raises SettingsError if the file was changed to something that does not hold."""
    return parse(Protocol, _read("protocol.toml"), "protocol.toml")


def load_paper() -> Mapping[str, PaperTable]:
    """The paper's tables by experiment."""
    return parse(dict[str, PaperTable], _read("paper.toml"), "paper.toml")


def parse(kind: type[_T], text: str, name: str) -> _T:
    """Raises SettingsError that names the file and the place in it."""
    try:
        return msgspec.convert(tomllib.loads(text), kind)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsError(f"{name} does not hold: {error}") from None


def over(base: Settings, *changes: Settings) -> Settings:
    """Settings with those of `changes` in their place, table by table; nothing given is changed."""
    merged = dict(base)
    for change in changes:
        for name, value in change.items():
            held = merged.get(name)
            merged[name] = over(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def _read(name: str) -> str:
    return (resources.files("sim.reproduce") / name).read_text("utf-8")
