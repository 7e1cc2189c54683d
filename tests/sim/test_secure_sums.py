"""Whole federations in which updates leave the sites in secure sums alone."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from fedsecure.config import Study, SumFloors, parse_study
from fedsecure.egress import NON_PRIVATE, REPEAT, Gate
from fedsecure.errors import GateRefused, SettingsError
from fedsecure.learning.fedavg import average
from fedsecure.learning.sparse import part_of
from fedsecure.node.averaging import Averaging
from fedsecure.node.coordinator import step
from fedsecure.node.coordinator_shell import CoordinatorShell
from fedsecure.node.events import FrameIn, Refuse, SumStep
from fedsecure.node.membership import load_trust, save_trust
from fedsecure.node.sum_terms import floors_of
from fedsecure.node.wiring import COORDINATOR
from fedsecure.privacy.summing import grid_of
from fedsecure.progress import Progress, Refused, Sent
from fedsecure.types import Flow, Update
from protocols.messages import WeightUpdate
from protocols.secagg.manifest import MANIFEST_LABEL, manifest_digest, sign_manifest
from protocols.secagg.messages import (
    AgreedResult,
    Keyset,
    RelayShares,
    SecAggOpen,
    SumResult,
    Survivors,
    UnmaskRequest,
)
from sim.arena import Arena
from sim.errors import FederationFailed
from sim.federation import federate, finished
from sim.world import World, build

TINY: dict[str, Any] = {
    "model": {"filters": 4, "hidden": 16, "features": 8},
    "data": {"size": 32},
    "pretrain": {"rounds": 2, "local_steps": 1, "batch": 4, "bank": 16, "negatives": 8},
    "finetune": {"labelled": [1], "steps": 2, "rounds": 2, "batch": 2, "modes": ["federated"]},
    "baseline": False,
    "security": {"secagg": True, "clip": 30.0},
}
WORLD = World(source=None, sites=5, scheme="random", phantom_patients=2, phantom_size=48)

LayOut = Callable[..., tuple[Path, Study]]


@pytest.fixture
def lay_out(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LayOut:
    def lay(name: str = "run", **settings: Any) -> tuple[Path, Study]:
        run = tmp_path / name
        cache = tmp_path_factory.getbasetemp() / "sums-cache"
        return run, build(WORLD, parse_study({**TINY, **settings}), run, cache, lambda _: None)

    return lay


class Watcher:
    """Notes what each site's gate masked and what the coordinator opened, which no node has both of."""

    def __init__(self) -> None:
        self.integers: dict[tuple[int, int, str], Any] = {}
        self.updates: dict[tuple[int, int, str], tuple[Update, ...]] = {}
        self.opened: dict[tuple[int, int], tuple[Any, tuple[str, ...]]] = {}
        self.ends: dict[tuple[int, int], tuple[Any, Any, float]] = {}  # by the sum, by FedAvg, difference


@pytest.fixture
def watcher(monkeypatch: pytest.MonkeyPatch) -> Watcher:
    seen = Watcher()
    mask, finish = Gate.mask, CoordinatorShell._finish_sum

    def masking(self: Gate, updates: Any, context: Any, burned: Any, ledger: Any, record: Any) -> Any:
        place = (context.stage, context.round, self._name)
        fill, _ = self._quantizer(updates, context, burned.keyed.opened.cohort.manifest.flows)
        words = burned.keyed.opened.cohort.ring.words(burned.keyed.opened.cohort.length)
        fill.fill(0, words)
        seen.integers[place] = words.astype(np.int64)
        seen.updates[place] = updates
        return mask(self, updates, context, burned, ledger, record)

    def finishing(self: CoordinatorShell, manifest: Any, integers: Any, survivors: Any) -> bytes:
        digest = finish(self, manifest, integers, survivors)
        place = (manifest.stage, manifest.round)
        seen.opened[place] = (integers.copy(), survivors)
        if manifest.flows[-1].flow != Flow.WEIGHTS:
            return digest
        averaging = Averaging(self._store, self._study, *place, survivors, self._refused)
        weights = {member.name: member.weight for member in self._study.sites}
        deltas = [(site, weights[site], seen.updates[(*place, site)][-1].arrays) for site in survivors]
        step = grid_of(self._study, [part.length for part in manifest.flows]).step
        most = len(survivors) * step / sum(weights[site] for site in survivors)  # of a turned coordinate
        end = averaging.end()
        moving = end if averaging._places is None else part_of(end, averaging._places)
        seen.ends[place] = (moving, average(averaging._moving(), deltas), most)
        return digest

    monkeypatch.setattr(Gate, "mask", masking)
    monkeypatch.setattr(CoordinatorShell, "_finish_sum", finishing)
    return seen


