"""The model card: what a released model is, where it came from, what it claims and what it does not.

Facts are written from the run; nothing here names a patient, a file or a machine. After Mitchell et al., "Model Cards
for Model Reporting" (FAT* 2019).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Modality = Literal["MR", "CT"]

OUTSIDE_THE_GATE = (
    "Whoever exported this model took it past the egress gate: nothing was checked, noised or charged on its way out. "
    "Weights hold what training took from patients, and members of the training set can be attacked through them. "
    "Handing it on is a disclosure that the hospitals of the study must have agreed to."
)
INTENDED_USE = (
    "Research on segmentation. It is no medical device: nobody has assessed it for diagnosis or treatment, and a "
    "qualified reader must look at every contour before anything is done with it."
)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Score(Frozen):
    """Mean Dice of one structure over patients; `patients` counted it, at `sites` sites."""

    structure: str
    dice: Annotated[float, Field(ge=0, le=1)]
    patients: Annotated[int, Field(ge=1)]
    sites: Annotated[int, Field(ge=1)]


class Trained(Frozen):
    """A site of the federation and the patients that it declared to train on."""

    site: str
    patients: Annotated[int, Field(ge=1)]


class Card(Frozen):
    """labelled: labelled patients of each site that the segmenter was fine-tuned with; 0 for an encoder."""

    name: str
    modality: Modality
    data: str  # kind of data, in words
    study: str
    study_digest: str
    framework: str
    seed: int
    training: str
    labelled: Annotated[int, Field(ge=0)]
    sites: tuple[Trained, ...]
    privacy: str
    audits: str
    scores: tuple[Score, ...]
    measured_on: str  # empty where nothing was measured
    parent: str | None  # id of the model that this one was fine-tuned from
    version: str
    commit: str | None
    created: str  # date, ISO 8601


def limits(card: Card, structures: tuple[str, ...], crop: str) -> tuple[str, ...]:
    """What a reader must know before using it."""
    lines = [
        f"Trained on {card.data}, modality {card.modality}; on other scanners, sequences, ages and diseases its "
        "quality is unknown.",
        f"Only these structures are drawn: {', '.join(structures)}. Disease that changes them was not studied apart.",
        crop,
        "Its probabilities are not calibrated; `fedsecure evaluate` shows by how much on labelled volumes of your own.",
    ]
    if "phantom" in card.data:
        lines.insert(0, "It was trained on phantom volumes, which are no patients: of no use on anybody.")
    return tuple(lines)


def to_markdown(card: Card, model_id: str, kind: str, structures: tuple[str, ...], crop: str) -> str:
    """The card as a page of Markdown."""
    sites = ", ".join(f"{row.site} ({row.patients})" for row in card.sites) or "this hospital alone"
    lines = [
        f"# {card.name}",
        "",
        f"**{OUTSIDE_THE_GATE}**",
        "",
        f"- model: {model_id}, {kind}" + (f", fine-tuned from {card.parent}" if card.parent else ""),
        f"- structures: {', '.join(f'{i} {name}' for i, name in enumerate(structures, start=1))}",
        f"- made with fedsecure {card.version}, commit {card.commit or 'unknown'}, on {card.created}",
        "",
        "## Data and federation",
        "",
        f"- data: {card.data}, modality {card.modality}",
        f"- study: {card.study}, digest {card.study_digest}, seed {card.seed}, framework {card.framework}",
        f"- sites, with the patients they declared to train on: {sites}",
        f"- training: {card.training}",
        "",
        "## Privacy",
        "",
        card.privacy,
        "",
        f"Audits: {card.audits}",
        "",
        "## Intended use",
        "",
        INTENDED_USE,
        "",
        "## Limits",
        "",
        *(f"- {line}" for line in limits(card, structures, crop)),
        "",
        "## As measured",
        "",
    ]
    return "\n".join([*lines, *_scores(card)]) + "\n"


def _scores(card: Card) -> list[str]:
    if not card.scores:
        return ["Nothing was measured of this model."]
    return [
        f"Mean Dice, {card.measured_on}.",
        "",
        "| structure | Dice | patients | sites |",
        "|---|---|---|---|",
        *(f"| {row.structure} | {row.dice:.3f} | {row.patients} | {row.sites} |" for row in card.scores),
    ]
