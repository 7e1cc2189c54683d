"""The N labelled patients of a site, and batches of their slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsecure.types import FloatArray, LabelArray, Subject

# At most this share of the slices drawn shows no structure: in a long scan (a whole abdomen) nearly all slices are
# such, and a network that sees little else learns to answer "nothing".
EMPTY_SHARE = 0.25


def choose(subjects: Sequence[Subject], labelled: int, seed: int) -> tuple[Subject, ...]:
    """`labelled` of the subjects that have a label, drawn with `seed`; all of them where there are fewer.

    The choices of one seed are nested: the patient of N=1 is among those of N=4, so that the columns of a table
    differ by the patients added and by nothing else. The draw goes by position, not by id: ids are keyed by a secret
    of the site, which must not decide results.
    """
    candidates = [subject for subject in subjects if subject.labelled]
    order = np.random.default_rng(seed).permutation(len(candidates))
    return tuple(candidates[position] for position in order[:labelled])


@dataclass(frozen=True, slots=True)
class Slices:
    """All slices of the labelled volumes of some subjects. Pixels stay in their memory-mapped files until drawn."""

    images: tuple[FloatArray, ...]  # each [Z, H, W]
    labels: tuple[LabelArray, ...]  # each [Z, H, W]
    places: tuple[tuple[int, int], ...]  # of each slice: (position in images and labels, z)
    shares: Tensor  # [slices] probability with which each is drawn

    def __repr__(self) -> str:
        return f"Slices({len(self.places)})"

    @classmethod
    def of(cls, subjects: Sequence[Subject]) -> Slices:
        """Raises ValueError where no subject has a label."""
        volumes = [volume for subject in subjects for volume in subject.volumes]
        pairs = [(volume.image, volume.label) for volume in volumes if volume.label is not None]
        if not pairs:
            raise ValueError("no labelled volume to draw slices from")
        images, labels = zip(*pairs, strict=True)
        places = tuple((position, z) for position, image in enumerate(images) for z in range(len(image)))
        shown = torch.tensor([bool(plane.any()) for label in labels for plane in label])
        return cls(images, labels, places, _shares(shown))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [batch, 1, H, W] float32 and labels [batch, H, W] uint8, drawn with replacement, on the CPU."""
        drawn = torch.multinomial(self.shares, batch, replacement=True, generator=generator).tolist()
        places = [self.places[number] for number in drawn]
        image = np.stack([self.images[position][z] for position, z in places])
        label = np.stack([self.labels[position][z] for position, z in places])
        return torch.from_numpy(image).unsqueeze(1), torch.from_numpy(label)


def _shares(shown: Tensor) -> Tensor:
    """Probability of each slice, from whether it shows a structure [slices]: uniform, but for `EMPTY_SHARE`."""
    empty = int((~shown).sum())
    shares = torch.full(shown.shape, 1 / len(shown), dtype=torch.float64)
    if EMPTY_SHARE * len(shown) < empty < len(shown):
        shares[~shown] = EMPTY_SHARE / empty
        shares[shown] = (1 - EMPTY_SHARE) / (len(shown) - empty)
    return shares
