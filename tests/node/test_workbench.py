"""What a job is given of the rounds before it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedsecure.config import Run, Site, Study, parse_study
from fedsecure.errors import SettingsError
from fedsecure.learning import dispatch
from fedsecure.learning.job import Job, JobResult
from fedsecure.learning.parts import encoder_of
from fedsecure.learning.pretrain import initial
from fedsecure.learning.prototypes import FEDERATION
from fedsecure.node.wiring import lay_out
from fedsecure.node.workbench import ENCODER, MODEL, SUM, Workbench, unpack_shared
from fedsecure.packing import Malformed, pack_model, unpack_model
from fedsecure.plan import Init, StageKind, schedule
from fedsecure.progress import ignore
from fedsecure.types import Cohort, State

ALONE = {"sites": [{"name": "a", "weight": 1}], "security": {"secagg": False}}
KEPT = {"encoder.x": np.ones(2, np.float32)}


@pytest.mark.parametrize("framework", ["fcl", "local"])
def test_only_a_site_that_pre_trained_alone_gets_its_encoder_back(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first round of every stage that starts from it, also after a stage in between; and nowhere else."""
    study = parse_study({**ALONE, "framework": framework, "finetune": {"rounds": 2}})
    lay_out(tmp_path, study, Run(), Site(name="a", source="folder:/nowhere"))
    (tmp_path / "incoming").mkdir(exist_ok=True)
    (tmp_path / MODEL).write_bytes(pack_model(KEPT))
    given: list[State] = []

    def run(job: Job, *_: object) -> JobResult:
        given.append(job.state)
        ends_pre_training = job.stage_index == 0 and job.round == job.stage.rounds
        return JobResult((), KEPT if ends_pre_training else {})

    monkeypatch.setattr(dispatch, "run", run)
    bench = Workbench(tmp_path)
    monkeypatch.setattr(bench, "_site_cohort", lambda _: Cohort((), ()))
    for number, stage in enumerate(schedule(study)):
        for round_ in range(stage.rounds + 1):
            for _ in range(2):  # again, as after a kill
                bench.train(number, round_, (), ignore)
            own = framework == "local" and stage.init is Init.PRETRAINED and round_ == 0
            assert [list(state) for state in given[-2:]] == [["encoder.x"] if own else []] * 2
    assert any(stage.kind is StageKind.FEDERATED for stage in schedule(study))


def exchanging(form: str) -> Study:
    return parse_study(
        {
            "sites": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}],
            "model": {"features": 8},
            "pretrain": {"exchange": form, "partitions": 2, "prototypes_per_partition": 1},
            "security": {"secagg": False},
        }
    )


SUMMED = np.array([[2] + [0] * 7, [0] * 8], np.float32)


@pytest.mark.parametrize(("form", "name"), [("prototypes", "b"), ("secagg-prototypes", FEDERATION)])
def test_a_job_is_given_sums_as_prototypes(
    form: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, exchanging(form), Run(), Site(name="a", source="folder:/nowhere"))
    (tmp_path / "incoming").mkdir(exist_ok=True)
    (tmp_path / MODEL).write_bytes(pack_model(KEPT))
    (tmp_path / (SUM if name == FEDERATION else "incoming/b.bank")).write_bytes(SUMMED.tobytes())
    given: list[Job] = []
    monkeypatch.setattr(dispatch, "run", lambda job, *_: given.append(job) or JobResult((), {}))
    bench = Workbench(tmp_path)
    monkeypatch.setattr(bench, "_site_cohort", lambda _: Cohort((), ()))
    bench.train(0, 1, (name,), ignore)
    ((of, bank),) = given[0].banks.items()
    assert of == name
    assert bank.features.tolist() == [[1] + [0] * 7]  # a direction; the second cell nobody has
    assert bank.partitions.tolist() == [0]


@pytest.mark.parametrize("form", ["vectors", "prototypes", "secagg-prototypes"])
@pytest.mark.parametrize("raw", [b"", SUMMED.tobytes()[:-4], SUMMED.tobytes() + bytes(4), b"\xff" * 64])
def test_what_does_not_fit_the_study_is_malformed_in_every_form(form: str, raw: bytes) -> None:
    with pytest.raises(Malformed):
        unpack_shared(exchanging(form), "b", raw)


def test_a_start_from_elsewhere_is_used_only_if_it_is_the_one_that_the_study_names(tmp_path: Path) -> None:
    tiny = {"model": {"filters": 4, "hidden": 16, "features": 8}, "data": {"size": 32}}
    raw = pack_model(encoder_of(initial(parse_study(tiny))))
    named = {**tiny, "start": "encoder", "encoder": hashlib.sha256(raw).hexdigest(), "baseline": False}
    lay_out(tmp_path, parse_study({**named, **ALONE}), Run())
    path = tmp_path / ENCODER
    path.parent.mkdir()
    for wrong in (None, b"", raw[:-1], raw + b"x"):
        if wrong is not None:
            path.write_bytes(wrong)
        with pytest.raises(SettingsError, match="missing or not the one that the study names"):
            Workbench(tmp_path).prepare(0)
    path.write_bytes(raw)
    Workbench(tmp_path).prepare(0)
    made = unpack_model((tmp_path / "models/prepared.safetensors").read_bytes())
    assert all(np.array_equal(made[f"encoder.{name}"], value) for name, value in unpack_model(raw).items())