SHORT: dict[str, Any] = {
    "pretrain": {**TINY["pretrain"], "rounds": 1, "exchange": "none"},
    "finetune": {"modes": []},
    "security": {**TINY["security"], "step_deadline_s": 5.0},
}  # one stage of one round
STEPS = (SecAggOpen, Keyset, RelayShares, Survivors, UnmaskRequest, SumResult, AgreedResult)


def in_steps(steps: tuple[type, ...], fast: set[type]) -> list[Any]:
    """Each is a federation of its own: one or two of them in the fast set."""
    return [pytest.param(k, id=k.__name__, marks=() if k in fast else pytest.mark.slow) for k in steps]


def hearing(arena: Arena, site: str, instead: Callable[[Any], Any]) -> None:
    """From now on what `site` hears of sums is what `instead` makes of it; None: nothing."""
    inner = arena.shells[site]._sum.hear  # type: ignore[attr-defined]

    def hear(message: Any, mine: bool) -> None:
        heard = instead(message)
        if heard is not None:
            inner(heard, mine)

    arena.shells[site]._sum.hear = hear  # type: ignore[attr-defined]


def deaf_from(kind: type) -> Callable[[Any], Any]:
    """Hears what comes before `kind`, and nothing from there on."""
    gone: list[bool] = []

    def instead(message: Any) -> Any:
        if isinstance(message, kind):
            gone.append(True)
        return None if gone else message

    return instead


@pytest.fixture
def arena(lay_out: LayOut, watcher: Watcher) -> Iterator[Arena]:
    begun = Arena(*lay_out(**SHORT))
    begun.start(*begun.folders)
    yield begun
    begun.close()


def assert_exact(watcher: Watcher, survivors: set[str], place: tuple[int, int] = (0, 0)) -> None:
    integers, summed = watcher.opened[place]
    assert set(summed) == survivors
    assert (sum(signed(watcher.integers[(*place, site)]) for site in survivors) == integers).all()


@pytest.mark.parametrize("kind", in_steps(STEPS, {RelayShares}))
def test_a_site_that_falls_silent_shrinks_the_set_and_the_study_goes_on(
    arena: Arena, watcher: Watcher, kind: type
) -> None:
    hearing(arena, "site-3", deaf_from(kind))
    arena.until(lambda: all(end for name, end in arena.outcomes().items()))
    assert set(arena.outcomes().values()) == {"finished"}
    everybody = {member.name for member in arena.study.sites}
    in_the_sum = STEPS.index(kind) > STEPS.index(RelayShares)
    assert_exact(watcher, everybody if in_the_sum else everybody - {"site-3"})


