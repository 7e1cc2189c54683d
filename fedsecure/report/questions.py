"""What a report says in words, for every run: trust, limits, and the questions of NIST SP 800-226 (March 2025), from
the bottom of its pyramid to the top, as each level is worth only what those below it are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Answer:
    level: str
    question: str
    answer: str


_MACHINE: Final = (
    "At a site's machine, whoever can read its memory or disk sees the volumes themselves: no setting here helps."
)


def trust(noised: bool, prototypes: bool) -> tuple[str, ...]:
    """What has to hold for the claim; noised: whether the study asks for noise; prototypes: whether sites share them,
    which the gate clips with noise or without."""
    if not noised:
        return (
            "Nothing was noised for privacy: whoever received a release has it as it was.",
            "The gate clips each row of a site's entries for prototypes before it sums them; that a row is one patient "
            "is the trainer's promise. Nothing else was clipped."
            if prototypes
            else "Nothing was clipped for privacy.",
            _MACHINE,
        )
    return (
        "Each site clips and adds its share of noise as its software says. Noise inside a training loop would be a "
        "promise of the trainer's; noise added by the gate is not.",
        "At most as many colluders as the plan says, of the sites that survive a round, tell each other or the "
        "coordinator their noise.",
        _MACHINE,
    )


WITHDRAWAL: Final = (
    "Nodes of this version do not look up who withdrew: a site that has to take a patient out stops taking part. What "
    "left before cannot be called back."
)
LIMITS: Final = (
    "A guarantee bounds what taking part adds. It does not hide what a whole hospital's data have in common.",
    "Two epsilons compare only at the same unit, delta and adjacency.",
    "Epsilon is an upper bound on the loss; an audit's value is a lower bound on it, and neither is the loss.",
    "Timing, sizes of messages and which rounds a site took part in are not covered.",
    "Models and updates are pseudonymous personal data with a measured residual risk, and not anonymous.",
)


def questions(noised: bool) -> tuple[Answer, ...]:
    """The questions, level by level, as this run answers them; noised: whether the study asks for noise."""
    return _COMMON_BELOW + (_NOISED if noised else _PLAIN) + _COMMON_ABOVE


_COMMON_BELOW: Final = (
    Answer("data", "Who can reach the raw data?", "Only processes of the site; no volume, label or header is sent."),
    Answer("data", "Is no more collected than needed?", "Volumes on disk are used as they are; names are dropped."),
    Answer(
        "threat model",
        "Who is trusted, and does it hold?",
        "See trust above. Without secure aggregation the coordinator reads each site's release, noise or no noise.",
    ),
)
_NOISED: Final = (
    Answer(
        "query model",
        "Is it asked once or interactively?",
        "A fixed schedule of rounds; what depends on the data is charged at its worst case. When the budget is used "
        "up, the site refuses and the round goes on without it.",
    ),
    Answer("security", "Who can change the ledger?", "The site's owner; a changed row breaks its chain of hashes."),
    Answer(
        "side channels",
        "Floating point? Timing?",
        "Noise is added to integers, so floating point is no channel. Timing is not covered.",
    ),
    Answer(
        "algorithms",
        "Is the library tested?",
        "The sampler by moments, tails and a hockey-stick test; accountants against the closed form and each other.",
    ),
    Answer("utility", "What does it cost?", "See the signal-to-noise line of `fedsecure budget plan`, and the Dice."),
    Answer("bias", "Who loses most?", "Clipping and noise weigh on small groups of patients; not measured here."),
)
_PLAIN: Final = (
    Answer(
        "query model",
        "Is it asked once or interactively?",
        "A fixed schedule of rounds, and no budget: nothing is charged, and nothing is refused for its cost.",
    ),
    Answer("security", "Who can change the ledger?", "There is none: what left is counted from its record."),
    Answer("side channels", "Floating point? Timing?", "No noise was added; neither is covered."),
    Answer("algorithms", "Is the library tested?", "No mechanism ran. The count of releases is the gate's own record."),
    Answer("utility", "What does it cost?", "Nothing: without a guarantee there is no price."),
    Answer("bias", "Who loses most?", "Not measured here."),
)
_COMMON_ABOVE: Final = (
    Answer("parameters", "What is the unit?", "The patient, with all volumes, frames, slices and views."),
    Answer("parameters", "Which neighbours?", "Unbounded in effect: one patient's contribution is zeroed out."),
    Answer(
        "parameters", "Is it mixed with releases without noise?", "If so epsilon is infinite, and the claim names them."
    ),
)
