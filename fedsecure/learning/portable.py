"""Weights that every CPU draws alike, so that sites can make a study's first model themselves and compare digests.

torch's uniform draws in [0, 1) are the same everywhere: 24 bits of a Mersenne twister. What it makes of them for
another interval is not: one instruction that multiplies and adds rounds once, and which CPUs have one, or are compiled
for it, differs. Here product and sum are two operations, each rounded as IEEE 754 says.

Not covered: normal draws, from which no layer of ours starts, and what is computed of a network: the constants of
FCLOpt's projectors are computed in float64 and rounded once (fclopt.Online.standardise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_UNIFORM: Final[Any] = torch.ops.aten.uniform_.default


class PortableDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, a tensor that is filled with uniform numbers, as torch's layers fill theirs, has the same on
    every CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is not _UNIFORM:
            return func(*args, **(kwargs or {}))
        return _uniform(*args, **(kwargs or {}))


def _uniform(
    tensor: Tensor, low: float = 0.0, high: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    return tensor.uniform_(0.0, 1.0, generator=generator).mul_(high - low).add_(low)