@pytest.mark.parametrize("kind", in_steps(STEPS[:5], {Survivors}))
def test_with_too_few_a_sum_is_given_up_and_the_next_attempt_begins_clean(
    arena: Arena, watcher: Watcher, kind: type
) -> None:
    """Before anybody was asked to unmask. Then the study waits, as nobody may be asked for another sum."""
    silent = [deaf_from(kind), deaf_from(kind)]
    for site, ears in zip(("site-2", "site-4"), silent, strict=True):
        hearing(arena, site, ears)
    coordinator: Any = arena.shells[COORDINATOR]
    if kind is UnmaskRequest:
        arena.until(lambda: coordinator._state.sum is not None and coordinator._state.sum.patience > 2)
        assert not watcher.opened
        assert coordinator._state.sum.attempt == 0
        arena.until(lambda: coordinator.outcome is not None)
        assert coordinator.outcome.reason == "aborted"
        assert "the same sites or not at all" in coordinator.outcome.detail
        return
    arena.until(lambda: coordinator._state.sum is not None and coordinator._state.sum.attempt == 1)
    assert not watcher.opened
    for site in ("site-2", "site-4"):  # both are back, with new ears
        arena.end(site)
        arena.start(site)
    arena.finish()
    assert set(arena.outcomes().values()) == {"finished"}
    assert_exact(watcher, {member.name for member in arena.study.sites})


@pytest.mark.slow
def test_attempts_are_counted_and_the_study_ends_with_a_reason(arena: Arena, watcher: Watcher) -> None:
    for site in ("site-2", "site-4"):
        hearing(arena, site, deaf_from(Keyset))
    coordinator: Any = arena.shells[COORDINATOR]
    arena.until(lambda: coordinator.outcome is not None)
    assert (coordinator.outcome.reason, watcher.opened) == ("aborted", {})
    assert "given up 3 times" in coordinator.outcome.detail


def everybody(arena: Arena) -> set[str]:
    return {member.name for member in arena.study.sites}


def test_a_coordinator_that_is_killed_in_every_step_goes_on_from_its_disk(lay_out: LayOut, watcher: Watcher) -> None:
    """With the answers of all but one, who answers when it is asked again."""
    arena = Arena(*lay_out(**{**SHORT, "security": TINY["security"]}))
    arena.start(*arena.folders)
    killed: list[str] = []
    lost: set[type] = set()

    def deaf_once(message: Any) -> Any:
        first = type(message) not in lost
        lost.add(type(message))
        return None if first else message

    def turned() -> bool:
        running = arena.shells[COORDINATOR]._state.sum  # type: ignore[attr-defined]
        if running is not None and running.step not in killed and running.waiting == {"site-4"}:
            killed.append(running.step)
            arena.end(COORDINATOR)
            arena.start(COORDINATOR)
        return all(arena.outcomes().values())

    hearing(arena, "site-4", deaf_once)
    arena.until(turned)
    assert set(arena.outcomes().values()) == {"finished"}
    assert killed == list(SumStep)
    assert_exact(watcher, everybody(arena))
    arena.close()


@pytest.mark.parametrize("kind", in_steps(STEPS[:-1], {UnmaskRequest}))
def test_a_site_that_is_killed_goes_on_from_what_it_sent_or_is_a_dropout(
    arena: Arena, watcher: Watcher, kind: type
) -> None:
    heard: list[Any] = []

    def note(message: Any) -> Any:
        heard.append(message)
        return message

    hearing(arena, "site-3", note)
    arena.until(lambda: any(isinstance(message, kind) for message in heard))
    arena.end("site-3")
    arena.start("site-3")
    arena.finish()
    assert set(arena.outcomes().values()) == {"finished"}
    assert not arena.refused
    masked = STEPS.index(kind) >= STEPS.index(RelayShares)
    assert_exact(watcher, everybody(arena) if masked else everybody(arena) - {"site-3"})


def test_a_site_sums_with_nobody_whose_keys_its_operator_did_not_verify(lay_out: LayOut, watcher: Watcher) -> None:
    """A roster of puppets: whom it names besides counts for nothing."""
    arena = Arena(*lay_out(**SHORT))
    folder = arena.folders["site-3"]
    trust = load_trust(folder)
    save_trust(folder, replace(trust, pins={name: trust.pins[name] for name in ("site-3", COORDINATOR)}))
    arena.start(*arena.folders)
    arena.finish()
    assert_exact(watcher, everybody(arena) - {"site-3"})
    assert any(name == "site-3" and "verified" in event.rule for name, event in arena.refused)
    arena.close()


