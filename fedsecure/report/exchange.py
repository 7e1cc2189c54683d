"""FCL's feature exchange in a report: in which form it was, and what the traffic model of docs/method.md 2.7 says the
whole should have cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fedsecure.config import Framework, Study
from fedsecure.plan import shared_flow, summed
from fedsecure.report.results import Results
from fedsecure.report.sum_bytes import sum_bytes
from fedsecure.report.targets import Bytes, totals
from fedsecure.types import Flow, Schema, schema_size

_FLOAT: Final = 4
_SEALED: Final = 16  # AES-GCM's tag, of one ciphertext whoever reads it
_WRAP: Final = 80  # its key, wrapped for one reader

FORMS: Final[Mapping[str, str]] = {
    "vectors": "one vector a slice with its partition, sealed from site to site, as in the paper",
    "prototypes": "sums over each site's patients for every part of the volume, sealed from site to site",
    "secagg-prototypes": "the sum over all sites' patients for every part of the volume; without secure "
    "aggregation the coordinator adds it up and sees each site's part",
    "none": "no form of it: sites shared model updates alone",
}


def modelled(study: Study, model: Schema) -> tuple[int, int]:
    """Bytes (up, down) of one site over FCL's pre-training: parameters and features, no frames, headers or signatures
    but those of secure sums, of which all sites are.

    A round costs the model up and down, the evaluation round one more download. In every round but the last, what a
    site shares goes up once, with a wrapped key for each other site if it is sealed; in the next, what the others
    shared comes down, or one sum.
    """
    settings, others = study.pretrain, len(study.sites) - 1
    weights = _FLOAT * schema_size(model)
    up, down = settings.rounds * weights, (settings.rounds + 1) * weights
    if study.security.secagg:
        rounds = Counter(summed(study, 0, round_) for round_ in range(settings.rounds))
        sums = [(sum_bytes(study, flows, model), times) for flows, times in rounds.items()]
        up = round(sum(times * (one.vector + one.up) for one, times in sums))
        down += round(sum(times * one.down for one, times in sums))
    cells = settings.partitions * settings.prototypes_per_partition
    prototypes = _FLOAT * cells * study.model.features
    for round_ in range(settings.rounds - 1):
        match shared_flow(study):
            case Flow.FEATURES:
                seen = 2 * settings.batch * settings.local_steps * (round_ + 1)  # two views; the bank fills over rounds
                box = _boxed(min(settings.bank, seen) * (_FLOAT * study.model.features + 1), others)
                up, down = up + box, down + others * box
            case Flow.PROTOTYPES:
                box = _boxed(prototypes, others)
                up, down = up + box, down + others * box
            case Flow.PROTOTYPE_SUM:
                up, down = up + (0 if study.security.secagg else prototypes), down + prototypes
    return up, down


def _boxed(content: int, readers: int) -> int:
    return content + _SEALED + readers * _WRAP


@dataclass(frozen=True, slots=True)
class ExchangeBlock:
    """form: of pretrain.exchange; words: what that is."""

    form: str
    words: str
    bytes: tuple[Bytes, ...]


def exchange_block(results: Results, framework: Framework) -> ExchangeBlock | None:
    """What the report says of FCL's feature exchange; None of any other framework."""
    forms = {s.settings["pretrain"]["exchange"] for s in results.studies if s.framework == framework}
    if framework != "fcl" or not forms:
        return None
    (form,) = forms  # results of several do not merge
    return ExchangeBlock(form, FORMS[form], totals(results, framework))
