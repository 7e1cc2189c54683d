from __future__ import annotations

import pytest
import torch

from fedsecure.learning import augment as module
from fedsecure.learning.augment import augment

INTENSITY = ("GAMMA", "BIAS", "NOISE")
PLACE = ("ROTATION", "SCALE", "SHIFT", "ELASTIC")
OFF = {"GAMMA": 1.0, "SCALE": 1.0}


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _blobs(count: int, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc (1) off the centre in a ring (2); the image is twice the label."""
    y, x = torch.meshgrid(torch.arange(size) - 0.4 * size, torch.arange(size) - 0.55 * size, indexing="ij")
    radius = torch.hypot(y, x)
    label = ((radius < 0.25 * size).int() + (radius < 0.12 * size).int()).to(torch.uint8)
    label = torch.where(label > 0, 3 - label, 0).to(torch.uint8).expand(count, size, size).clone()
    return 2 * label[:, None].float(), label


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    def switch_off(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(module, name, OFF.get(name, 0.0))

    return switch_off


def test_label_moves_with_the_image(without) -> None:
    without(*INTENSITY)
    image, label = _blobs(16)
    moved, kept = augment(image, label, _generator())
    assert not torch.equal(kept, label)
    assert set(kept.unique().tolist()) == {0, 1, 2}
    # Where bilinear and nearest neighbour read from the middle of a region they agree; at edges they may not.
    agree = (moved[:, 0] - 2 * kept.float()).abs() < 0.5
    assert agree.float().mean() > 0.93
    shifted = (moved[:, 0] - 2 * kept.roll(4, 2).float()).abs() < 0.5
    assert shifted.float().mean() < agree.float().mean() - 0.05


def test_intensities_change_in_the_image_alone(without) -> None:
    without(*PLACE)
    image, label = _blobs(4)
    changed, kept = augment(image, label, _generator())
    assert torch.equal(kept, label)
    assert (changed - image).abs().mean() > 0.05
    tied = torch.corrcoef(torch.stack([changed.flatten(), image.flatten()]))[0, 1]
    assert tied > 0.9


def test_nothing_switched_on_changes_nothing(without) -> None:
    without(*PLACE, *INTENSITY)
    image, label = _blobs(2)
    same, kept = augment(image, label, _generator())
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)
    assert torch.equal(kept, label)


@pytest.fixture
def at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every uniform draw gives its upper limit."""
    monkeypatch.setattr(
        module,
        "_uniform",
        lambda shape, limit, generator: torch.full(shape if isinstance(shape, tuple) else (shape,), limit),
    )


def test_a_quarter_turn_is_a_quarter_turn(without, at_the_limit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    without(*INTENSITY, "SCALE", "SHIFT", "ELASTIC")
    monkeypatch.setattr(module, "ROTATION", torch.pi / 2)
    image, label = _blobs(1)
    moved, kept = augment(image, label, _generator())
    assert torch.equal(kept[0], label[0].rot90(1))
    torch.testing.assert_close(moved[0, 0], image[0, 0].rot90(1), atol=1e-3, rtol=0)


def test_reading_twice_as_far_quarters_the_area(without, at_the_limit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    without(*INTENSITY, "ROTATION", "SHIFT", "ELASTIC")
    monkeypatch.setattr(module, "SCALE", 2.0)
    image, label = _blobs(1)
    _, kept = augment(image, label, _generator())
    assert int((kept > 0).sum()) == pytest.approx(int((label > 0).sum()) / 4, rel=0.1)


def test_the_generator_decides_each_slice_differs_and_the_input_stays() -> None:
    image, label = _blobs(3)
    before = image.clone()
    one, two, other = (augment(image, label, _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0][0], one[0][1])
    assert torch.equal(image, before)


def test_a_flat_slice_stays_finite() -> None:
    image, label = torch.full((2, 1, 32, 32), -1.5), torch.zeros(2, 32, 32, dtype=torch.uint8)
    changed, kept = augment(image, label, _generator())
    assert torch.isfinite(changed).all()
    assert kept.dtype == torch.uint8
    assert not kept.any()