def test_a_site_that_verified_too_few_for_its_own_floor_does_not_start() -> None:
    with pytest.raises(SettingsError, match=r"sums.known asks for 3 sites .* it verified 2"):
        floors_of(SumFloors(known=3), frozenset({"north", "south"}))


class Killed(BaseException):
    """What stops a shell between two writes, as kill -9 does."""


def test_a_vector_on_disk_is_on_record_whenever_its_site_is_killed(arena: Arena, watcher: Watcher) -> None:
    shell: Any = arena.shells["site-3"]
    keep = shell._sum._sums.keep

    def killed_behind(step: str, *rest: Any) -> None:
        keep(step, *rest)
        if step == "masked-input":
            raise Killed

    shell._sum._sums.keep = killed_behind
    with pytest.raises(Killed):
        arena.finish()
    arena.end("site-3")
    arena.start("site-3")
    arena.finish()
    again: Any = arena.shells["site-3"]
    first, *others = [row for row in again._store.sent() if row.kind == "release"]
    assert first.event == NON_PRIVATE
    assert {row.event for row in others} <= {REPEAT}
    assert again._store.released_bytes() == first.size
    assert_exact(watcher, everybody(arena))


def test_results_of_sums_that_never_were_take_no_room(arena: Arena) -> None:
    """A coordinator may tell a site of any number of sums that it was no part of; they wait unchecked."""
    heard: dict[type, Any] = {}

    def note(message: Any) -> Any:
        heard[type(message)] = message
        return message

    hearing(arena, "site-3", note)
    arena.finish()
    sums: Any = arena.shells["site-3"]._sum  # type: ignore[attr-defined]

    def tell(**place: int) -> None:
        manifest = structs.replace(heard[SecAggOpen].manifest, **place)
        sums.hear(structs.replace(heard[SecAggOpen], manifest=manifest), False)
        for kind in (SumResult, AgreedResult):
            sums.hear(structs.replace(heard[kind], keyset=bytes(32)), False)

    for attempt in range(1, 50):
        tell(attempt=attempt)
    assert len(sums._missed) == 1
    refused = len(arena.refused)
    for round_ in range(1, 50):
        tell(round=round_)
    assert len(sums._missed) == 1
    assert len(arena.refused) > refused


@pytest.mark.slow
def test_a_veto_takes_a_vector_out_while_nobody_can_have_unmasked_it(arena: Arena, watcher: Watcher) -> None:
    coordinator: Any = arena.shells[COORDINATOR]
    hearing(arena, "site-5", deaf_from(Survivors))
    arena.until(lambda: coordinator._state.sum is not None and coordinator._state.sum.step == "consistency-check")
    arena.shells["site-2"].veto()
    arena.until(lambda: arena.shells["site-2"].outcome is not None)
    arena.end("site-5")
    arena.start("site-5")
    arena.finish()
    assert arena.outcomes() == {name: "vetoed" if name == "site-2" else "finished" for name in arena.folders}
    assert_exact(watcher, everybody(arena) - {"site-2"})


def overlapping(message: Any, _: Any) -> Any:
    if not isinstance(message, Survivors):
        return message
    return structs.replace(message, dropped=message.survivors[:1])


def another_model(message: Any, coordinator: Any) -> Any:
    if not isinstance(message, SecAggOpen):
        return message
    return sign_manifest(structs.replace(message.manifest, model=bytes(32)), coordinator._identity)


def fewer_to_open(message: Any, coordinator: Any) -> Any:
    if not isinstance(message, SecAggOpen):
        return message
    lowered = structs.replace(message.manifest, threshold=3, holders=3)
    signature = coordinator._identity.sign(MANIFEST_LABEL, manifest_digest(lowered))
    return SecAggOpen(lowered, signature)


