"""Whether what a study releases is a sum over patients of terms that clipping bounds by C each (architecture 4 a).

It is one only where each patient's gradient follows from that patient and from what was released, and where one clipped
sum of such gradients leaves before the next one is taken. Then a patient who is zeroed out takes one term away. Where a
loss looks at several patients, where a site keeps a network of its own between rounds, or takes several steps before
anything is noised, a patient moves the others' terms too, and nothing bounds by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedsecure.config import Framework, Study
from fedsecure.plan import StageKind, schedule

# Every framework that releases no sum over patients whatever its settings, with why. Those that are not here can: FCL
# in its separable form, and the two whose target is the slice itself.
_MIXES: Final[Mapping[Framework, str]] = {
    "fclopt": "its targets are centred on the mean of a batch, and a second network moves with the first",
    "simclr": "its negatives are the other patients of a batch",
    "swav": "its codes are balanced over a batch",
    "fedca": "its negatives are the other patients of a batch",
    "moco": "its queue holds other patients, unreleased",
    "byol": "its second network is sent, too, and moves with the first",
    "fedema": "a site keeps its own model between rounds",
    "local": "a site trains for the whole study before it sends anything",
}


def mixings(study: Study) -> tuple[str, ...]:
    """What a study would have to change for its releases to be sums over patients, each with why. Empty if they are."""
    kinds = {stage.kind for stage in schedule(study) if stage.rounds}
    found = _pretraining(study) if StageKind.PRETRAIN in kinds else ()
    if StageKind.FEDERATED in kinds:
        found += ('finetune.modes = ["local"] (several steps a round, and a Dice over the whole batch)',)
    if study.framework == "local" and StageKind.FEDERATED in kinds:
        found += (f"another framework ({_MIXES['local']})",)
    if study.sparse.period > 1:
        found += ("sparse.period = 1 (what a site keeps for later rounds adds up a patient's parts of several)",)
    return found


def _pretraining(study: Study) -> tuple[str, ...]:
    asked, found = study.pretrain, []
    if asked.local_steps > 1:
        found.append("local_steps = 1 (each further step without noise moves all later gradients)")
    match study.framework:
        case "rotation" | "mae":
            pass
        case "fcl":
            if asked.loss != "separable":
                found.append('loss = "separable" (a batch has all patients in every denominator)')
            if asked.momentum_start != "reset":
                found.append('momentum_start = "reset" (a momentum encoder kept on the site was never released)')
        case framework:
            found.append(f"another framework ({_MIXES[framework]})")
    return tuple(found)
