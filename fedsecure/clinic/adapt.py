"""`finetune`: a released model, trained on with labelled volumes of one's own, on this machine alone.

The work folder beside the result holds prepared volumes and a checkpoint; it is removed at the end. A run that was
stopped and resumed ends with the same bytes as one that was not: weights, moments and generator are all in the
checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch

from fedsecure.clinic.card import Card, Score
from fedsecure.clinic.released import ReleasedModel, released, save
from fedsecure.config import DataSettings, FinetuneSettings
from fedsecure.data.cohort import divide, load_salt, prepare
from fedsecure.data.layout import Source
from fedsecure.errors import DataError, SettingsError
from fedsecure.files import write_atomic
from fedsecure.learning.evaluate import dice, mean_of_counted, predict
from fedsecure.learning.finetune import Supervision, learning_rate
from fedsecure.learning.labelled import choose
from fedsecure.learning.model import Segmenter, load_tensors, tensors_of
from fedsecure.packing import Malformed, pack_arrays, unpack_arrays
from fedsecure.report.provenance import commit
from fedsecure.seeds import derive_seed
from fedsecure.types import Cohort, State, Subject

EVERY: Final = 25  # steps from one checkpoint to the next
_CHECKPOINT: Final = "checkpoint.safetensors"
_ASKED: Final = "asked.json"


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that decides the result, kept in the work folder. `labelled` None: all patients with a label."""

    model: str
    source: str
    structures: tuple[str, ...]
    labelled: int | None
    steps: int
    held_out: float
    seed: int
    on_error: Literal["stop", "exclude"]


Told = Callable[[int, int, float], None]  # steps done, of all, loss


@dataclass(frozen=True, slots=True)
class Fitted:
    """The new model, how many patients it was trained on and measured on, and what was left out."""

    model: ReleasedModel
    trained: int
    measured: int
    excluded: tuple[DataError, ...]


def finetune(base: ReleasedModel, source: Source, asked: Asked, out: Path, name: str | None, resume: bool,
             device: str, told: Told) -> Fitted:  # fmt: skip
    """Train, measure on held-out patients, and write the result to `out` as a released model.

    Raises SettingsError: something in the way of `out`, a work folder of another call, no label to learn from, or
    weights that ran away; DataError for a file that cannot be used.
    """
    work = _open_work(asked, out, resume)
    manifest = base.manifest
    data = manifest.data.model_copy(
        update={"structures": asked.structures, "fold": None, "judged": "held-out", "on_error": asked.on_error}
    )
    if asked.held_out:
        data = data.model_copy(update={"held_out": asked.held_out})
    settings = manifest.finetune.model_copy(update={"steps": asked.steps})
    prepared = prepare(source, data, work / "cache", load_salt(work / "salt"))
    cohort = _divided(prepared.subjects, data, asked)
    chosen = choose(cohort.train, asked.labelled or len(cohort.train), derive_seed(asked.seed, "labelled", "here"))
    if not chosen:
        raise SettingsError("no patient to train on has a label: see `fedsecure data inspect`")
    segmenter = start(base, asked).to(device)
    _train(segmenter, chosen, settings, asked, work, told)
    scores = _scores(segmenter, cohort.held_out, asked.structures)
    card = _card(base, asked, name, len(chosen), scores)
    made = released("segmenter", tensors_of(segmenter), data, manifest.model, settings, asked.seed, card)
    save(made, out)
    shutil.rmtree(work)
    measured = sum(subject.labelled for subject in cohort.held_out)
    return Fitted(made, len(chosen), measured, prepared.excluded)