def substituted_key(message: Any, _: Any) -> Any:
    if not isinstance(message, Keyset):
        return message
    first, *rest = message.advertisements
    return structs.replace(message, advertisements=(structs.replace(first, mask=rest[0].mask), *rest))


def forged_result(message: Any, _: Any) -> Any:
    return structs.replace(message, result=bytes(32)) if isinstance(message, SumResult) else message


@pytest.mark.parametrize(
    ("twist", "rule", "in_the_sum"),
    [
        (overlapping, "nobody is among the survivors and among the dropped", True),
        pytest.param(another_model, "the manifest's model is what the site", False, marks=pytest.mark.slow),
        pytest.param(fewer_to_open, "a threshold is above half", False, marks=pytest.mark.slow),
        pytest.param(substituted_key, "an advertisement has the digest", False, marks=pytest.mark.slow),
        pytest.param(forged_result, "a result is signed by the coordinator", True, marks=pytest.mark.slow),
    ],
)
def test_what_a_site_refuses_is_logged_with_who_is_to_blame_and_it_is_in_the_next_sum(
    lay_out: LayOut, watcher: Watcher, twist: Any, rule: str, in_the_sum: bool
) -> None:
    arena = Arena(*lay_out(**{**SHORT, "pretrain": {**SHORT["pretrain"], "rounds": 2}}))
    arena.start(*arena.folders)
    coordinator: Any = arena.shells[COORDINATOR]
    hearing(arena, "site-1", lambda m: twist(m, coordinator) if coordinator._state.round == 0 else m)
    arena.finish()
    assert set(arena.outcomes().values()) == {"finished"}
    assert {(name, event.peer) for name, event in arena.refused} == {("site-1", COORDINATOR)}
    assert any(rule in event.rule for _, event in arena.refused)
    assert_exact(watcher, everybody(arena) if in_the_sum else everybody(arena) - {"site-1"})
    assert_exact(watcher, everybody(arena), (0, 1))
    arena.close()


def test_the_coordinator_takes_no_update_in_the_clear(arena: Arena) -> None:
    site: Any = arena.shells["site-1"]
    coordinator: Any = arena.shells[COORDINATOR]
    arena.until(lambda: coordinator._state.phase == "open" and site._state.phase == "waiting")
    with pytest.raises(GateRefused, match="no site's own may leave"):
        site._gate.release(Update(Flow.WEIGHTS, {}), site._context(0, 0))
    state = coordinator._state
    in_the_clear = FrameIn("site-1", WeightUpdate(0, 0, state.model_digest, b""))
    after, effects = step(arena.study, state, in_the_clear)
    assert (after, [type(effect) for effect in effects]) == (state, [Refuse])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "flows"),
    [
        (
            {"framework": "fcl", "pretrain": {"exchange": "secagg-prototypes"}},
            {"masked prototype-sum+weights", "masked weights"},
        ),
        # R1 asks with the round: one sum. R2 asks afterwards: the targets are a sum of their own.
        (
            {"framework": "fclopt", "pretrain": {"exchange": "none", "distance": "r1", "threshold": 0.0}},
            {"masked target+weights", "masked weights"},
        ),
        (
            {"framework": "fclopt", "pretrain": {"exchange": "none", "distance": "r2", "threshold": 0.0, "refresh": 9}},
            {"masked weights", "masked target"},
        ),
    ],
    ids=["prototypes", "targets at once", "targets afterwards"],
)
def test_all_that_is_averaged_goes_through_sums(
    lay_out: LayOut, watcher: Watcher, settings: dict[str, Any], flows: set[str]
) -> None:
    pretrain = {**TINY["pretrain"], "rounds": 3, **settings["pretrain"]}
    run, study = lay_out(**{**SHORT, **settings, "pretrain": pretrain})
    events: list[tuple[str, Progress]] = []
    federate(run, study, "memory", lambda node, event: events.append((node, event)))
    assert not [event for _, event in events if isinstance(event, Refused)]
    sent = [event for node, event in events if node != COORDINATOR and isinstance(event, Sent)]
    assert {event.flow for event in sent if event.kind == "release"} - {"distance"} >= flows
    assert not {event.flow for event in sent} & {"features", "prototypes"}
    for place in watcher.opened:
        assert_exact(watcher, {member.name for member in study.sites}, place)


