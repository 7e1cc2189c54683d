"""Seeded-sparse updates: in a round all sites send the same random coordinates, so that their values still add up.

- Which coordinates a round has, every node draws for itself: a permutation, drawn anew for every `period` rounds, is
  cut into `period` blocks, one for each of them. So every coordinate is sent once in a period, and none waits longer
  than two periods less a round.
- What a site does not send it keeps and adds to its next update: error feedback (Stich et al., "Sparsified SGD with
  memory", arXiv 1809.07599; Karimireddy et al., arXiv 1901.09847). Each value is sent or kept, never both or rounded.
- The model moves at the round's coordinates alone. So their new values are all that a site needs that has the model of
  the round before: the download is as sparse as the upload.

Vectors are a model's tensors in the order of their names, as in `packing.pack_vector`: [n] float32. No torch: the
coordinator has none.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from fedsecure.config import Study
from fedsecure.packing import pack_vector, unpack_vector
from fedsecure.seeds import derive_seed
from fedsecure.types import FloatArray, Schema, State, Tensors, TensorSpec, schema_of, schema_size

Places = npt.NDArray[np.int64]

VALUES: Final = "values"  # the one tensor of a sparse update
MEMORY: Final = "sparse.memory"  # among a site's private state: what it has not sent yet


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
    chosen: Places = np.sort(order[start:end])
    return chosen


def compress(update: FloatArray, memory: FloatArray, where: Places) -> tuple[FloatArray, FloatArray]:
    """What a site sends of its update and of what it has kept, [k], and what it keeps now, [n], 0 where it sends."""
    carried = memory + update
    kept = carried.copy()
    kept[where] = 0
    return carried[where], kept


def sent_schema(study: Study, stage: int, round_: int, model: Schema) -> Schema:
    """Names and shapes of the WEIGHTS that leave a site in a training round, for the schema of its model."""
    if study.sparse.period == 1:
        return model
    return (TensorSpec(VALUES, places(study, stage, round_, model).shape),)


def places(study: Study, stage: int, round_: int, model: Schema) -> Places:
    """`places_of` a study's round. Raises ValueError for a model of fewer values than the period."""
    return places_of(study.seed, stage, round_, schema_size(model), study.sparse.period)


def part_of(model: Tensors, where: Places) -> Tensors:
    """A model's values at these coordinates, under the name that a sparse update has."""
    return {VALUES: flat(model)[where]}


def renewed(model: Tensors, values: FloatArray, where: Places) -> Tensors:
    """The model with these values [k] at these coordinates; names ascending."""
    after = flat(model)
    after[where] = values
    return unpack_vector(after.tobytes(), schema_of({name: model[name] for name in sorted(model)}))


def flat(tensors: State) -> FloatArray:
    """[n], a copy."""
    return np.frombuffer(pack_vector(tensors), "<f4").astype(np.float32)
