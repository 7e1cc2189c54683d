"""Random transforms of labelled slices, a whole batch at once: one resampling of the images and one of the labels.

Strengths (docs/method.md 5): on ACDC at N=1 milder shift and rotation lost .08 Dice, stronger gamma, elastic and
bias .04 (3 sites, one seed). All numbers are drawn from one CPU generator, so that a round replays and the draws do not
depend on the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ROTATION = 0.5  # radians, either way
SCALE = 1.4  # from 1/1.4 to 1.4, log-uniform, so that shrinking is as likely as growing
SHIFT = 0.2  # of half the picture's side, either way
ELASTIC = 0.04  # standard deviation of the displacement at the control points, of half the side
CONTROL = 5  # control points a side, of the elastic displacement and of the bias field
GAMMA = 1.5  # exponent from 1/1.5 to 1.5, log-uniform
BIAS = 0.2  # standard deviation of the log of the coil's smooth gain
NOISE = 0.05  # at most, as a share of the slice's range of values


def augment(image: Tensor, label: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Transformed images [N, 1, H, W] float32 and labels [N, H, W], on the device of the input.

    A label moves with its image and keeps its values (nearest neighbour); intensities change in the image alone.
    """
    grid = _grid(image.shape, generator).to(image.device)
    # Padding by the border on both sides: an image goes on beyond its edge, and so does the structure that crosses it.
    moved = F.grid_sample(image, grid, "bilinear", "border", align_corners=False)
    kept = F.grid_sample(label[:, None].float(), grid, "nearest", "border", align_corners=False)
    return _intensity(moved, generator), kept[:, 0].to(label.dtype)


def _grid(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Where each output pixel is read: [N, H, W, 2] in [-1, 1]; rotation, scale, shift, then a smooth displacement."""
    n = shape[0]
    angle = _uniform(n, ROTATION, generator)
    scale = torch.exp(_uniform(n, math.log(SCALE), generator))
    shift = _uniform((n, 2), SHIFT, generator)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(shape), align_corners=False)
    return grid + ELASTIC * _smooth(2, shape, generator).permute(0, 2, 3, 1)


def _intensity(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma, bias field and noise on each slice's values brought to [0, 1], then back to its own range."""
    n = len(image)
    low = image.amin((1, 2, 3), keepdim=True)
    span = (image.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
    gamma = torch.exp(_uniform((n, 1, 1, 1), math.log(GAMMA), generator))
    gain = torch.exp(BIAS * _smooth(1, image.shape, generator))
    level = NOISE * torch.rand((n, 1, 1, 1), generator=generator)
    noise = level * torch.randn(image.shape, generator=generator)
    unit = ((image - low) / span).pow(gamma.to(image.device)) * gain.to(image.device) + noise.to(image.device)
    return unit * span + low


def _smooth(channels: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Smooth fields [N, channels, H, W]: standard normal at the control points, bicubic between."""
    points = torch.randn((shape[0], channels, CONTROL, CONTROL), generator=generator)
    return F.interpolate(points, size=shape[-2:], mode="bicubic", align_corners=True)


def _uniform(shape: int | tuple[int, ...], limit: float, generator: torch.Generator) -> Tensor:
    return limit * (2 * torch.rand(shape, generator=generator) - 1)
