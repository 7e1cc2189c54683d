"""The losses of federated contrastive learning, arXiv 2204.10983 (docs/method.md 2.4):

    l(q, P, Q') = - 1/|P| sum_{k+ in P} log( exp(q.k+/tau) / ( exp(q.k+/tau) + sum_{n in Q'} exp(q.n/tau) ) )

    L_local  = l(q, P(q), Q')       P(q): same-partition features of the site's own volumes
    L_remote = l(q, Lambda(q), Q')  Lambda(q) = {p in Q' : partition(p) = partition(q)}: global structural matching
    L_q      = L_remote + L_local

By default L_local's negatives are not Q' but the batch's keys, see `fcl_terms`; "bank" is as printed.
All vectors are L2-normalised, so a dot product is a cosine. Only q carries a gradient.

The separable form (docs/method.md 2.6) is the same with `own`: of the batch, a query then sees its own patient alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedsecure.learning.bank import Features

Denominator = Literal["exclude_same_partition", "literal"]
LocalNegatives = Literal["batch", "bank"]


def info_nce(
    q: Tensor, positives: Tensor, negatives: Tensor, *, is_positive: Tensor, is_negative: Tensor, temperature: float
) -> Tensor:
    """l(q, P, Q') for each q: [N]. It is 0 where P is empty.

    q: [N, d]; positives: [M, d], of which is_positive [N, M] says which are P; negatives: [K, d] and is_negative [N, K]
    likewise for Q'.
    """
    # Softmax sums need float32 whatever the network ran in.
    scale = 1 / temperature
    near = scale * (q.float() @ positives.float().T)  # [N, M]
    far = scale * (q.float() @ negatives.float().T)  # [N, K]
    # The least finite number in place of -inf, and one such column always: a row without negatives, or an empty Q',
    # then has loss 0 and no NaN in its gradient.
    least = torch.finfo(far.dtype).min
    rest = F.pad(far.masked_fill(~is_negative, least), (0, 1), value=least)
    # -log(a / (a + b)) = log(1 + b/a) = softplus(log b - log a), stable for any a and b
    terms = F.softplus(torch.logsumexp(rest, 1, keepdim=True) - near)
    counts = is_positive.sum(1).clamp_min(1)
    return (terms * is_positive).sum(1) / counts


def fcl_terms(
    q: Tensor,
    partitions: Tensor,
    local: Features,
    drawn: Features,
    *,
    temperature: float,
    denominator: Denominator,
    local_negatives: LocalNegatives,
    matchable: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """L_q = L_local + L_remote of each query: [N].

    q: [N, d] with partitions [N]; local: momentum features of the batch [M], from which P(q) is taken; drawn: Q' [K].
    matchable [K]: which of Q' Lambda(q) may hold, by default all; the others are no positives, and negatives as ever.
    own [N, M]: which of the batch a query may look at, as positive or negative; by default all. With the same
    patient's alone, and Q' of what was released, L_q depends on no other patient of the site.

    As printed, the sum over Q' also runs over Lambda(q) ("literal"). The paper's figure draws only other partitions as
    negatives; that is "exclude_same_partition".

    As printed, L_local sets fresh positives against Q' ("bank"), whose features are older. What tells them apart most
    cheaply is age: all features then run in one direction together, away from the bank, and collapse (measured; batch
    normalisation would hide it). "batch" takes L_local's negatives from the batch's keys, as old as its positives.
    """
    is_local = partitions[:, None] == local.partitions[None, :]
    is_matching = partitions[:, None] == drawn.partitions[None, :]
    own = torch.ones_like(is_local) if own is None else own
    matched = is_matching if matchable is None else is_matching & matchable

    def loss(positives: Features, is_positive: Tensor, rest: Features, is_negative: Tensor) -> Tensor:
        return info_nce(
            q,
            positives.vectors,
            rest.vectors,
            is_positive=is_positive,
            is_negative=is_negative,
            temperature=temperature,
        )

    literal = denominator == "literal"
    in_drawn = torch.ones_like(is_matching) if literal else ~is_matching
    in_batch = own if literal else own & ~is_local
    rest, is_negative = (local, in_batch) if local_negatives == "batch" else (drawn, in_drawn)
    return loss(local, is_local & own, rest, is_negative) + loss(drawn, matched, drawn, in_drawn)
