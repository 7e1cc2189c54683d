"""Of the network, what pre-training relies on. Round trips of tensors and the average that follows."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from fedsecure.config import ModelSettings
from fedsecure.learning.model import Branch, Segmenter, follow, load_tensors, pooled, pooled_width, tensors_of

TINY = ModelSettings(filters=4, hidden=16, features=8)


def _branch(seed: int) -> Branch:
    torch.manual_seed(seed)
    return Branch(TINY)


def test_projection_has_the_studys_width_and_pooled_its_own() -> None:
    branch = _branch(0)
    x = torch.randn(3, 1, 32, 32)
    assert branch(x).shape == (3, 8)
    assert pooled(branch.encoder(x)).shape == (3, pooled_width(TINY))


def test_no_batch_statistics_anywhere() -> None:
    """A slice's projection does not depend on the others of its batch, in training mode as well."""
    branch = _branch(0).train()
    x = torch.randn(4, 1, 32, 32)
    torch.testing.assert_close(branch(x)[:1], branch(x[:1]), atol=1e-5, rtol=1e-4)
    assert not list(branch.buffers())


def test_tensors_are_copies_and_come_back() -> None:
    one, other = _branch(0), _branch(1)
    tensors = tensors_of(one)
    load_tensors(other, tensors)
    for name, value in tensors_of(other).items():
        assert value.tobytes() == tensors[name].tobytes()
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(iter(tensors.values())).any()


def test_follow_is_the_moving_average() -> None:
    slow, fast = _branch(0), _branch(1)
    before = {name: value.clone() for name, value in slow.named_parameters()}
    follow(slow, fast, 0.9)
    for (name, value), new in zip(slow.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * new)
    follow(slow, fast, 0)
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_mixed_precision_is_within_the_u_net_alone(norm: Literal["instance", "group"]) -> None:
    """Weights, gradients, maps and logits are float32, and what comes out is near what float32 gives."""
    plain_settings = TINY.model_copy(update={"norm": norm})
    torch.manual_seed(0)
    plain = Segmenter(plain_settings, 2)
    mixed = Segmenter(plain_settings.model_copy(update={"precision": "bfloat16"}), 2)
    load_tensors(mixed, tensors_of(plain))
    x = torch.randn(3, 1, 32, 32)
    within: list[torch.dtype] = []
    mixed.encoder.levels[0].register_forward_hook(lambda *call: within.append(call[2].dtype))
    maps, logits, expected = mixed.encoder(x), mixed(x), plain(x)
    assert set(within) == {torch.bfloat16}
    assert {m.dtype for m in (*maps, logits)} == {torch.float32}
    assert not torch.equal(logits, expected)
    assert (logits - expected).abs().max() < 0.1 * expected.abs().max()
    logits.square().mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.any() for p in mixed.parameters())
    assert torch.equal(mixed(x), logits)
