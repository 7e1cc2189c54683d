from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedsecure.learning.probe import ProbeResult, partition_probe
from fedsecure.types import Subject, Volume


def _patient(name: str, slices: int, noise: float = 0.0) -> Subject:
    """Every pixel of slice z is the angle of z on a quarter circle, so that near in z is near in cosine."""
    angle = np.linspace(0, np.pi / 2, slices, dtype=np.float32) + np.float32(noise)
    image = np.tile(angle[:, None, None], (1, 4, 4))
    return Subject(name, None, (Volume(name, 0, image, None, (1.0, 1.0, 1.0)),))


def _angle(images: Tensor) -> Tensor:
    a = images.mean((1, 2, 3))
    return torch.stack([a.cos(), a.sin()], 1)


def _same(features: Tensor) -> Tensor:
    return features


def _constant(images: Tensor) -> Tensor:
    return torch.ones(len(images), 3)


def _probe(embed: object, project: object, held_out: list[Subject], neighbours: int = 3) -> ProbeResult:
    train = [_patient(f"t{i}", 8, 0.001 * i) for i in range(3)]
    return partition_probe(embed, project, train, held_out, neighbours=neighbours, partitions=4, batch=3)  # type: ignore[arg-type]


def test_features_that_tell_the_place_are_right_everywhere() -> None:
    result = _probe(_angle, _same, [_patient("h", 8)])
    assert result.accuracy == 1
    assert result.slices == 8
    assert result.chance == 0.25


def test_a_collapsed_network_scores_chance_and_norm_one() -> None:
    result = _probe(_constant, _same, [_patient("h", 8)])
    assert result.accuracy == 0.25
    assert abs(result.mean_norm - 1) < 1e-6


def test_chance_is_the_commonest_training_partition_measured_on_the_held_out() -> None:
    # 13 slices: 3 + 3 + 3 + 4, so that partition 3 is the commonest; of 7 slices (2 + 2 + 2 + 1) it has one.
    train = [_patient("t", 13)]
    result = partition_probe(_angle, _same, train, [_patient("h", 13)], neighbours=1, partitions=4)
    assert result.chance == 4 / 13
    result = partition_probe(_angle, _same, train, [_patient("h", 7)], neighbours=1, partitions=4)
    assert result.chance == 1 / 4


def test_mean_norm_of_opposite_projections_is_zero() -> None:
    def signs(features: Tensor) -> Tensor:
        cosine, sine = features.T
        return torch.where(sine > cosine, 1.0, -1.0)[:, None]

    assert _probe(_angle, signs, [_patient("h", 8)]).mean_norm < 1e-6


def test_more_neighbours_than_training_slices_are_all_of_them() -> None:
    assert _probe(_angle, _same, [_patient("h", 8)], neighbours=1000).accuracy == 0.25
