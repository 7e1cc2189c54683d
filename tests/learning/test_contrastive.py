from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fedsecure.learning.bank import Features
from fedsecure.learning.contrastive import Denominator, LocalNegatives, fcl_terms, info_nce


def _unit(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def fcl_loss(*arguments: Any, **named: Any) -> torch.Tensor:
    return fcl_terms(*arguments, **named).mean()


# By hand, in two dimensions with two partitions and tau = 1/2, so that exp(q.k / tau) = exp(2 cos angle).
# q at 0 degrees, partition 0.
# Keys of the batch: 0 degrees (partition 0, a positive: exp(2) = 7.389), 180 degrees (partition 1, not in P(q)).
# Q': 60 degrees (partition 0: exp(1) = 2.718), 90 degrees (partition 1: exp(0) = 1), 120 degrees (1: exp(-1) = 0.368).
E2, E1, E0, EM1 = math.exp(2), math.e, 1.0, math.exp(-1)
EM2 = math.exp(-2)
BY_HAND = {
    # Both sums run over the two of partition 1 alone.
    ("exclude_same_partition", "bank"): math.log((E2 + E0 + EM1) / E2) + math.log((E1 + E0 + EM1) / E1),
    # Both sums run over all three; the matching feature stands in its own sum twice, as printed.
    ("literal", "bank"): math.log((E2 + E1 + E0 + EM1) / E2) + math.log((E1 + E1 + E0 + EM1) / E1),
    # L_local's sum runs over the batch's keys instead: the one of partition 1, or both.
    ("exclude_same_partition", "batch"): math.log((E2 + EM2) / E2) + math.log((E1 + E0 + EM1) / E1),
    ("literal", "batch"): math.log((E2 + E2 + EM2) / E2) + math.log((E1 + E1 + E0 + EM1) / E1),
}


@pytest.mark.parametrize(("denominator", "local_negatives"), BY_HAND)
def test_the_loss_by_hand(denominator: Denominator, local_negatives: LocalNegatives) -> None:
    loss = fcl_loss(
        _unit(0),
        torch.tensor([0]),
        Features(_unit(0, 180), torch.tensor([0, 1])),
        Features(_unit(60, 90, 120), torch.tensor([0, 1, 1])),
        temperature=0.5,
        denominator=denominator,
        local_negatives=local_negatives,
    )
    assert loss.item() == pytest.approx(BY_HAND[denominator, local_negatives], rel=1e-5)


def test_positives_are_averaged_not_summed() -> None:
    every = torch.ones(1, 2, dtype=torch.bool)
    both = info_nce(_unit(0), _unit(0, 60), _unit(90, 120), is_positive=every, is_negative=every, temperature=0.5)
    by_hand = (math.log((E2 + E0 + EM1) / E2) + math.log((E1 + E0 + EM1) / E1)) / 2
    assert both.item() == pytest.approx(by_hand, rel=1e-5)


def test_no_matching_feature_means_no_remote_loss() -> None:
    drawn = Features(_unit(90, 120), torch.tensor([1, 1]))
    local = Features(_unit(0), torch.tensor([0]))
    loss = fcl_loss(
        _unit(0),
        torch.tensor([0]),
        local,
        drawn,
        temperature=0.5,
        denominator="exclude_same_partition",
        local_negatives="bank",
    )
    assert loss.item() == pytest.approx(math.log((E2 + E0 + EM1) / E2), rel=1e-5)


def test_what_may_not_match_is_no_positive_and_its_partition_says_whether_it_is_a_negative() -> None:
    """`matchable`, by hand as above: of Q' the match at 60 degrees may not match, so that L_remote is 0."""
    for denominator, rest in (("exclude_same_partition", E0 + EM1), ("literal", E1 + E0 + EM1)):
        loss = fcl_loss(
            _unit(0),
            torch.tensor([0]),
            Features(_unit(0, 180), torch.tensor([0, 1])),
            Features(_unit(60, 90, 120), torch.tensor([0, 1, 1])),
            temperature=0.5,
            denominator=denominator,  # type: ignore[arg-type]
            local_negatives="bank",
            matchable=torch.tensor([False, True, True]),
        )
        assert loss.item() == pytest.approx(math.log((E2 + rest) / E2), rel=1e-5)


def test_of_the_batch_a_query_sees_its_own_patient_alone() -> None:
    """`own`, by hand: the key at 0 degrees is another patient's, and so no positive; the one at 60 is; of the negatives
    at 90 and 180 only the latter is the query's patient's."""
    terms = fcl_terms(
        _unit(0),
        torch.tensor([0]),
        Features(_unit(0, 60, 90, 180), torch.tensor([0, 0, 1, 1])),
        Features(_unit(60, 120), torch.tensor([0, 1])),
        temperature=0.5,
        denominator="exclude_same_partition",
        local_negatives="batch",
        own=torch.tensor([[False, True, False, True]]),
    )
    assert terms.tolist() == [pytest.approx(math.log((E1 + EM2) / E1) + math.log((E1 + EM1) / E1), rel=1e-5)]


@pytest.mark.parametrize("denominator", ["exclude_same_partition", "literal"])
def test_an_empty_draw_gives_zero_and_a_finite_gradient(denominator: Denominator) -> None:
    q = _unit(0, 30).requires_grad_()
    nothing = Features(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    local = Features(_unit(10, 20), torch.tensor([0, 1]))
    loss = fcl_loss(
        q, torch.tensor([0, 1]), local, nothing, temperature=0.1, denominator=denominator, local_negatives="bank"
    )
    loss.backward()
    assert loss.item() == 0
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def test_only_positives_in_the_draw_leave_no_nan() -> None:
    q = _unit(0).requires_grad_()
    drawn = Features(_unit(50), torch.tensor([0]))
    loss = fcl_loss(
        q,
        torch.tensor([0]),
        drawn,
        drawn,
        temperature=0.1,
        denominator="exclude_same_partition",
        local_negatives="bank",
    )
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(q.grad).all()  # type: ignore[arg-type]  # set by backward


def test_stable_at_tiny_temperatures_and_equal_to_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    q, keys = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (5, 40))
    partitions = torch.arange(40) % 4
    for tau in (1e-3, 0.1):
        drawn = Features(keys, partitions)
        ours = fcl_loss(q, partitions[:5], drawn, drawn, temperature=tau, denominator="literal", local_negatives="bank")
        similarity = q.double() @ keys.double().T / tau
        total = torch.logsumexp(similarity, 1, keepdim=True)
        terms = torch.logaddexp(similarity, total) - similarity
        same = partitions[:5, None] == partitions[None]
        expected = 2 * ((terms * same).sum(1) / same.sum(1)).mean()
        assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


def test_only_the_query_carries_a_gradient() -> None:
    q = _unit(0).requires_grad_()
    keys = Features(_unit(40, -90), torch.tensor([0, 1]))
    fcl_loss(
        q, torch.tensor([0]), keys, keys, temperature=0.5, denominator="literal", local_negatives="bank"
    ).backward()
    # Downhill, q turns towards its positive at 40 degrees: away from the negative at -90.
    assert q.grad is not None
    assert q.grad[0, 1] < 0
