"""What a site finds out about itself before a study."""

from __future__ import annotations

import json
from pathlib import Path

from fedsecure.agreement import Category
from fedsecure.config import Site, load, parse_study
from fedsecure.node.checks import UNSAID, categories
from fedsecure.node.workbench import load_cohort
from sim.world import World, build, site_folder


def test_categories_are_of_every_label_value_that_a_cohort_has(tmp_path: Path) -> None:
    world = World(source=None, sites=1, scheme="random", phantom_patients=3, phantom_size=48)
    alone = parse_study({"data": {"size": 32}, "security": {"secagg": False}})
    study = build(world, alone, tmp_path / "run", tmp_path / "cache", lambda _: None)
    folder = site_folder(tmp_path / "run", "site-1")
    site = load(Site, (folder / "site.json").read_bytes())
    cohort = load_cohort(folder, study, site)
    named, seen = json.loads(categories(site, "MR", cohort)[Category.LABELS])
    labels = [volume.label for subject in cohort.train for volume in subject.volumes if volume.label is not None]
    assert seen == sorted({int(value) for label in labels for value in label.flat}) == [0, 1, 2, 3]
    assert named == list(study.data.structures)
    assert categories(site, None, cohort)[Category.MODALITY] == UNSAID
