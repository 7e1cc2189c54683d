"""The 2D U-Net, cut into the encoder that is pre-trained and the decoder that mostly is not, and the heads.

MONAI's BasicUNet (two convolutions a level, five levels) is the network of the papers' code line: with 48 filters its
encoder has 10.6 M parameters. No BatchNorm anywhere: it leaks statistics and breaks per-patient clipping.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fedsecure.config import ModelSettings, Precision
from fedsecure.types import State, Tensors


class Encoder(nn.Module):
    """[N, 1, H, W] -> five maps, from [N, f, H, W] down to [N, 16 f, H/16, W/16], float32.

    Mixed precision (`precision`) is within encoder and decoder alone: weights, heads and losses are float32.
    """

    def __init__(self, unet: BasicUNet, precision: Precision) -> None:
        super().__init__()
        self.levels = nn.ModuleList([unet.conv_0, unet.down_1, unet.down_2, unet.down_3, unet.down_4])
        self._mixed = precision == "bfloat16"

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._mixed):
            for level in self.levels:
                x = level(x)
                maps.append(x)
        return [m.float() for m in maps]


class Decoder(nn.Module):
    """The encoder's five maps -> logits [N, 1 + structures, H, W], or whatever `final` makes of features
    [N, f, H, W]."""

    def __init__(self, unet: BasicUNet, precision: Precision, final: nn.Module | None = None) -> None:
        super().__init__()
        self._mixed = precision == "bfloat16"
        self.levels = nn.ModuleList([unet.upcat_4, unet.upcat_3, unet.upcat_2, unet.upcat_1])
        self.final = unet.final_conv if final is None else final

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._mixed):
            for level, skip in zip(self.levels, reversed(maps[:-1]), strict=True):
                x = level(x, skip)
        logits: Tensor = self.final(x.float())
        return logits


class Segmenter(nn.Module):
    """U-Net: [N, 1, H, W] -> logits [N, 1 + structures, H, W]."""

    def __init__(self, settings: ModelSettings, structures: int) -> None:
        super().__init__()
        unet = _unet(settings, 1 + structures)
        self.encoder = Encoder(unet, settings.precision)
        self.decoder = Decoder(unet, settings.precision)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.encoder(x))
        return logits


def build_encoder(settings: ModelSettings) -> Encoder:
    return Encoder(_unet(settings, 2), settings.precision)


def pooled(maps: list[Tensor]) -> Tensor:
    """Features h [N, 80 f] of the deepest map: averages of its four quarters beside the maximum of the whole.

    The average of a whole map straight after InstanceNorm is nearly the same for all (docs/method.md 5); where in
    the map something lies survives the normalisation, and tells one slice from another before anything is learnt.
    """
    deepest = maps[-1]
    return torch.cat([adaptive_avg_pool2d(deepest, 2).flatten(1), deepest.flatten(2).amax(2)], 1)


def pooled_width(settings: ModelSettings) -> int:
    return 80 * settings.filters


class Standardise(nn.Module):
    """(h - shift) * scale, features [N, n]; constants of the model that no training moves."""

    shift: Tensor
    scale: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))

    def forward(self, h: Tensor) -> Tensor:
        return (h - self.shift) * self.scale

    def fit(self, h: Tensor) -> None:
        """Constants that bring these features [M, n] to mean 0 and standard deviation 1, near enough."""
        self.shift.copy_(h.mean(0))
        self.scale.copy_(1 / (h.std(0) + 1e-3))


class Head(nn.Module):
    """Projector or predictor: linear, LayerNorm, ReLU, linear; [N, wide] -> [N, features]."""

    def __init__(self, wide: int, hidden: int, features: int, standardised: bool = False) -> None:
        super().__init__()
        self.standardise = Standardise(wide) if standardised else nn.Identity()
        self.layers = nn.Sequential(
            nn.Linear(wide, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, features)
        )

    def forward(self, h: Tensor) -> Tensor:
        z: Tensor = self.layers(self.standardise(h))
        return z


class Branch(nn.Module):
    """Encoder and projector: slices [N, 1, H, W] -> projections [N, d], not normalised.

    dense: with the decoder, maps -> features [N, f, H, W], and `pixels`, the head of single pixels' features
    [M, f] -> [M, d] (dense.py). Neither is part of `forward`.
    """

    def __init__(self, settings: ModelSettings, standardised: bool = False, dense: bool = False) -> None:
        super().__init__()
        unet = _unet(settings, 2)
        self.encoder = Encoder(unet, settings.precision)
        self.projector = Head(pooled_width(settings), settings.hidden, settings.features, standardised)
        self.decoder = Decoder(unet, settings.precision, nn.Identity()) if dense else None
        self.pixels: Head | None = None
        if dense:
            # What is drawn after it is then the same with and without, so that arms of a study pair.
            with torch.random.fork_rng(devices=[]):
                self.pixels = Head(settings.filters, settings.hidden, settings.features)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.projector(pooled(self.encoder(x)))
        return z


def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Exponential moving average in place: slow <- m slow + (1 - m) fast. Without BatchNorm no buffer is left over."""
    with torch.no_grad():
        for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


def follow_branch(slow: Branch, fast: Branch, momentum: float) -> None:
    """`follow` of encoder and projector, whatever else the fast network has."""
    follow(slow.encoder, fast.encoder, momentum)
    follow(slow.projector, fast.projector, momentum)


def tensors_of(module: nn.Module) -> Tensors:
    """The module's state as float32 arrays, in its own fixed order. Copies."""
    return {name: value.detach().cpu().numpy().astype(np.float32) for name, value in module.state_dict().items()}


def load_tensors(module: nn.Module, tensors: State) -> None:
    """Inverse of `tensors_of`. Raises RuntimeError when names or shapes differ."""
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})


def _unet(settings: ModelSettings, channels: int) -> BasicUNet:
    f = settings.filters
    norm = ("group", {"num_groups": 4}) if settings.norm == "group" else ("instance", {"affine": True})
    return BasicUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=channels,
        features=(f, 2 * f, 4 * f, 8 * f, 16 * f, f),
        act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False}),
        norm=norm,
    )
