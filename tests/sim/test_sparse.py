"""Whole federations whose updates are sparse: where models move, what travels, and equal bytes for who has lost it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsecure.config import Study
from fedsecure.learning import sparse
from fedsecure.node.averaging import model_file
from fedsecure.node.wiring import COORDINATOR
from fedsecure.node.workbench import MODEL
from fedsecure.packing import unpack_model
from fedsecure.plan import schedule
from fedsecure.progress import Progress, Refused, RoundEnded, RoundStarted, Sent
from fedsecure.types import FloatArray, schema_of, schema_size
from sim.errors import FederationFailed
from sim.federation import federate

from .conftest import TINY, LayOut
from .test_federation import Killer, ignore

PERIOD = 3
SPARSE: dict[str, Any] = {
    "sparse": {"period": PERIOD},
    "baseline": False,
    "model": {"filters": 8, "hidden": 16, "features": 8},  # large enough for headers not to count
    "pretrain": {**TINY["pretrain"], "rounds": 4},
}
NAIVE = {"framework": "fclopt", "pretrain": {**SPARSE["pretrain"], "target": "naive", "distance": "none"}}


class Watch:
    """Every model that a round opened with and everything that was sent, of a federation in memory."""

    def __init__(self, run: Path, study: Study, lose: tuple[int, int] | None = None) -> None:
        self.models: dict[tuple[int, int], dict[str, FloatArray]] = {}
        self.sent: list[tuple[str, Sent]] = []
        self._run, self._lose = run, lose
        self.refused: list[Refused] = []
        federate(run, study, "memory", self)

    def __call__(self, node: str, event: Progress) -> None:
        place = (event.stage, event.round)
        match event:
            case Refused():
                self.refused.append(event)
            case Sent():
                self.sent.append((node, event))
            case RoundStarted() if node == COORDINATOR:
                self.models[place] = unpack_model((self._run / COORDINATOR / model_file(*place)).read_bytes())
            case RoundEnded() if node == "site-1" and place == self._lose:
                (self._run / "sites" / node / MODEL).unlink()

    def sizes(self, flow: str, kind: str, site: str = "site-1") -> list[int]:
        return [
            event.size for node, event in self.sent
            if (event.flow, event.kind, event.stage) == (flow, kind, 0) and site in (node, event.peer)
        ]  # fmt: skip


def last_models(run: Path, study: Study) -> dict[str, bytes]:
    names = [model_file(number, stage.rounds) for number, stage in enumerate(schedule(study)) if stage.rounds]
    return {name: (run / COORDINATOR / name).read_bytes() for name in names}


@pytest.mark.parametrize("settings", [{}, NAIVE], ids=["fcl", "fclopt naive"])
def test_models_move_at_the_rounds_coordinates_and_only_those_travel(
    lay_out_world: LayOut, settings: dict[str, Any]
) -> None:
    run, study = lay_out_world(**{**SPARSE, **settings})
    watch = Watch(run, study)
    assert not watch.refused
    moved = 0
    for (stage, round_), model in watch.models.items():
        if (stage, round_ + 1) not in watch.models:
            continue
        before, after = sparse.flat(model), sparse.flat(watch.models[stage, round_ + 1])
        where = sparse.places(study, stage, round_, schema_of(model))
        rest = np.setdiff1d(np.arange(len(before)), where)
        assert before[rest].tobytes() == after[rest].tobytes()
        moved += int((before[where] != after[where]).sum())
    assert moved > 0.5 * sum(len(sparse.flat(model)) for model in watch.models.values()) / PERIOD / 2
    whole = 4 * schema_size(schema_of(watch.models[0, 0]))
    assert watch.sizes("weights", "release") == pytest.approx([whole / PERIOD] * 4, rel=0.01, abs=400)
    # Four training rounds and the evaluation open; the first one has nothing before it.
    assert watch.sizes("weights", "publish") == pytest.approx([whole, *[whole / PERIOD] * 4], rel=0.01, abs=2500)


def test_what_is_not_sent_is_sent_later(lay_out_world: LayOut) -> None:
    """After one period every coordinate has moved, also those whose only turn was the last one."""
    run, study = lay_out_world(**SPARSE)
    watch = Watch(run, study)
    first, later = sparse.flat(watch.models[0, 0]), sparse.flat(watch.models[0, PERIOD])
    dense, plain = lay_out_world("dense", **{**SPARSE, "sparse": {"period": 1}})
    moves = sparse.flat(Watch(dense, plain).models[0, PERIOD]) != first
    assert (later != first)[moves].mean() > 0.99


@pytest.mark.parametrize("at", [(0, 0), (0, 2), (0, 3)])
def test_a_site_that_lost_the_model_is_sent_all_of_it(lay_out_world: LayOut, at: tuple[int, int]) -> None:
    run, study = lay_out_world(**SPARSE)
    federate(run, study, "memory", ignore)
    losing, study = lay_out_world("losing", **SPARSE)
    watch = Watch(losing, study, lose=at)
    assert {event.peer for event in watch.refused} == {COORDINATOR}
    assert last_models(losing, study) == last_models(run, study)
    whole = 4 * schema_size(schema_of(watch.models[0, 0]))
    assert sum(size >= whole for size in watch.sizes("weights", "publish")) == 2  # the first, and the one it asked for
    assert sum(size >= whole for size in watch.sizes("weights", "publish", "site-2")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("node", ["site-1", COORDINATOR])
@pytest.mark.parametrize("at", [(0, 1, RoundStarted), (0, 2, RoundEnded), (0, 2, Sent), (2, 1, RoundStarted)])
def test_a_kill_and_a_resume_give_the_same_bytes(
    lay_out_world: LayOut, node: str, at: tuple[int, int, type[Any]]
) -> None:
    quiet, study = lay_out_world("quiet", **SPARSE)
    federate(quiet, study, "memory", ignore)
    run, study = lay_out_world("killed", **SPARSE)
    with pytest.raises(FederationFailed, match=f"{node} ended without a word"):
        federate(run, study, "zmq", Killer(run, node, *at))
    federate(run, study, "zmq", ignore)
    assert last_models(run, study) == last_models(quiet, study)
