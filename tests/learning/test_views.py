from __future__ import annotations

import torch

from fedsecure.learning.views import DEFAULT, Strength, two_views, view

STILL = Strength(rotation=0, zoom=1, shift=0, elastic=0, gamma=1, bias=0, noise=0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int = 6, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 1, size, size, generator=_generator(9))


def test_strength_zero_is_the_identity() -> None:
    images = _images()
    torch.testing.assert_close(view(images, _generator(), STILL), images, atol=1e-4, rtol=1e-4)


def test_two_views_differ_from_each_other_and_between_slices() -> None:
    images = _images(1).repeat(5, 1, 1, 1)
    first, second = two_views(images, _generator())
    assert first.shape == second.shape == images.shape
    everything = torch.cat([first, second]).flatten(1)
    distances = torch.cdist(everything, everything) + torch.eye(10) * 1e9
    assert distances.min() > 1


def test_the_generator_decides_and_the_global_one_is_left_alone() -> None:
    images = _images()
    before = torch.random.get_rng_state()
    assert torch.equal(view(images, _generator(1)), view(images, _generator(1)))
    assert not torch.equal(view(images, _generator(1)), view(images, _generator(2)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_mirrored() -> None:
    """A lone rotation and zoom keep the handedness of a bright, a middle and a dark blob seen from the centre."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    centres = [(-0.5, 0.0), (0.3, 0.4), (0.3, -0.4)]
    blobs = [torch.exp(-40 * ((y - cy) ** 2 + (x - cx) ** 2)) for cy, cx in centres]
    images = torch.stack(blobs)[None].transpose(0, 1)  # each blob is an image, moved by the same draw below
    strength = Strength(rotation=3.0, zoom=1.4, shift=0, elastic=0, gamma=1, bias=0, noise=0)
    for seed in range(10):
        state = _generator(seed)
        # One draw for all three: the same seed on each blob alone.
        moved = [view(image[None], _generator(seed), strength)[0, 0].clamp_min(0) for image in images]
        places = [torch.stack([(m * y).sum(), (m * x).sum()]) / m.sum() for m in moved]
        (ay, ax), (by, bx), (cy, cx) = places
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        assert area > 0, state.initial_seed()


def test_views_stay_finite_on_constant_slices_and_keep_the_scale() -> None:
    flat = torch.zeros(4, 1, 32, 32)
    assert torch.isfinite(view(flat, _generator())).all()
    images = _images(64)
    changed = view(images, _generator(), Strength(rotation=0, zoom=1, shift=0, elastic=0, noise=0, bias=0))
    torch.testing.assert_close(changed.amin((2, 3)), images.amin((2, 3)), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(changed.amax((2, 3)), images.amax((2, 3)), atol=1e-3, rtol=1e-3)
    assert DEFAULT.gamma > 1
