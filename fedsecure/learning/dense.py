"""Local contrast: the decoder pre-trained beside the encoder, by contrast of pixels between two views of one slice.

Source: Chaitanya et al., arXiv 2006.10511, the local loss of its second stage: what two views show of one place of a
slice is alike, and unlike what they show of other places,

    l(u, v) = - log( exp(u.v/tau) / ( exp(u.v/tau) + sum_{v'} exp(u.v'/tau) ) ),   L = mean of l(u, v) and l(v, u)

for the vectors u, v of a place in the first and in the second view, and v' of other places. Departures:
- There views differ in intensity alone and regions are 3 x 3 pixels on a grid; here views are moved, so single pixels
  are drawn in the first one and each is paired with the pixel of the second that was read nearest to the same place,
  as in PixPro (Xie et al., arXiv 2011.10043). Places that the second view does not show, or that lie outside the
  slice, do not count.
- Places nearer to each other than `apart` are no negatives: neighbouring pixels show the same tissue.
- It is a second term of one loss, over the whole decoder, not a stage of its own over its first levels.
- v' are of the same slice, as there, or of all slices of the batch (`negatives`), as in DenseCL (Wang et al., arXiv
  2011.09157), whose negatives are of other pictures.

Both vectors carry a gradient. No bank, no momentum encoder, nothing that is exchanged: the decoder and the pixels'
head are tensors of the model, and are averaged with it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.config import DenseSettings
from fedsecure.learning.contrastive import info_nce
from fedsecure.learning.model import Branch


class Pairs(NamedTuple):
    """P pixels of each slice's first view with the pixels of its second view that show the same places.

    first, second: [N, P] int64, row by row; places: [N, P, 2], where in the slice the first were read, edges at -1
    and 1; valid: [N, P] bool, whether the second view shows that place, within a pixel, and it lies in the slice.
    """

    first: Tensor
    second: Tensor
    places: Tensor
    valid: Tensor


class LocalContrast:
    """The local loss of one site's steps in one round. Its draws are its own: views and Q' are as without it."""

    def __init__(self, network: Branch, settings: DenseSettings, device: str, seed: int) -> None:
        """Raises ValueError for a network without a decoder to train."""
        if network.decoder is None or network.pixels is None:
            raise ValueError("a local contrast needs a network that has a decoder and a head of pixels")
        self._decoder, self._pixels, self._settings = network.decoder, network.pixels, settings
        self._generator = torch.Generator(device).manual_seed(seed)

    def terms(self, maps: list[Tensor], places: Tensor) -> Tensor:
        """Weighted L of each slice [N], for the encoder's maps of both views [2N, ...], first all first views, and
        where their pixels were read [2N, H, W, 2]."""
        pairs = paired(places, self._settings.pixels, self._generator)
        first, second = self._decoder(maps).flatten(2).transpose(1, 2).chunk(2)  # [N, H W, f] each
        slices = torch.arange(len(first), device=first.device)[:, None]
        chosen = torch.cat([first[slices, pairs.first], second[slices, pairs.second]])  # [2N, P, f]
        u, v = F.normalize(self._pixels(chosen), dim=2).chunk(2)
        return self._settings.weight * local_terms(u, v, pairs, self._settings)


def paired(places: Tensor, pixels: int, generator: torch.Generator) -> Pairs:
    """`pixels` random pixels of each first view, with repetition, and their partners in the second.

    places: [2N, H, W, 2], where each pixel of the views was read, first all first views.
    """
    height, width = places.shape[1:3]
    first, second = places.flatten(1, 2).chunk(2)  # [N, H W, 2] each
    drawn = torch.randint(height * width, (len(first), pixels), generator=generator, device=generator.device)
    drawn = drawn.to(places.device)
    at = first[torch.arange(len(first), device=places.device)[:, None], drawn]
    # A slice at a time, as N P H W distances at once would not fit for large pictures.
    nearest = [_distances(here, there).min(1) for here, there in zip(at, second, strict=True)]
    distance, partner = torch.stack([n.values for n in nearest]), torch.stack([n.indices for n in nearest])
    pixel = 2 / min(height, width)
    return Pairs(drawn, partner, at, (distance < pixel) & (at.abs().amax(2) <= 1))


def local_terms(u: Tensor, v: Tensor, pairs: Pairs, settings: DenseSettings) -> Tensor:
    """L of each slice [N]: the mean over its valid places, 0 where it has none. u, v: [N, P, d], normalised."""
    n, p = pairs.valid.shape
    valid, at = pairs.valid.flatten(), pairs.places.flatten(0, 1)
    owner = torch.arange(n, device=u.device).repeat_interleave(p)
    same = owner[:, None] == owner[None, :]
    far = _distances(at, at) >= settings.apart
    is_negative = (same & far if settings.negatives == "slice" else ~same | far) & valid[None, :]
    is_positive = torch.eye(n * p, dtype=torch.bool, device=u.device) & valid[None, :]

    def loss(queries: Tensor, keys: Tensor) -> Tensor:
        return info_nce(
            queries, keys, keys, is_positive=is_positive, is_negative=is_negative, temperature=settings.temperature
        )

    flat_u, flat_v = u.flatten(0, 1), v.flatten(0, 1)
    terms = (loss(flat_u, flat_v) + loss(flat_v, flat_u)) / 2
    return terms.reshape(n, p).sum(1) / pairs.valid.sum(1).clamp_min(1)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    # Not by the expansion of the square, which in float32 is wrong by a part of a pixel.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
