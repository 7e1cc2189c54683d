"""From a finished run to a model: the right weights, and a card that claims what the run can show."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest

from fedsecure.clinic.origin import UNKNOWN_DATA, from_run
from fedsecure.clinic.released import WEIGHTS, open_model, save
from fedsecure.config import parse_study
from fedsecure.errors import SettingsError
from fedsecure.packing import unpack_model
from fedsecure.progress import Progress
from fedsecure.report.results import load
from sim.simulate import open_run, plan, simulate
from sim.world import World

TINY = {
    "model": {"filters": 4, "hidden": 16, "features": 8},
    "data": {"size": 32},
    "pretrain": {"rounds": 2, "local_steps": 2, "batch": 8, "bank": 32, "negatives": 16},
    "finetune": {"labelled": [1, 2], "modes": ["federated"], "steps": 2, "rounds": 1, "batch": 2},
    "security": {"secagg": False},
}


class _Quiet:
    def on(self, node: str, event: Progress) -> None:
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    world = World(source=None, sites=2, scheme="random", phantom_patients=3, phantom_size=48)
    asked = open_run(folder / "run", plan(parse_study(TINY), ("fcl",), world), resume=False)
    simulate(
        folder / "run",
        asked,
        folder / "cache",
        "memory",
        lambda _: nullcontext(_Quiet()),
        lambda _: None,
        ["fedsecure"],
    )
    return folder / "run"


def test_the_segmenter_of_the_largest_n_from_the_pretrained_start(run: Path, tmp_path: Path) -> None:
    model = from_run(run, None, None, encoder=False)
    save(model, tmp_path / "m")
    assert (tmp_path / "m" / WEIGHTS).read_bytes() == (run / "segmenter.safetensors").read_bytes()
    card = open_model(tmp_path / "m").manifest.card
    assert (card.modality, card.labelled, card.framework) == ("MR", 2, "fcl")
    assert card.data.startswith("phantom")
    assert card.privacy.startswith("No guarantee (epsilon is infinite)")
    assert [(site.site, site.patients) for site in card.sites] == [("site-1", 2), ("site-2", 2)]


def test_its_scores_are_those_of_that_stage(run: Path) -> None:
    card = from_run(run, "named", None, encoder=False).manifest.card
    assert card.name == "named"
    results = load(run / "results.json")
    for score in card.scores:
        rows = [r for r in results.dice if (r.labelled, r.framework, r.structure) == (2, "fcl", score.structure)]
        sites = {row.site for row in rows}
        means = [np.mean([row.dice for row in rows if row.site == site]) for site in sites]
        assert score.dice == pytest.approx(np.mean(means))
        assert (score.patients, score.sites) == (len(rows), len(sites))
    subjects = {row.subject for row in results.dice}
    assert not [subject for subject in subjects if subject in card.model_dump_json()]


def test_the_encoder_alone(run: Path) -> None:
    model = from_run(run, None, None, encoder=True)
    kept = unpack_model((run / "encoder.safetensors").read_bytes())
    assert model.manifest.kind == "encoder"
    assert {f"encoder.{name}" for name in kept} == set(model.tensors)
    assert model.manifest.card.scores == ()


def test_a_coordinators_own_folder_says_less(run: Path) -> None:
    with pytest.raises(SettingsError, match="--modality"):
        from_run(run / "coordinator", None, None, encoder=False)
    card = from_run(run / "coordinator", None, "MR", encoder=False).manifest.card
    assert card.data == UNKNOWN_DATA
    assert card.scores == ()
    assert "epsilon is infinite" in card.privacy


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no run"):
        from_run(tmp_path, None, None, encoder=False)
    copytree(run / "coordinator", tmp_path / "both/fcl/coordinator")
    with pytest.raises(SettingsError, match=r"one of them \(fcl\)"):
        from_run(tmp_path / "both", None, None, encoder=False)
    rmtree(tmp_path / "both/fcl/coordinator/models")
    with pytest.raises(SettingsError, match="not finished"):
        from_run(tmp_path / "both/fcl", None, "MR", encoder=False)
