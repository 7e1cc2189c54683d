"""A site's content tests as its gate has them: made by a child process from the site's own source, never on disk."""

from __future__ import annotations

import numpy as np
import pytest

from fedsecure.config import Site, load
from fedsecure.errors import GateRefused
from fedsecure.node.tapping import inline_tap, packed, process_tap, reference_of, unpacked
from fedsecure.node.workbench import load_cohort
from fedsecure.types import Flow, Update
from sim.world import site_folder

from .conftest import LayOut


def test_the_child_process_knows_the_cohort_and_held_out_patients_too(lay_out_world: LayOut) -> None:
    run, study = lay_out_world()
    folder = site_folder(run, study.sites[0].name)
    cohort = load_cohort(folder, study, load(Site, (folder / "site.json").read_bytes()))
    before = {path.name for path in folder.iterdir()}
    inspect = process_tap(folder, study)
    clean = np.random.default_rng(0).standard_normal(5_000).astype(np.float32)
    inspect(Update(Flow.WEIGHTS, {"a": clean}))
    assert {path.name for path in folder.iterdir()} == before
    with pytest.raises(GateRefused, match="as they are"):
        inspect(Update(Flow.WEIGHTS, {"a": cohort.held_out[0].volumes[0].image}))


def test_an_index_comes_whole_through_a_pipe(lay_out_world: LayOut) -> None:
    run, study = lay_out_world()
    known = reference_of(site_folder(run, study.sites[0].name))
    again = unpacked(packed(known))
    for name in ("prepared", "native"):
        ours, theirs = getattr(known, name), getattr(again, name)
        assert ours.threshold == theirs.threshold
        assert len(ours.keys)
        assert np.array_equal(ours.keys, theirs.keys)
        assert np.array_equal(ours.windows, theirs.windows)
    assert np.array_equal(known.gallery.slices, again.gallery.slices)


@pytest.mark.parametrize("make", [inline_tap, process_tap])
def test_without_an_index_nothing_leaves(lay_out_world: LayOut, make: object) -> None:
    run, study = lay_out_world()
    folder = site_folder(run, study.sites[0].name)
    site = load(Site, (folder / "site.json").read_bytes())
    (folder / "site.json").write_text(site.model_copy(update={"source": "folder:/nowhere"}).model_dump_json())
    with pytest.raises(GateRefused, match="content tests") as refused:
        make(folder, study)(Update(Flow.WEIGHTS, {"a": np.zeros(3, np.float32)}))  # type: ignore[operator]
    assert "nowhere" not in str(refused.value)