@pytest.mark.slow
def test_processes_over_curve_give_the_same_bytes_as_memory(lay_out: LayOut) -> None:
    models = []
    for transport in ("memory", "zmq"):
        run, study = lay_out(transport)
        events: list[tuple[str, Progress]] = []
        federate(run, study, transport, lambda node, event, events=events: events.append((node, event)))
        assert finished(run)
        assert not [event for _, event in events if isinstance(event, Refused)]
        models.append((run / COORDINATOR / "models/1-2.safetensors").read_bytes())
    assert models[0] == models[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "flow"),
    [
        *(("site-3", f) for f in ("AdvertiseKeys", "ShareKeys", "masked weights", "ConsistencyCheck", "UnmaskShares")),
        *((COORDINATOR, f) for f in ("Keyset", "RelayShares", "Survivors", "UnmaskRequest", "SumResult")),
    ],
)
def test_a_kill_of_a_process_in_a_step_and_a_resume_end_the_study(lay_out: LayOut, node: str, flow: str) -> None:
    run, study = lay_out(**{**SHORT, "security": {**TINY["security"], "step_deadline_s": 10.0}})
    killed: list[str] = []

    def kill(name: str, event: Progress) -> None:
        if not killed and name == node and isinstance(event, Sent) and event.flow == flow:
            folder = str(run / COORDINATOR if node == COORDINATOR else run / "sites" / node).encode()
            for process in Path("/proc").iterdir():
                if process.name.isdigit():
                    command = (process / "cmdline").read_bytes().split(b"\0")
                    if folder in command and b"worker" not in command:
                        os.kill(int(process.name), signal.SIGKILL)
                        killed.append(flow)

    with pytest.raises(FederationFailed, match="ended without a word"):
        federate(run, study, "zmq", kill)
    assert killed
    federate(run, study, "zmq", lambda *_: None)
    assert finished(run)


def signed(words: Any) -> Any:
    return np.where(words >= 2**31, words - 2**32, words)


@pytest.mark.parametrize("period", [1, 3])
def test_each_rounds_sum_is_that_of_the_sites_and_the_model_that_of_fedavg(
    lay_out: LayOut, watcher: Watcher, period: int
) -> None:
    run, study = lay_out(sparse={"period": period})
    events: list[tuple[str, Progress]] = []
    federate(run, study, "memory", lambda node, event: events.append((node, event)))
    assert finished(run)
    assert not [event for _, event in events if isinstance(event, Refused)]
    assert set(watcher.opened) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for place, (integers, survivors) in watcher.opened.items():
        assert set(survivors) == {member.name for member in study.sites}
        plain = sum(signed(watcher.integers[(*place, site)]) for site in survivors)
        assert (plain == integers).all()
        assert np.abs(integers).max() > 0
        secure, plain_mean, most = watcher.ends[place]
        off = np.concatenate([(tensor - plain_mean[name]).ravel() for name, tensor in secure.items()])
        assert np.linalg.norm(off) <= math.sqrt(len(off)) * (most + 1e-7)
    kinds = {(event.kind, event.flow) for node, event in events if node != COORDINATOR and isinstance(event, Sent)}
    assert [flow for kind, flow in kinds if kind == "release" and "weights" in flow] == ["masked weights"]
    assert {flow for kind, flow in kinds if kind == "share"} == {
        "AdvertiseKeys", "ShareKeys", "ConsistencyCheck", "UnmaskShares", "ResultAgreement", "LogHead", "LogWitness",
    }  # fmt: skip
