"""Federated averaging in NumPy alone: the coordinator needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedsecure.types import Tensors, schema_of, schema_size


def average(model: Tensors, deltas: Sequence[tuple[str, int, Tensors]]) -> Tensors:
    """model + sum_c (w_c / W) delta_c over (site, weight w_c, delta_c), with W the sum of the weights given.

    Summed in float64 in the order of the sites' names and rounded to float32 once, so that arrival order changes no
    bit. Raises ValueError when there is no site, a site stands twice, a weight is below 1, or names, their order or
    shapes differ from the model's.
    """
    ordered = sorted(deltas, key=lambda item: item[0])
    names = [site for site, _, _ in ordered]
    if not names or len(set(names)) != len(names):
        raise ValueError("averaging takes at least one site, and each site once")
    if any(weight < 1 for _, weight, _ in ordered):
        raise ValueError("averaging weights are at least 1")
    schema = schema_of(model)
    if any(schema_of(delta) != schema for _, _, delta in ordered):
        raise ValueError("an update's tensors differ from the model's in name, order or shape")
    total = sum(weight for _, weight, _ in ordered)
    averaged = {}
    for name, start in model.items():
        mean = np.zeros(start.shape, np.float64)
        for _, weight, delta in ordered:
            mean += (weight / total) * delta[name].astype(np.float64)
        averaged[name] = (start.astype(np.float64) + mean).astype(np.float32)
    return averaged


def moved(model: Tensors, total: npt.NDArray[np.float64], weight: int) -> Tensors:
    """model + total / weight: of one flat float64 vector [d], tensors in the model's order, that is the sum over sites
    of w_c delta_c, and the sum of their w_c. Raises ValueError if it is not as long as the model."""
    if len(total) != schema_size(schema_of(model)):
        raise ValueError("a sum of another length than the model")
    averaged, start = {}, 0
    for name, tensor in model.items():
        part = total[start : start + tensor.size].reshape(tensor.shape)
        averaged[name] = (tensor.astype(np.float64) + part / weight).astype(np.float32)
        start += tensor.size
    return averaged
