"""Random views of slices: what two views of one slice share is what contrastive learning keeps.

Everything is batched over the slices and drawn from the generator given, so that views cost little beside the network
and a replayed round sees the same ones. No mirroring: left and right, front and back are anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Strength:
    """Largest change of each kind, drawn uniformly up to it unless said otherwise.

    Mild, because the positives already differ by patient: views 2.5 times as strong learnt nothing in as many steps.
    """

    rotation: float = 0.2  # radians to either side
    zoom: float = 1.15  # factor of the field of view, 1/zoom..zoom, uniform in its logarithm: scale and crop in one
    shift: float = 0.08  # of half the image's width
    elastic: float = 0.025  # standard deviation of a 4 x 4 grid of displacements, of half the image's width
    gamma: float = 1.2  # exponent 1/gamma..gamma, uniform in its logarithm
    bias: float = 0.12  # standard deviation of the logarithm of a smooth multiplicative field (coil sensitivity)
    noise: float = 0.06  # largest standard deviation of Gaussian noise, of the slice's standard deviation


DEFAULT = Strength()


def two_views(images: Tensor, generator: torch.Generator, strength: Strength = DEFAULT) -> tuple[Tensor, Tensor]:
    """Two independent views of `images` [N, 1, H, W], each of the same shape. `generator` lives on their device."""
    first, second = view(images.repeat(2, 1, 1, 1), generator, strength).chunk(2)
    return first, second


def view(images: Tensor, generator: torch.Generator, strength: Strength = DEFAULT) -> Tensor:
    """One view of each slice: geometry first, then intensity. [N, 1, H, W] -> [N, 1, H, W]."""
    return _intensity(_geometry(images, generator, strength), generator, strength)


def _geometry(images: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    n, _, height, width = images.shape

    def spread(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator, device=images.device) - 1

    angle = strength.rotation * spread(n)
    scale = torch.exp(math.log(strength.zoom) * spread(n))
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    linear = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    theta = torch.cat([linear, strength.shift * spread(n, 2, 1)], 2)  # [n, 2, 3]
    grid = F.affine_grid(theta, [n, 1, height, width], align_corners=False)
    bend = strength.elastic * torch.randn(n, 2, 4, 4, generator=generator, device=images.device)
    grid = grid + _smooth(bend, height, width).permute(0, 2, 3, 1)
    # Beyond the edge lies background, which is the edge's value, not the mean that zeros would be.
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _intensity(images: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    n, _, height, width = images.shape
    device = images.device
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    range_ = (high - low).clamp_min(1e-6)
    exponent = torch.exp(
        math.log(strength.gamma) * (2 * torch.rand(n, 1, 1, 1, generator=generator, device=device) - 1)
    )
    field = strength.bias * torch.randn(n, 1, 3, 3, generator=generator, device=device)
    # Gamma and field need an origin where there is no signal: the slice's darkest pixel.
    signal = ((images - low) / range_).clamp_min(1e-6) ** exponent * torch.exp(_smooth(field, height, width))
    changed = signal * range_ + low
    sigma = strength.noise * torch.rand(n, 1, 1, 1, generator=generator, device=device)
    sigma = sigma * changed.std((2, 3), keepdim=True)
    return changed + sigma * torch.randn(images.shape, generator=generator, device=device)


def _smooth(coarse: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