def start(base: ReleasedModel, asked: Asked) -> Segmenter:
    """The base's network; with a fresh decoder, by the seed, where it has none or draws other structures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(asked.seed, "segmenter"))
        segmenter = Segmenter(base.manifest.model, len(asked.structures))
    whole = base.manifest.kind == "encoder" or base.manifest.structures == asked.structures
    kept = {name: value for name, value in base.tensors.items() if whole or name.startswith("encoder.")}
    load_tensors(segmenter, {**tensors_of(segmenter), **kept})
    return segmenter


def _open_work(asked: Asked, out: Path, resume: bool) -> Path:
    work = out.with_name(out.name + ".work")
    if out.exists() and any(out.iterdir()):
        raise SettingsError("the folder for the result is not empty: name another one with --out")
    if not work.exists():
        if resume:
            raise SettingsError("nothing to resume: there is no work folder beside --out")
        work.mkdir(parents=True)
        write_atomic(work / _ASKED, msgspec.json.encode(asked))
        return work
    if not resume:
        raise SettingsError("a run with this --out was begun and not finished: --resume goes on with it")
    try:
        held = msgspec.json.decode((work / _ASKED).read_bytes(), type=Asked)
    except (OSError, msgspec.DecodeError):
        raise SettingsError("the work folder beside --out is damaged: remove it and begin anew") from None
    if held != asked:
        raise SettingsError("the run to resume was begun with other settings: give the same ones, or another --out")
    return work


def _divided(subjects: Sequence[Subject], data: DataSettings, asked: Asked) -> Cohort:
    if asked.held_out == 0:
        return Cohort(tuple(subjects), ())
    return divide(subjects, data, asked.seed)


def _train(segmenter: Segmenter, subjects: Sequence[Subject], settings: FinetuneSettings, asked: Asked, work: Path,
           told: Told) -> None:  # fmt: skip
    """As in a study's supervised fine-tuning (learning.finetune); unlabelled patients have no part in it."""
    optimiser = torch.optim.AdamW(segmenter.parameters(), weight_decay=settings.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(derive_seed(asked.seed, "finetune", "here"))
    done = _resume(segmenter, optimiser, generator, work / _CHECKPOINT)
    supervision = Supervision(segmenter, subjects, settings.batch, generator)
    segmenter.train()
    for step in range(done, settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(settings, step)
        optimiser.zero_grad()
        loss = supervision.loss()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        if (step + 1) % EVERY == 0 or step + 1 == settings.steps:
            write_atomic(work / _CHECKPOINT, pack_arrays(_state(segmenter, optimiser, generator, step + 1)))
        told(step + 1, settings.steps, float(loss.detach()))


def _state(segmenter: Segmenter, optimiser: torch.optim.Optimizer, generator: torch.Generator, done: int) -> State:
    arrays: dict[str, Any] = {f"model/{name}": value for name, value in tensors_of(segmenter).items()}
    for number, moments in optimiser.state_dict()["state"].items():
        for key, value in moments.items():
            arrays[f"optimiser/{number}/{key}"] = value.detach().cpu().numpy().reshape(value.shape or (1,))
    arrays["generator"] = generator.get_state().numpy()
    arrays["done"] = np.array([done], np.float32)
    return arrays


def _resume(segmenter: Segmenter, optimiser: torch.optim.Optimizer, generator: torch.Generator, path: Path) -> int:
    """Steps done before. Raises SettingsError for a checkpoint that does not hold."""
    if not path.exists():
        return 0
    try:
        arrays = unpack_arrays(path.read_bytes())
        load_tensors(segmenter, {n.removeprefix("model/"): v for n, v in arrays.items() if n.startswith("model/")})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in arrays.items():
            if name.startswith("optimiser/"):
                _, number, key = name.split("/")
                tensor = torch.from_numpy(np.array(array))
                moments.setdefault(int(number), {})[key] = tensor.reshape(()) if key == "step" else tensor
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        generator.set_state(torch.from_numpy(np.array(arrays["generator"])))
        return int(arrays["done"][0])
    except (Malformed, KeyError, RuntimeError, ValueError):
        raise SettingsError("the checkpoint is damaged: remove the work folder beside --out and begin anew") from None


def _scores(segmenter: Segmenter, held_out: Sequence[Subject], structures: tuple[str, ...]) -> tuple[Score, ...]:
    """Mean Dice over held-out patients, each the mean of its volumes; nothing of a structure that none has."""
    rows = []
    for subject in held_out:
        pairs = [(volume, volume.label) for volume in subject.volumes if volume.label is not None]
        if pairs:
            each = [dice(predict(segmenter, volume), label, len(structures)) for volume, label in pairs]
            rows.append(mean_of_counted(np.stack(each)))
    scores = []
    for number, structure in enumerate(structures):
        counted = [float(row[number]) for row in rows if np.isfinite(row[number])]
        if counted:
            scores.append(Score(structure=structure, dice=fmean(counted), patients=len(counted), sites=1))
    return tuple(scores)


def _card(base: ReleasedModel, asked: Asked, name: str | None, trained: int, scores: tuple[Score, ...]) -> Card:
    before = base.manifest.card
    patients = "1 labelled patient" if trained == 1 else f"{trained} labelled patients"
    return before.model_copy(
        update={
            "name": name or f"{before.name}, fine-tuned",
            "training": f"{before.training}; then {asked.steps} steps of local fine-tuning with {patients} of one "
            f"hospital (seed {asked.seed})",
            "labelled": trained,
            "privacy": f"Of the hospital that fine-tuned it last: no guarantee, no noise was added, epsilon is "
            f"infinite. Of the model before: {before.privacy}",
            "scores": scores,
            "measured_on": "on held-out patients of the hospital that fine-tuned it, as a 3D overlap on the grid that "
            "the network sees: anatomy outside the crop does not count",
            "parent": base.id,
            "version": version("fedsecure"),
            "commit": commit(),
            "created": datetime.now(UTC).date().isoformat(),
        }
    )
