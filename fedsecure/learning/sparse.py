"""Seeded-sparse updates: in a round all sites send the same random coordinates, so that their values still add up.

Not yet part of a study: it waits for secure aggregation, whose sum it makes shorter (docs/method.md 4.5). No torch.

- Which coordinates a round has, every node draws for itself: a permutation, drawn anew for every `period` rounds, is
  cut into `period` blocks, one for each of them. So every coordinate is sent once in a period, and none waits longer
  than two periods less a round.
- What a site does not send it keeps and adds to its next update: error feedback (Stich et al., "Sparsified SGD with
  memory", arXiv 1809.07599; Karimireddy et al., arXiv 1901.09847). Each value is sent or kept, never both or rounded.
- The model moves at the round's coordinates alone. So their new values are all that a site needs that has the model of
  the round before: the download is as sparse as the upload.

Vectors are a model's tensors in the order of their names, as in `packing.pack_vector`: [n] float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedsecure.seeds import derive_seed
from fedsecure.types import FloatArray

Places = npt.NDArray[np.int64]


def places_of(seed: int, stage: int, round_: int, size: int, period: int) -> Places:
    """The coordinates of a round, ascending: [k], k = n / period rounded down or up. `seed` is the study's.

    Drawn from PCG64's raw stream, which NumPy keeps the same in all versions, unlike that of its `permutation`. Raises
    ValueError unless 1 <= period <= size and round_ >= 0.
    """
    if not 1 <= period <= size or round_ < 0:
        raise ValueError("a period is 1 to as many rounds as there are coordinates, and rounds count from 0")
    cycle, block = divmod(round_, period)
    draws = np.random.PCG64(derive_seed(seed, "sparse", stage, cycle)).random_raw(size)
    order = np.argsort(draws, kind="stable")
    start, end = size * block // period, size * (block + 1) // period
    places: Places = np.sort(order[start:end])
    return places


def compress(update: FloatArray, memory: FloatArray, places: Places) -> tuple[FloatArray, FloatArray]:
    """What a site sends of its update and of what it has kept, [k], and what it keeps now, [n] with 0 at `places`."""
    carried = memory + update
    kept = carried.copy()
    kept[places] = 0
    return carried[places], kept


def given_back(memory: FloatArray, sent: FloatArray, places: Places) -> FloatArray:
    """What a site keeps if its values did not enter the round's sum: as if it had sent nothing."""
    whole = memory.copy()
    whole[places] = sent
    return whole


def moved(model: FloatArray, mean: FloatArray, places: Places) -> FloatArray:
    """The next model [n], of the sites' mean [k] at `places`. Rounded once, from float64, as in `fedavg.average`."""
    after = model.copy()
    after[places] = (model[places].astype(np.float64) + mean.astype(np.float64)).astype(np.float32)
    return after


def renewed(model: FloatArray, values: FloatArray, places: Places) -> FloatArray:
    """The next model [n] as a site makes it: the last one with the download's new values [k] at `places`."""
    after = model.copy()
    after[places] = values
    return after
