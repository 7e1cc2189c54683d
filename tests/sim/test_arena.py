"""Federations stopped in the middle: folders exchanged for older ones, sites that come late, go and come back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedsecure.egress import NON_PRIVATE
from fedsecure.node.introductions import OLDER_COPY
from fedsecure.node.store import Store
from fedsecure.node.wiring import COORDINATOR
from sim.arena import Arena
from sim.audit import final_models

from .conftest import LayOut

SHORT = {"finetune": {"labelled": [1], "modes": ["federated"], "steps": 2, "rounds": 1, "batch": 2}, "baseline": False}


def undisturbed(lay_out_world: LayOut) -> tuple[bytes, ...]:
    run, study = lay_out_world("calm", **SHORT)
    arena = Arena(run, study)
    arena.start(*arena.folders)
    arena.finish()
    arena.close()
    return final_models(run)


def released(arena: Arena, site: str) -> int:
    return sum(1 for row in arena.shells[site]._store.sent() if row.event == NON_PRIVATE)


@pytest.mark.slow
def test_a_site_put_back_to_an_older_copy_is_refused_and_the_others_go_on(
    lay_out_world: LayOut, tmp_path: Path
) -> None:
    run, study = lay_out_world("restored", **SHORT, round_deadline_s=60.0)
    arena = Arena(run, study)
    arena.start(*arena.folders)
    folder = arena.folders["site-1"]
    arena.until(lambda: released(arena, "site-1") == 2)  # weights and features of the first round
    arena.end("site-1")
    shutil.copytree(folder, tmp_path / "backup")
    arena.start("site-1")
    arena.until(lambda: released(arena, "site-1") > 2)
    arena.turn(2)
    arena.end("site-1")
    arena.start("site-1")  # once more: the copy's next start is an earlier one than the last that was seen
    arena.turn(2)
    arena.end("site-1")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    arena.start("site-1")
    arena.until(lambda: bool(arena.outcomes()["site-1"]))
    stopped = arena.shells["site-1"].outcome
    assert stopped is not None
    assert (stopped.reason, stopped.detail) == ("failed", OLDER_COPY)
    assert any(node == COORDINATOR and "never goes back" in event.rule for node, event in arena.refused)
    arena.until(lambda: all(arena.outcomes()[name] for name in (COORDINATOR, "site-2")))
    assert arena.outcomes()[COORDINATOR] == "finished"
    arena.close()


def test_a_coordinator_put_back_to_an_older_copy_stops(lay_out_world: LayOut, tmp_path: Path) -> None:
    run, study = lay_out_world("restored", **SHORT)
    arena = Arena(run, study)
    arena.start(*arena.folders)
    folder = arena.folders[COORDINATOR]
    arena.turn(2)
    arena.end(COORDINATOR)
    shutil.copytree(folder, tmp_path / "backup")
    for _ in range(2):
        arena.start(COORDINATOR)
        arena.turn(6)  # in which every site says that it is there
        arena.end(COORDINATOR)
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    arena.start(COORDINATOR)
    arena.until(lambda: bool(arena.outcomes()[COORDINATOR]))
    stopped = arena.shells[COORDINATOR].outcome
    assert stopped is not None
    assert stopped.detail == OLDER_COPY
    assert arena.outcomes()["site-1"] == ""
    arena.close()


@pytest.mark.slow
def test_sites_that_come_late_and_go_and_come_back_change_nothing(lay_out_world: LayOut) -> None:
    expected = undisturbed(lay_out_world)
    run, study = lay_out_world("wild", **SHORT)
    arena = Arena(run, study)
    arena.start(COORDINATOR, "site-1")
    arena.turn(20)
    arena.start("site-2")
    for number in range(6):
        arena.turn(1 + number)
        name = ("site-1", COORDINATOR, "site-2")[number % 3]
        if not arena.outcomes()[name]:
            arena.end(name)
            arena.turn(2)
            arena.start(name)
    arena.finish()
    assert set(arena.outcomes().values()) == {"finished"}
    arena.close()
    assert final_models(run) == expected
    for folder in arena.folders.values():
        store = Store(folder)
        sealed = [(row.stage, row.round, row.flow) for row in store.sent() if row.event == NON_PRIVATE]
        assert len(sealed) == len(set(sealed))
        store.close()


@pytest.mark.slow
def test_a_late_site_takes_part_from_the_open_round_on(lay_out_world: LayOut) -> None:
    run, study = lay_out_world("late", **SHORT, join_deadline_s=2.0, round_deadline_s=10.0)
    arena = Arena(run, study)
    arena.start(COORDINATOR, "site-1")
    arena.until(lambda: released(arena, "site-1") > 1)
    arena.start("site-2")
    arena.finish()
    assert set(arena.outcomes().values()) == {"finished"}
    store = arena.shells["site-2"]
    assert store.sent_bytes()[COORDINATOR] > 0
    arena.close()
