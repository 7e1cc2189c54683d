from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from fedsecure.config import parse_study
from fedsecure.errors import SettingsError
from fedsecure.learning.model import build_encoder, load_tensors
from fedsecure.packing import unpack_model
from fedsecure.progress import Progress
from fedsecure.report import results
from sim import simulate as module
from sim.simulate import CLOCK, Clock, open_run, plan, simulate, timed
from sim.world import World

from .conftest import TINY, WORLD


def clock(run: Path) -> Clock:
    return msgspec.json.decode((run / CLOCK).read_bytes(), type=Clock)


def test_a_resumed_run_keeps_its_first_command_and_start_and_adds_up_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter([10.0, 13.0, 100.0, 104.0])
    monkeypatch.setattr(module, "monotonic", lambda: next(ticks))
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), timed(run, ["fedsecure", "simulate", "DOE.toml", "--seed", "3"]):
        raise KeyboardInterrupt
    first = clock(run)
    assert (first.command, first.seconds) == ("fedsecure simulate <...> --seed 3", 3.0)
    with timed(run, ["fedsecure", "simulate", "--resume"]):
        assert clock(run) == first
    assert clock(run) == msgspec.structs.replace(first, seconds=7.0)


def test_a_report_that_cannot_be_drawn_stops_the_run_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run, said = tmp_path / "run", list[str]()
    asked = open_run(run, plan(parse_study({}), ("fcl",), World()), resume=False)

    def display(_: object) -> object:
        raise AssertionError("training began")

    with pytest.raises(SettingsError, match="matplotlib"):
        simulate(run, asked, tmp_path / "cache", "memory", display, said.append, ["fedsecure"])  # type: ignore[arg-type]
    assert said == []


def test_a_world_with_too_few_sites_for_sums_is_refused_before_there_is_a_folder() -> None:
    for sites in range(1, 5):
        with pytest.raises(SettingsError, match="or write secagg = false"):
            plan(parse_study({}), ("fcl",), World(sites=sites))
    plan(parse_study({"security": {"secagg": False}}), ("fcl",), World(sites=2))


class _Quiet:
    def on(self, node: str, event: Progress) -> None:
        pass


def test_a_study_without_fine_tuning_ends_with_its_encoder_its_probe_and_a_report(
    tmp_path: Path, shared_cache: Path
) -> None:
    run, study = tmp_path / "run", parse_study({**TINY, "finetune": {"modes": []}})
    asked = open_run(run, plan(study, ("fcl",), WORLD), resume=False)
    simulate(run, asked, shared_cache, "memory", lambda _: nullcontext(_Quiet()), lambda _: None, ["fedsecure"])
    load_tensors(build_encoder(study.model), unpack_model((run / "encoder.safetensors").read_bytes()))
    assert not (run / "segmenter.safetensors").exists()
    assert {row.probe for row in results.load(run / "results.json").representation} == {"site", "pooled"}
    assert (run / "report.html").stat().st_size > 10_000
