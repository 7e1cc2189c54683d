"""Shards run for real, on phantoms: what they leave, and that they are never run twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fedsecure.errors import SettingsError
from sim.collect import collect
from sim.errors import Interrupted
from sim.federation import federate
from sim.reproduce import record as records
from sim.reproduce import runner
from sim.reproduce.protocols import Protocol, load_protocol, over
from sim.reproduce.runner import Sitting, estimate_seconds, finished_records, run_shard, run_shards
from sim.reproduce.shards import Asked, Shard, expand
from sim.reproduce.sources import describe
from sim.world import build

from .conftest import RUN, record

COMMITTED = load_protocol()
TINY = over(
    COMMITTED.budgets["smoke"].study,
    {"pretrain": {"rounds": 1, "local_steps": 1}, "finetune": {"steps": 2, "rounds": 1}},
)
ASKED = Asked("local", "smoke", describe("phantom"), frameworks=frozenset({"fcl"}))


def tiny(**changes: object) -> Protocol:
    budget = msgspec.structs.replace(COMMITTED.budgets["smoke"], study=over(TINY, changes), most=3)
    return msgspec.structs.replace(COMMITTED, budgets={"smoke": budget})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def sitting(tmp_path: Path, cache: Path) -> Sitting:
    return Sitting(tmp_path / "out", cache, "memory", ("fedsecure", "reproduce", "local", "--data", "acdc:/secret"))


def ids(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.json")}


def test_a_finished_shard_is_not_run_again_and_a_changed_setting_is(
    sitting: Sitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def counted(shard: Shard, *rest: object) -> records.Record:
        ran.append(shard.id)
        return run_shard(shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run_shard", counted)
    shards = expand(tiny(), ASKED).shards
    said: list[str] = []
    assert run_shards(shards, sitting, said.append) == 0
    assert ran == [shard.id for shard in shards]
    assert ids(sitting.shards) == set(ran)
    assert not list((sitting.out / runner.WORK).iterdir())
    assert not any("secret" in path.read_text() for path in sitting.shards.iterdir())

    assert run_shards(shards, sitting, said.append) == 0
    assert len(ran) == 2

    changed = expand(tiny(finetune={"steps": 3}), ASKED).shards
    assert run_shards(changed, sitting, said.append) == 0
    assert ran[2:] == [shard.id for shard in changed]
    assert len(ids(sitting.shards)) == 4

    found = list(finished_records(shards, sitting.shards).values())
    assert [record.arm for record in found] == ["random", "fcl"]
    random, fcl = found
    # The same patients, modes and N; one site and patient after the other
    assert [msgspec.to_builtins(score)[:5] for score in random.scores] == [
        msgspec.to_builtins(score)[:5] for score in fcl.scores
    ]
    assert {(score.mode, score.labelled) for score in fcl.scores} == {("local", 1), ("federated", 1)}
    assert (random.probes, random.traffic.up, random.pretrain_seconds) == ((), 0, 0)
    assert {probe.site for probe in fcl.probes} == {"site-1", "site-2", None}
    assert 0 < fcl.traffic.up < fcl.traffic.all_up


def test_the_random_start_is_the_one_that_a_frameworks_own_study_would_fine_tune(
    sitting: Sitting, tmp_path: Path
) -> None:
    random = next(shard for shard in expand(tiny(), ASKED).shards if shard.arm == "random")
    alone = run_shard(random, sitting, lambda _: None)
    leg = replace(random.legs[0], study=over(random.legs[0].study, TINY, {"start": "pretrain", "baseline": True}))
    run = tmp_path / "whole"
    study = build(leg.world, leg.parsed(), run, sitting.cache, lambda _: None)
    federate(run, study, "memory", lambda _, __: None)
    rows = [row for row in collect(run, study, leg.world, RUN).dice if row.framework is None]
    assert sorted((row.mode, row.site, round(row.dice, 5)) for row in rows) == sorted(
        (score.mode, score.site, value) for score in alone.scores for value in score.dice if value is not None
    )


def test_an_interrupted_shard_goes_on_from_its_work_folder(sitting: Sitting, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = expand(tiny(), ASKED).shards
    real = runner.federate
    calls: list[Path] = []

    def broken(run: Path, *rest: object) -> None:
        calls.append(run)
        if len(calls) == 2:
            raise Interrupted("interrupted")
        real(run, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "federate", broken)
    with pytest.raises(Interrupted):
        run_shards(shards, sitting, lambda _: None)
    assert ids(sitting.shards) == {shards[0].id}
    made = (calls[1] / "study.json").stat().st_mtime_ns
    seen: list[int] = []
    monkeypatch.setattr(runner, "merge_metrics", lambda run, _: seen.append((run / "study.json").stat().st_mtime_ns))
    assert run_shards(shards, sitting, lambda _: None) == 0
    assert calls[2] == calls[1]
    assert seen == [made]
    assert ids(sitting.shards) == {shard.id for shard in shards}


def test_a_limit_starts_nothing_more_and_says_how_many_are_left(sitting: Sitting) -> None:
    assert run_shards(expand(tiny(), ASKED).shards, replace(sitting, limit_minutes=0.0), lambda _: None) == 2
    assert not sitting.shards.exists()


def test_a_transfer_starts_from_the_encoder_of_the_other_source_and_keeps_its_folder_if_told(sitting: Sitting) -> None:
    asked = Asked("transfer", "smoke", describe("phantom"), describe("phantom"), frameworks=frozenset({"rotation"}))
    shard = next(shard for shard in expand(tiny(), asked).shards if shard.arm == "rotation")
    found = run_shard(shard, replace(sitting, keep=True), lambda _: None)
    first, last = found.studies
    assert first["finetune"]["modes"] == []
    assert last["encoder"] not in (None, "0" * 64)
    assert {score.mode for score in found.scores} == {"local"}
    assert {score.site for score in found.scores} == {"site-1"}
    assert found.probes
    assert (sitting.out / runner.WORK / shard.id / "0" / "study.json").is_file()


@pytest.mark.slow
def test_shards_side_by_side_give_what_they_give_one_by_one(sitting: Sitting, tmp_path: Path) -> None:
    shards = expand(tiny(), ASKED).shards
    beside = replace(sitting, out=tmp_path / "beside", jobs=2)
    for each in (sitting, beside):
        assert run_shards(shards, each, lambda _: None) == 0
    one, two = (finished_records(shards, each.shards) for each in (sitting, beside))
    for name in one:
        assert one[name].scores == two[name].scores
        assert one[name].probes == two[name].probes


def test_a_shard_file_that_does_not_hold_or_is_of_another_shard_is_named(tmp_path: Path) -> None:
    shard = expand(tiny(), ASKED).shards[0]
    assert records.load(shard, tmp_path) is None
    records.save(record("random", 20, (), id=shard.id, digest=shard.digest), tmp_path)
    assert records.load(shard, tmp_path) is not None
    records.save(record("random", 20, (), id=shard.id, digest="1" * 64), tmp_path)
    with pytest.raises(SettingsError, match="of other settings than its name says"):
        records.load(shard, tmp_path)
    (tmp_path / f"{shard.id}.json").write_text("{")
    with pytest.raises(SettingsError, match="delete it to run that shard again"):
        records.load(shard, tmp_path)


def test_time_is_estimated_from_the_same_arm_else_from_any_else_guessed() -> None:
    fcl = expand(tiny(), ASKED).shards[1]
    mine, other = (
        record(arm, 1, (), run=msgspec.structs.replace(RUN, seconds=seconds))
        for arm, seconds in (("fcl", 5.0), ("rotation", 9.0))
    )
    assert estimate_seconds(fcl, [mine, other], 1.0) == 5.0
    assert estimate_seconds(fcl, [other], 1.0) == 9.0
    assert estimate_seconds(fcl, [], 1.5) == 90.0
