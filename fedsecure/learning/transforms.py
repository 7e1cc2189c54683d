"""Random transforms of slices, a whole batch at once: the views of contrastive learning, the augmentation of labels.

Every number is drawn from the generator given, so that a replayed round sees the same pictures; a CPU generator gives
the same draws whatever the device of the images. No mirroring: left and right, front and back are anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Strength:
    """Largest change of each kind to either side; draws are uniform, or uniform in the logarithm for factors."""

    rotation: float  # radians
    zoom: float  # factor of the field of view, 1/zoom..zoom: scale and crop in one
    shift: float  # of half the picture's side
    elastic: float  # standard deviation of the displacement at the control points, of half the side
    gamma: float  # exponent, 1/gamma..gamma
    bias: float  # standard deviation of the logarithm of a smooth gain (coil sensitivity) at the control points
    noise: float  # largest standard deviation of Gaussian noise, as a share of the slice's range of values
    control: int  # control points a side, of the elastic displacement and of the gain


# Mild, because the positives already differ by patient: views 2.5 times as strong learnt nothing in as many steps.
VIEW = Strength(rotation=0.2, zoom=1.15, shift=0.08, elastic=0.025, gamma=1.2, bias=0.12, noise=0.013, control=4)

# On ACDC at N=1 milder shift and rotation lost .08 Dice, stronger gamma, elastic and bias .04 (3 sites, one seed).
LABELLED = Strength(rotation=0.5, zoom=1.4, shift=0.2, elastic=0.04, gamma=1.5, bias=0.2, noise=0.05, control=5)


VIEWS: Final = {"mild": VIEW, "strong": LABELLED}  # `pretrain.views`


def two_views(images: Tensor, generator: torch.Generator, strength: Strength = VIEW) -> tuple[Tensor, Tensor]:
    """Two independent views of slices [N, 1, H, W], each of the same shape: geometry first, then intensity."""
    views, _ = located_views(images.repeat(2, 1, 1, 1), generator, strength)
    first, second = views.chunk(2)
    return first, second


def located_views(images: Tensor, generator: torch.Generator, strength: Strength = VIEW) -> tuple[Tensor, Tensor]:
    """A view of each of the slices [N, 1, H, W], and where each of its pixels was read: [N, H, W, 2], (x, y) of the
    slice in [-1, 1] from edge to edge; what lies outside repeats the edge."""
    places = _grid(images.shape, generator, strength).to(images.device)
    return _intensity(_resample(images, places, "bilinear"), generator, strength), places


def augment(
    image: Tensor, label: Tensor, generator: torch.Generator, strength: Strength = LABELLED
) -> tuple[Tensor, Tensor]:
    """Transformed images [N, 1, H, W] float32 and labels [N, H, W], on the device of the input.

    A label moves with its image and keeps its values (nearest neighbour); intensities change in the image alone.
    """
    grid = _grid(image.shape, generator, strength).to(image.device)
    moved, kept = _resample(image, grid, "bilinear"), _resample(label[:, None].float(), grid, "nearest")
    return _intensity(moved, generator, strength), kept[:, 0].to(label.dtype)


def _resample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    # Beyond the edge lies what lay at the edge, background or a structure that crosses it, not the mean that zeros are.
    return F.grid_sample(images, grid, mode, "border", align_corners=False)


def _grid(shape: torch.Size, generator: torch.Generator, strength: Strength) -> Tensor:
    """Where each output pixel is read: [N, H, W, 2] in [-1, 1]; rotation, zoom, shift, then a smooth displacement."""
    n = shape[0]
    angle = _uniform((n,), strength.rotation, generator)
    scale = torch.exp(_uniform((n,), math.log(strength.zoom), generator))
    shift = _uniform((n, 2), strength.shift, generator)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(shape), align_corners=False)
    bend = strength.elastic * _smooth(2, shape, generator, strength.control)
    return grid + bend.permute(0, 2, 3, 1)


def _intensity(images: Tensor, generator: torch.Generator, strength: Strength) -> Tensor:
    """Gamma, gain and noise on each slice's values brought to [0, 1], then back to its own range.

    Gamma and gain need an origin where there is no signal: the slice's darkest pixel.
    """
    n, device = len(images), images.device
    low = images.amin((1, 2, 3), keepdim=True)
    span = (images.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
    gamma = torch.exp(_uniform((n, 1, 1, 1), math.log(strength.gamma), generator))
    gain = torch.exp(strength.bias * _smooth(1, images.shape, generator, strength.control))
    level = strength.noise * torch.rand((n, 1, 1, 1), generator=generator, device=generator.device)
    noise = level * torch.randn(images.shape, generator=generator, device=generator.device)
    unit = ((images - low) / span).pow(gamma.to(device)) * gain.to(device) + noise.to(device)
    return unit * span + low


def _smooth(channels: int, shape: torch.Size, generator: torch.Generator, control: int) -> Tensor:
    """Smooth fields [N, channels, H, W]: standard normal at the control points, bicubic between."""
    points = torch.randn((shape[0], channels, control, control), generator=generator, device=generator.device)
    return F.interpolate(points, size=shape[-2:], mode="bicubic", align_corners=True)


def _uniform(shape: tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return limit * (2 * torch.rand(shape, generator=generator, device=generator.device) - 1)
