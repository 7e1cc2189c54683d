"""From a finished run to a released model: which weights, and what its card can say of them.

A run is the folder of one framework's simulation (results.json, coordinator/, sites/), or a coordinator's own folder of
a pilot (study.json, models/), which has neither results nor the sites' ledgers.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Final

from fedsecure.clinic.card import Card, Modality, Score, Trained
from fedsecure.clinic.released import ReleasedModel, released
from fedsecure.config import Study, load
from fedsecure.errors import SettingsError
from fedsecure.learning.parts import DECODER, ENCODER
from fedsecure.packing import Malformed, unpack_model
from fedsecure.plan import Init, Stage, StageKind, pretrains_alone, schedule
from fedsecure.report import budget
from fedsecure.report.provenance import commit
from fedsecure.report.results import Results
from fedsecure.report.results import load as load_results
from fedsecure.types import Tensors

_KINDS: Final = {
    "phantom": "phantom volumes (synthetic, cardiac-like)",
    "acdc": "the ACDC challenge's short-axis cardiac MR",
    "hvsmr": "the HVSMR challenge's cardiac MR",
    "msd": "volumes in the Medical Segmentation Decathlon's layout",
    "folder": "NIfTI volumes of the sites",
    "dicom": "DICOM series of the sites",
}
_MODALITIES: Final[dict[str, Modality]] = {"phantom": "MR", "acdc": "MR", "hvsmr": "MR"}
UNKNOWN_DATA: Final = "volumes of the sites, which this folder does not describe"
NO_AUDIT: Final = "none on record for this run"


def from_run(run: Path, name: str | None, modality: Modality | None, encoder: bool) -> ReleasedModel:
    """The federated segmenter with the largest N, from the pre-trained start where there is one; the pre-trained
    encoder where there is none or `encoder` asks for it.

    Raises SettingsError: no run, not finished, nothing to export, or a modality that nobody told.
    """
    coordinator = run / "coordinator" if (run / "coordinator").is_dir() else run
    study = _study(run, coordinator)
    results = load_results(run / "results.json") if (run / "results.json").is_file() else None
    found = None if encoder else _segmenter(coordinator, study)
    if found is None:
        tensors, stage = _encoder(coordinator, study), None
    else:
        tensors, stage = found
    card = _card(run, study, results, stage, name, modality)
    settings = (study.data, study.model, study.finetune, study.seed)
    return released("encoder" if stage is None else "segmenter", tensors, *settings, card)


def _study(run: Path, coordinator: Path) -> Study:
    if (coordinator / "study.json").is_file():
        return load(Study, (coordinator / "study.json").read_bytes())
    several = sorted(path.parent.parent.name for path in run.glob("*/coordinator/study.json"))
    if several:
        raise SettingsError(f"this run has several frameworks: name the folder of one of them ({', '.join(several)})")
    raise SettingsError("this folder is no run: name a run folder of `fedsecure simulate`, or a coordinator's own")


def _segmenter(coordinator: Path, study: Study) -> tuple[Tensors, Stage] | None:
    stages = [(n, stage) for n, stage in enumerate(schedule(study)) if stage.kind is StageKind.FEDERATED]
    if not stages:
        return None
    number, stage = max(stages, key=lambda item: (item[1].init is Init.PRETRAINED, item[1].labelled))
    return _read(coordinator / f"models/{number}-{stage.rounds}.safetensors"), stage


def _encoder(coordinator: Path, study: Study) -> Tensors:
    if study.start != "pretrain" or pretrains_alone(study):
        raise SettingsError(
            "this run has no shared model to export: each site kept its own, or nothing was pre-trained together"
        )
    found = _read(coordinator / "models/encoder.safetensors")
    # A study that keeps its pre-trained decoder has it in the same file.
    return {name if name.startswith(DECODER) else ENCODER + name: value for name, value in found.items()}


def _read(path: Path) -> Tensors:
    try:
        return unpack_model(path.read_bytes())
    except FileNotFoundError:
        raise SettingsError("the run is not finished: its model is not there yet (--resume goes on)") from None
    except OSError as error:
        raise SettingsError(f"the run's model cannot be read: {error.strerror}") from None
    except Malformed as error:
        raise SettingsError(f"the run's model does not hold: {error}") from None


def _card(run: Path, study: Study, results: Results | None, stage: Stage | None, name: str | None,
          modality: Modality | None) -> Card:  # fmt: skip
    kind = "" if results is None else results.world.kind
    known = modality or _MODALITIES.get(kind)
    if known is None:
        raise SettingsError("the run does not say what kind of images it was trained on: say --modality MR or CT")
    scores, measured_on = ((), "") if stage is None or results is None else _scores(study, results, stage)
    return Card(
        name=name or f"{study.name}, {study.framework}",
        modality=known,
        data=_data(results),
        study=study.name,
        study_digest=study.digest().hex(),
        framework=study.framework,
        seed=study.seed,
        training=_training(study, stage),
        labelled=0 if stage is None else stage.labelled,
        sites=tuple(Trained(site=member.name, patients=member.weight) for member in study.sites),
        privacy=_privacy(run, study),
        audits=NO_AUDIT,
        scores=scores,
        measured_on=measured_on,
        parent=None,
        version=version("fedsecure"),
        commit=commit(),
        created=datetime.now(UTC).date().isoformat(),
    )


def _data(results: Results | None) -> str:
    if results is None:
        return UNKNOWN_DATA
    dealt = ", at sites that one machine played" if results.simulation_only else ""
    return _KINDS[results.world.kind] + dealt


def _training(study: Study, stage: Stage | None) -> str:
    pretraining = f"{study.pretrain.rounds} rounds of federated pre-training without labels"
    if stage is None:
        return pretraining
    tuning = f"{stage.rounds} rounds of federated fine-tuning with {stage.labelled} labelled patients a site at most"
    if stage.init is Init.RANDOM:
        return f"{tuning}, from a random start"
    return f"{pretraining if study.start == 'pretrain' else 'an encoder that was pre-trained elsewhere'}, then {tuning}"


def _privacy(run: Path, study: Study) -> str:
    """The budget report's own sentence where the sites' folders are here; else what the study alone tells."""
    if any(run.glob("sites/*/study.json")):
        return budget.read(run).claim
    if study.privacy.enabled:
        return (
            f"The study caps epsilon at {study.privacy.epsilon:g}. What was spent stands in the ledgers of the sites, "
            "not in this folder: ask them for their budget reports before repeating any number."
        )
    return "No guarantee: the study asked for no noise, so epsilon is infinite."


def _scores(study: Study, results: Results, stage: Stage) -> tuple[tuple[Score, ...], str]:
    """Per structure the mean over sites of the mean over their held-out patients."""
    pretrained = stage.init is Init.PRETRAINED
    rows = [
        row
        for row in results.dice
        if row.mode == "federated" and row.labelled == stage.labelled and row.seed == study.seed
        and row.framework == (study.framework if pretrained else None)
    ]  # fmt: skip
    scores = []
    for structure in study.data.structures:
        sites: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            if row.structure == structure:
                sites[row.site].append(row.dice)
        if sites:
            values = list(sites.values())
            scores.append(
                Score(structure=structure, dice=fmean(map(fmean, values)), patients=sum(map(len, values)),
                      sites=len(sites))
            )  # fmt: skip
    side = "held-out" if study.data.judged == "held-out" else "validation"
    return tuple(scores), (
        f"the mean over sites, on {side} patients of the sites that trained it, as a 3D overlap on the grid that the "
        "network sees: anatomy outside the crop does not count, and numbers on native grids differ"
    )
