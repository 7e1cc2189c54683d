"""FCLOpt's target network (reconstructed) in a report: how far its prediction was off, what that cost, and what the
traffic model of docs/method.md 4.4 says the whole should have cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from fedsecure.config import Framework, Study
from fedsecure.report.results import ModelledRow, Results, TargetRow
from fedsecure.report.sum_bytes import SumBytes, sum_bytes
from fedsecure.types import Flow, Schema

_FLOAT = 4


def modelled(study: Study, model: Schema, asked: int, corrected: int) -> tuple[int, int]:
    """Bytes (up, down) of one site over FCLOpt's pre-training: parameters alone, no frames, headers or signatures but
    those of secure sums, of which all sites are.

    A round costs E + P up and down, and E more up where targets were asked for and down where one was corrected; the
    evaluation round costs one more download. E: parameters of online encoder and projector, P: of the predictor, both
    out of the schema of a model; what else no target follows, the decoder of a local contrast, counts as P. A naive
    target goes with the model, every time.
    """
    online = sum(spec.size for spec in model if spec.name.startswith(("encoder.", "projector.")))
    predictor = sum(spec.size for spec in model if not spec.name.startswith(("encoder.", "projector.", "target.")))
    settings = study.pretrain
    rounds = settings.rounds
    if settings.target == "naive":
        asked, corrected = rounds, rounds + 1
    scores = rounds - 1 if settings.distance == "r2" else 0
    up = rounds * (online + predictor) + asked * online + scores
    down = (rounds + 1) * (online + predictor) + corrected * online
    if not study.security.secagg:
        return _FLOAT * up, _FLOAT * down
    sums = _sums(study, model, asked)
    more = _FLOAT * scores + sum(one.vector + one.up for one in sums)
    return round(more), _FLOAT * down + round(sum(one.down for one in sums))


def _sums(study: Study, model: Schema, asked: int) -> list[SumBytes]:
    """Of all rounds. Targets asked for with a round are in its sum; those asked for afterwards, a sum of their own."""
    settings, rounds = study.pretrain, study.pretrain.rounds
    if settings.target in ("naive", "local"):
        return [sum_bytes(study, (Flow.WEIGHTS,), model)] * rounds
    target = tuple(spec for spec in model if spec.name.startswith(("encoder.", "projector.")))
    plain = sum_bytes(study, (Flow.WEIGHTS,), model, target)
    if settings.distance == "r2":
        return [plain] * rounds + [sum_bytes(study, (Flow.TARGET,), model, target)] * asked
    both = sum_bytes(study, (Flow.TARGET, Flow.WEIGHTS), model, target)
    return [plain] * (rounds - asked) + [both] * asked


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of one site in pre-training under one seed, mean over sites: by the model and as it was."""

    seed: int
    model_up: int
    model_down: int
    up: float
    down: float


@dataclass(frozen=True, slots=True)
class TargetBlock:
    """rho, sigma: shares of training rounds with target uploads and with a correction, over all seeds."""

    rows: tuple[TargetRow, ...]
    rho: float
    sigma: float
    bytes: tuple[Bytes, ...]


def target_block(results: Results, framework: Framework) -> TargetBlock | None:
    """What the report says of a framework's target network; None if it has none."""
    rows = tuple(row for row in results.targets if row.framework == framework)
    sizes = totals(results, framework)
    if framework != "fclopt" or not sizes:
        return None
    rounds = len(sizes) * results.studies[0].settings["pretrain"]["rounds"]
    return TargetBlock(rows, _share(rows, "asked", rounds), _share(rows, "corrected", rounds), sizes)


def totals(results: Results, framework: Framework) -> tuple[Bytes, ...]:
    """A framework's bytes under each seed, where a traffic model of it was kept."""
    return tuple(_bytes(results, row) for row in results.modelled if row.framework == framework)


def _share(rows: Iterable[TargetRow], what: str, rounds: int) -> float:
    return sum(bool(getattr(row, what)) for row in rows) / rounds


def _bytes(results: Results, row: ModelledRow) -> Bytes:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for sent in results.traffic:
        if (sent.framework, sent.seed, sent.stage) == (row.framework, row.seed, 0):
            sums[sent.direction, sent.node if sent.direction == "up" else sent.peer] += sent.bytes
    up = [size for (direction, _), size in sums.items() if direction == "up"]
    down = [size for (direction, _), size in sums.items() if direction == "down"]
    return Bytes(row.seed, row.up, row.down, fmean(up or [0]), fmean(down or [0]))
