"""One released model and a folder of phantom patients, made once: a tiny network, trained for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsecure.clinic.card import Card, Trained
from fedsecure.clinic.released import ReleasedModel, released
from fedsecure.config import DataSettings, FinetuneSettings, ModelSettings
from fedsecure.data.phantom import STRUCTURES, write_phantom
from fedsecure.learning.model import Segmenter, tensors_of


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def card(**changes: object) -> Card:
    facts: dict[str, object] = {
        "name": "toy", "modality": "MR", "data": "phantom volumes", "study": "toy", "study_digest": "0" * 64,
        "framework": "fcl", "seed": 0, "training": "none", "labelled": 1,
        "sites": (Trained(site="north", patients=4),), "privacy": "No guarantee.", "audits": "none", "scores": (),
        "measured_on": "", "parent": None, "version": "0", "commit": None, "created": "2026-01-01",
    }  # fmt: skip
    return Card(**{**facts, **changes})  # type: ignore[arg-type]


def toy(**data: object) -> ReleasedModel:
    """An untrained segmenter: its weights are those of a seed."""
    settings = DataSettings(**{"size": 32, "structures": STRUCTURES, **data})
    model = ModelSettings(filters=4, hidden=16, features=8)
    torch.manual_seed(0)
    tensors = tensors_of(Segmenter(model, len(settings.structures)))
    tuning = FinetuneSettings(steps=4, batch=2)
    return released("segmenter", tensors, settings, model, tuning, 0, card())


@pytest.fixture(scope="session")
def model() -> ReleasedModel:
    return toy()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom(folder, 3, seed=1, size=48)
    return folder
