"""One patient moves the clipped sum by at most C, for any loss that is a sum over patients; and not for the traps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedsecure.config import ModelSettings
from fedsecure.learning.model import Branch, Segmenter
from fedsecure.privacy.perpatient import clipped_sum, clipped_sum_of
from fedsecure.privacy.persample import patient_gradients

CLIP = 0.5


@pytest.fixture
def network() -> Branch:
    torch.manual_seed(0)
    return Branch(ModelSettings(filters=4, hidden=16, features=8))


def patients(count: int = 5, slices: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(slices, 1, 32, 32, generator=generator) for _ in range(count)]


def separable(network: nn.Module, own: Tensor, negatives: Tensor) -> Callable[[], Tensor]:
    """InfoNCE of a patient's slices: the positive is the patient's next slice, negatives were released before."""

    def loss() -> Tensor:
        z = normalize(network(own), dim=1)
        near = (z * z.roll(1, 0)).sum(1, keepdim=True)
        return -(torch.cat([near, z @ negatives.T], 1) / 0.5).log_softmax(1)[:, 0].sum()

    return loss


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.double().flatten() for t in tensors])


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e12, math.inf, math.nan])
def test_an_outlier_moves_a_separable_sum_by_at_most_the_bound(network: Branch, scale: float) -> None:
    negatives = normalize(torch.randn(16, 8), dim=1)
    everyone = patients()
    everyone[2] = everyone[2] * scale

    def total(members: list[Tensor]) -> Tensor:
        return flat(clipped_sum(network, [separable(network, own, negatives) for own in members], CLIP).sum)

    moved = (total(everyone) - total(everyone[:2] + everyone[3:])).norm()
    assert moved <= CLIP
    assert total(everyone).isfinite().all()
    if scale == 1e3:
        assert moved > 0.5 * CLIP  # the bound is met, not missed by far


def test_plain_infonce_breaks_per_patient_clipping() -> None:
    """The trap (kept failing on purpose): each patient's term of a batch loss has all others' features in its
    denominator, so one outlier turns everybody's gradient, and clipping patient by patient bounds nothing."""
    torch.manual_seed(0)
    network = nn.Linear(16, 8, bias=False)
    base = torch.randn(16)
    members = [base + 0.05 * torch.randn(16) for _ in range(32)]
    members[0] = -4 * base

    def batch_losses(own: list[Tensor]) -> list[Callable[[], Tensor]]:
        x = torch.stack(own)
        view = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))

        def of(i: int) -> Callable[[], Tensor]:
            def loss() -> Tensor:
                logits = normalize(network(x), dim=1) @ normalize(network(view), dim=1).T / 0.1
                return cross_entropy(logits[i : i + 1], torch.tensor([i]))

            return loss

        return [of(i) for i in range(len(own))]

    bound = 0.05
    moved = flat(clipped_sum(network, batch_losses(members), bound).sum) - flat(
        clipped_sum(network, batch_losses(members[1:]), bound).sum
    )
    assert moved.norm() > 2 * bound


def test_several_steps_without_noise_move_an_upload_by_more_than_one_bound_a_step() -> None:
    """The trap: clipping in each of K steps and noise on the upload alone. An outlier's first step moves all others'
    later gradients, and the uploads of K steps differ by more than C."""
    torch.manual_seed(0)
    members = [torch.randn(8, 16) for _ in range(6)]
    members[0] = members[0] * 50

    def upload(own: list[Tensor], steps: int) -> Tensor:
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
        start = flat(tuple(p.detach().clone() for p in network.parameters()))
        for _ in range(steps):
            found = clipped_sum(network, [lambda x=x: network(x).square().sum() for x in own], CLIP)
            with torch.no_grad():
                for parameter, step in zip(network.parameters(), found.sum, strict=True):
                    parameter.sub_(step.float())
        return flat(tuple(p.detach() for p in network.parameters())) - start

    one, many = (upload(members, k) - upload(members[1:], k) for k in (1, 12))
    assert one.norm() <= CLIP * (1 + 1e-5)  # float32 parameters: a difference of uploads rounds
    assert many.norm() > CLIP


def test_an_empty_draw_is_a_sum_of_zeros(network: Branch) -> None:
    found = clipped_sum(network, [], CLIP)
    assert flat(found.sum).abs().max() == 0
    assert found.patients == 0
    assert [tuple(t.shape) for t in found.sum] == [tuple(p.shape) for p in network.parameters()]


def test_small_gradients_are_left_alone_and_large_ones_counted(network: Branch) -> None:
    negatives = normalize(torch.randn(16, 8), dim=1)
    losses = [separable(network, own, negatives) for own in patients(3)]
    wide = clipped_sum(network, losses, 1e9)
    sum(loss() for loss in losses).backward()
    plain = flat(tuple(p.grad if p.grad is not None else torch.zeros_like(p) for p in network.parameters()))
    assert wide.clipped == 0
    torch.testing.assert_close(flat(wide.sum), plain, rtol=1e-4, atol=1e-5)
    assert clipped_sum(network, losses, 1e-3).clipped == 3


def test_hooks_and_the_loop_agree_on_supervised_training() -> None:
    torch.manual_seed(0)
    network = Segmenter(ModelSettings(filters=4, norm="group"), 3)
    counts = [3, 1, 4]
    images = torch.randn(sum(counts), 1, 32, 32)
    labels = torch.randint(0, 4, (sum(counts), 32, 32))
    owners = [i for i, count in enumerate(counts) for _ in range(count)]

    def loss_of(logits: Tensor, wanted: Tensor) -> Tensor:
        return cross_entropy(logits, wanted, reduction="none").mean((1, 2))

    def alone(patient: int) -> Callable[[], Tensor]:
        rows = [i for i, owner in enumerate(owners) if owner == patient]
        return lambda: loss_of(network(images[rows]), labels[rows]).sum()

    loop = clipped_sum(network, [alone(i) for i in range(len(counts))], CLIP)
    hooks = clipped_sum_of(patient_gradients(network, loss_of, images, labels, owners, len(counts)), CLIP)
    assert (hooks.patients, hooks.clipped) == (loop.patients, loop.clipped) == (3, 3)
    torch.testing.assert_close(flat(hooks.sum), flat(loop.sum), rtol=0, atol=1e-5)
    assert all(p.grad is None and not hasattr(p, "grad_sample") for p in network.parameters())
    again = clipped_sum_of(patient_gradients(network, loss_of, images, labels, owners, len(counts)), CLIP)
    assert torch.equal(flat(again.sum), flat(hooks.sum))
    nobody = clipped_sum_of(patient_gradients(network, loss_of, images[:0], labels[:0], [], 0), CLIP)
    assert flat(nobody.sum).abs().max() == 0


def test_batch_normalisation_is_refused_both_ways() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ValueError, match="BatchNorm"):
        clipped_sum(network, [], CLIP)
    with pytest.raises(NotImplementedError):
        patient_gradients(network, lambda x, _: x.sum((1, 2, 3)), torch.randn(2, 1, 8, 8), torch.zeros(2), [0, 1], 2)


def test_a_sum_says_nothing_of_whom_it_is_of(network: Branch) -> None:
    assert repr(clipped_sum(network, [], CLIP)) == "ClippedSum(bound=0.5)"
