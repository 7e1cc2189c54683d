"""Whole federations of FCL in every form of feature exchange: what is read, equal bytes, and the traffic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsecure.config import Study, parse_study
from fedsecure.learning.prototypes import cells, clipped_sum
from fedsecure.node.wiring import COORDINATOR
from fedsecure.packing import unpack_arrays
from fedsecure.progress import Progress, Refused, RoundEnded, RoundStarted, Sent
from fedsecure.report.exchange import exchange_block
from fedsecure.report.provenance import collect as provenance
from sim.collect import collect
from sim.errors import FederationFailed
from sim.federation import federate
from sim.world import World, build

from .conftest import TINY
from .test_federation import Killer

FORMS = ("vectors", "prototypes", "secagg-prototypes")
WORLD = World(source=None, sites=3, scheme="random", phantom_patients=3, phantom_size=48)
Lay = Callable[..., tuple[Path, Study]]


@pytest.fixture(scope="module")
def lay(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Lay:
    def lay_out(exchange: str, world: World = WORLD, **pretrain: Any) -> tuple[Path, Study]:
        settings = {
            **TINY,
            "baseline": False,
            "model": {"filters": 8, "hidden": 16, "features": 8},  # large enough for headers not to count
            "pretrain": {"rounds": 3, "local_steps": 2, "batch": 8, "bank": 60, "exchange": exchange, **pretrain},
            "finetune": {"labelled": [1], "modes": ["local"], "steps": 1, "batch": 2},
        }
        run = tmp_path_factory.mktemp("exchange")
        return run, build(world, parse_study(settings), run, shared_cache, lambda _: None)

    return lay_out


def ignore(_: str, __: Progress) -> None:
    pass


def encoder(run: Path) -> bytes:
    return (run / COORDINATOR / "models/encoder.safetensors").read_bytes()


class Done:
    """A finished federation in memory, with what its sites handed to their gates and what they were given."""

    def __init__(self, run: Path, study: Study, form: str) -> None:
        self.run, self.study = run, study
        self.entries: dict[tuple[str, int], np.ndarray[Any, Any]] = {}
        self.sums: dict[int, set[bytes]] = {}
        self.held = b""
        flow = "prototype-sum" if form == "secagg-prototypes" else form
        refusals: list[Progress] = []

        def watch(node: str, event: Progress) -> None:
            folder = run / "sites" / node
            if isinstance(event, Refused):
                refusals.append(event)
            if isinstance(event, Sent) and event.flow == flow and form != "vectors":
                raw = (folder / f"outgoing/{flow}.safetensors").read_bytes()
                self.entries[node, event.round] = unpack_arrays(raw)["entries"]
            if isinstance(event, RoundStarted) and event.stage == 0 and (folder / "incoming/prototypes.f32").is_file():
                self.sums.setdefault(event.round, set()).add((folder / "incoming/prototypes.f32").read_bytes())
            if node == COORDINATOR and isinstance(event, RoundEnded) and event.stage == 0:
                self.held += b"".join(path.read_bytes() for path in (run / node).rglob("*") if path.is_file())

        federate(run, study, "memory", watch)
        assert refusals == []
        self.encoder = encoder(run)
        self.results = collect(run, study, WORLD, provenance("fedsecure", datetime.now(UTC), 1.0))

    def clipped(self, site: str, round_: int) -> np.ndarray[Any, Any]:
        return clipped_sum(self.entries[site, round_], self.study.pretrain.prototype_clip)


@pytest.fixture(scope="module")
def finished(lay: Lay) -> Callable[[str], Done]:
    known: dict[str, Done] = {}

    def of(form: str) -> Done:
        if form not in known:
            known[form] = Done(*lay(form), form)
        return known[form]

    return of


@pytest.mark.parametrize("form", FORMS)
def test_bytes_are_those_of_the_traffic_model(form: str, finished: Callable[[str], Done]) -> None:
    """docs/method.md 2.7, within 1 %; the report names the form."""
    block = exchange_block(finished(form).results, "fcl")
    assert block is not None
    assert block.form == form
    (total,) = block.bytes
    assert total.up == pytest.approx(total.model_up, rel=0.01)
    assert total.down == pytest.approx(total.model_down, rel=0.01)


def test_every_form_trains_another_encoder(finished: Callable[[str], Done]) -> None:
    assert len({finished(form).encoder for form in FORMS}) == 3


def test_sealed_prototypes_are_one_box_a_round_that_the_coordinator_cannot_read(
    finished: Callable[[str], Done],
) -> None:
    done = finished("prototypes")
    assert {round_ for _, round_ in done.entries} == {0, 1}
    assert {site for site, _ in done.entries} == {"site-1", "site-2", "site-3"}
    for site, round_ in done.entries:
        summed = done.clipped(site, round_)
        assert not [row for row in summed if row.any() and row.tobytes() in done.held]
    relayed = [row for row in done.results.traffic if row.flow == "BankRelay"]
    assert [row.messages for row in relayed] == [4, 4, 4]  # two rounds, two other sites
    assert not list(done.run.glob("sites/*/incoming/*.bank"))
    assert not list(done.run.glob("sites/*/outgoing/*"))


def test_every_site_is_given_the_same_sum_of_what_all_released(finished: Callable[[str], Done]) -> None:
    done = finished("secagg-prototypes")
    assert set(done.sums) == {1, 2}
    sites = [member.name for member in done.study.sites]
    for round_, given in done.sums.items():
        expected = sum(done.clipped(site, round_ - 1).astype(np.float64) for site in sorted(sites))
        assert given == {np.asarray(expected, np.float32).tobytes()}
    assert not [row for row in done.results.traffic if row.flow == "BankRelay"]


def test_a_released_sum_is_of_the_studys_size_whatever_the_patients_have(finished: Callable[[str], Done]) -> None:
    done = finished("secagg-prototypes")
    sizes = {row.bytes for row in done.results.traffic if row.flow == "prototype-sum"}
    assert len(sizes) == 1
    assert min(sizes) > 2 * 4 * cells(done.study.pretrain) * 8


@pytest.mark.parametrize("form", ["secagg-prototypes", pytest.param("prototypes", marks=pytest.mark.slow)])
def test_processes_over_curve_give_the_same_bytes(form: str, lay: Lay, finished: Callable[[str], Done]) -> None:
    run, study = lay(form)
    events: list[Progress] = []
    federate(run, study, "zmq", lambda _, event: events.append(event))
    assert encoder(run) == finished(form).encoder
    assert not any(isinstance(event, Refused) for event in events)


@pytest.mark.parametrize("form", FORMS)
def test_one_site_with_one_patient_to_train_on_shares_nothing_and_finishes(form: str, lay: Lay) -> None:
    run, study = lay(form, World(source=None, sites=1, scheme="random", phantom_patients=2, phantom_size=48), rounds=2)
    assert [member.weight for member in study.sites] == [1]
    released: list[str] = []

    def watch(_: str, event: Progress) -> None:
        if isinstance(event, Sent) and event.kind == "release":
            released.append(event.flow)

    federate(run, study, "memory", watch)
    assert released == ["weights", "weights"]


@pytest.mark.parametrize("raw", [b"\0" * 8, np.full(16 * 8, np.nan, np.float32).tobytes()])
def test_a_sum_that_does_not_fit_the_study_is_refused_and_the_round_goes_on_without(raw: bytes, lay: Lay) -> None:
    run, study = lay("secagg-prototypes")
    refusals: list[tuple[str, int, str]] = []

    def spoil(node: str, event: Progress) -> None:
        if node == "site-1" and isinstance(event, RoundStarted) and (event.stage, event.round) == (0, 1):
            (run / "sites" / node / "incoming/prototypes.f32").write_bytes(raw)
        if isinstance(event, Refused):
            refusals.append((node, event.round, event.peer))

    federate(run, study, "memory", spoil)
    assert refusals == [("site-1", 1, COORDINATOR)]


def test_the_separable_loss_over_stratified_draws_runs_whole(lay: Lay, finished: Callable[[str], Done]) -> None:
    settings = {"loss": "separable", "draw": "stratified", "remote_only": True}
    done = Done(*lay("secagg-prototypes", **settings), "secagg-prototypes")
    assert done.encoder != finished("secagg-prototypes").encoder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["prototypes", "secagg-prototypes"])
@pytest.mark.parametrize("node", ["site-1", COORDINATOR])
@pytest.mark.parametrize("at", [(0, 1, RoundStarted), (0, 0, RoundEnded)])
def test_a_kill_and_a_resume_give_the_same_bytes(
    form: str, node: str, at: tuple[int, int, type[Any]], lay: Lay, finished: Callable[[str], Done]
) -> None:
    run, study = lay(form)
    with pytest.raises(FederationFailed, match=f"{node} ended without a word"):
        federate(run, study, "zmq", Killer(run, node, *at))
    federate(run, study, "zmq", ignore)
    assert encoder(run) == finished(form).encoder
