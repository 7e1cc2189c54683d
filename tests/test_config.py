"""Studies: what is refused and how it is said, and that the digest binds everything."""

from __future__ import annotations

from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fedsecure.config import OWN_SETTINGS, Member, Run, Site, Study, dump, load, load_study, parse_study, with_cohort
from fedsecure.errors import SettingsError
from fedsecure.plan import (
    Init,
    StageKind,
    frame_limit,
    has_target,
    makes_target,
    offered,
    opens_with_sum,
    owed,
    relays_boxes,
    schedule,
)
from fedsecure.seeds import derive_seed
from fedsecure.types import Flow

SITES = [{"name": "a", "weight": 3}, {"name": "b", "weight": 1}]
PAIR = {"sites": SITES, "security": {"secagg": False}}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"nonsense": 1}, "nonsense"),
        ({"framework": "fedavg"}, "framework"),
        ({"pretrain": {"temperature": 0}}, "pretrain.temperature"),
        ({"pretrain": {"momentum": 1.0}}, "pretrain.momentum"),
        ({"pretrain": {"rounds": "10"}}, "pretrain.rounds"),
        ({"model": {"norm": "batch"}}, "model.norm"),
        ({"data": {"size": 50}}, "data.size"),
        ({"data": {"fold": [5, 5]}}, "fold"),
        ({"data": {"fold": [0, 1]}}, "fold"),
        ({"data": {"judged": "training"}}, "data.judged"),
        ({"start": "encoder"}, "encoder"),
        ({"encoder": "0" * 64}, "encoder"),
        ({"start": "encoder", "encoder": "path/to/file"}, "encoder"),
        ({"sites": [{"name": "Hospital A", "weight": 1}]}, "sites.0.name"),
        ({"sites": [SITES[0], SITES[0]]}, "a name stands twice"),
        ({**PAIR, "minimum_sites": 3}, "no round could close"),
        ({"finetune": {"labelled": [1, 1]}}, "a number stands twice"),
        ({"swav": {"prototypes": 8}}, r'\[swav\] is for framework = "swav" alone, and this study\'s is "fcl"'),
        ({"framework": "byol", "fedema": {"scaler": 0.5}}, r'\[fedema\] is for .* this study\'s is "byol"'),
        ({"framework": "mae", "mae": {"patch": 12}}, r"mae\.patch"),
        ({"pretrain": {"loss": "separable", "dense": {"weight": 1, "negatives": "batch"}}}, 'negatives = "slice"'),
        ({"privacy": {"enabled": True, "epsilon": 8.0}, "model": {"precision": "bfloat16"}}, 'precision = "float32"'),
        ({"pretrain": {"dense": {"apart": 0}}}, r"pretrain\.dense\.apart"),
        ({"finetune": {"consistency": {"threshold": 1.0}}}, r"finetune\.consistency\.threshold"),
    ],
)
def test_a_study_that_does_not_hold_is_refused_with_the_field(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_study(raw)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read the study file none\.toml"):
        load_study(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 1")
    with pytest.raises(SettingsError, match="not TOML"):
        load_study(broken)


def test_a_study_file_is_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('framework = "fclopt"\n[finetune]\nlabelled = [2]\n[data]\nstructures = ["liver"]\n')
    study = load_study(path)
    assert (study.framework, study.finetune.labelled, study.data.structures) == ("fclopt", (2,), ("liver",))


@pytest.mark.parametrize("model", [parse_study(PAIR), Site(name="a", source="acdc:x"), Run(cache="x")])
def test_models_survive_their_file(model: BaseModel) -> None:
    assert load(type(model), dump(model)) == model


def leaves(model: BaseModel, prefix: str = "") -> list[str]:
    """Every setting of a model by its dotted name."""
    found = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [f"{prefix}{name}"]
    return found


OTHER: dict[str, Any] = {
    "format": None, "name": "other", "seed": 1, "framework": "fclopt", "sites": SITES, "threads": 2, "neighbours": 3,
    "baseline": False, "release_metrics": True, "round_deadline_s": 9.0, "minimum_sites": 2,
    "join_deadline_s": 9.0, "evaluation_deadline_s": 9.0,
    "data.structures": ["x"], "data.orientation": "LPS", "data.spacing_mm": [1.0, 1.0], "data.crop": 32,
    "data.size": 32, "data.held_out": 0.5, "data.on_error": "exclude", "model.norm": "group",
    "model.precision": "bfloat16",
    "pretrain.batches": "uniform", "pretrain.momentum_start": "reset", "pretrain.denominator": "literal",
    "pretrain.exchange": "none", "pretrain.target": "copy", "pretrain.distance": "r2", "mae.patch": 16,
    "pretrain.draw": "stratified", "pretrain.remote_only": True, "pretrain.loss": "separable",
    "pretrain.views": "strong",
    "pretrain.local_negatives": "bank", "pretrain.positives": "view", "finetune.labelled": [3],
    "finetune.modes": ["local"], "data.fold": [0, 5], "data.split_seed": 5, "data.judged": "validation",
    "start": "random", "encoder": "1" * 64,
    "pretrain.dense.weight": 1.0, "pretrain.dense.negatives": "batch", "mae.keep_decoder": True,
    "finetune.consistency.weight": 1.0, "finetune.consistency.teacher": 0.9, "finetune.consistency.dropped": 0.2,
    "privacy.epsilon": 2.0, "privacy.delta": 1e-7, "privacy.noise_multiplier": 3.0, "privacy.sampling": 0.5,
    "privacy.contribution": "site-update", "privacy.least_survivors": 1, "privacy.colluders": 0,
    "security.ring": 32,
}  # fmt: skip
FIXED = {
    "format",
    "privacy.unit",
    "privacy.enabled",
    "security.secagg",
}  # one value each, or none that could be changed alone


@pytest.mark.parametrize("name", [leaf for leaf in leaves(Study()) if leaf not in FIXED])
def test_every_setting_is_in_the_digest(name: str) -> None:
    base: dict[str, Any] = {**PAIR, "sites": [{"name": "z", "weight": 1}, {"name": "y", "weight": 1}]}
    if name == "sites":
        del base["sites"]
    if name == "join_deadline_s":
        base["round_deadline_s"] = 9.0
    if name == "encoder":
        base |= {"start": "encoder", "encoder": "0" * 64}
    *rooms, leaf = name.split(".")
    if rooms and rooms[0] in OWN_SETTINGS:
        base["framework"] = rooms[0]
    if rooms == ["privacy"]:
        base["privacy"] = {"enabled": True, "epsilon": 8.0, "contribution": "patient-sum"}
    current: Any = parse_study(base)
    for part in name.split("."):
        current = getattr(current, part)
    if name in OTHER:
        other = OTHER[name]
    else:
        other = current * 2 if isinstance(current, int) and not isinstance(current, bool) else current / 2
    changed = deepcopy(base)
    where = changed
    for room in rooms:
        where = where.setdefault(room, {})
    where[leaf] = other
    assert parse_study(changed).digest() != parse_study(base).digest()


@pytest.mark.parametrize(
    ("pretrain", "reason"),
    [
        ({"target": "naive"}, 'target = "naive" predicts none: write distance = "none"'),
        ({"target": "local", "distance": "r2"}, 'target = "local" predicts none'),
        ({"target": "extrapolate", "distance": "r2"}, "does not look at"),
        ({"target": "momentum"}, "pretrain.target"),
        ({"threshold": -0.1}, "pretrain.threshold"),
        ({"refresh": 0}, "pretrain.refresh"),
    ],
)
def test_what_a_target_cannot_be_combined_with_is_refused(pretrain: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        parse_study({"framework": "fclopt", "pretrain": pretrain})


def test_sparse_updates_do_not_go_with_a_predicted_target() -> None:
    with pytest.raises(SettingsError, match=r'write pretrain\.target = "naive"'):
        parse_study({"framework": "fclopt", "sparse": {"period": 2}})
    naive = {"target": "naive", "distance": "none"}
    assert parse_study({"framework": "fclopt", "sparse": {"period": 2}, "pretrain": naive}).sparse.period == 2
    assert parse_study({"framework": "fclopt", "sparse": {"period": 2}, "start": "random"}).sparse.period == 2


@pytest.mark.parametrize(
    ("settings", "at_once", "with_targets"),
    [
        ({"target": "ptnu", "distance": "r1"}, set(), {Flow.TARGET}),
        ({"target": "copy", "distance": "r2"}, {Flow.DISTANCE}, {Flow.TARGET, Flow.DISTANCE}),
        ({"target": "naive", "distance": "none"}, set(), set()),
        ({"target": "local", "distance": "none"}, set(), set()),
    ],
)
def test_flows_of_a_target(settings: dict[str, Any], at_once: set[Flow], with_targets: set[Flow]) -> None:
    clear = {"secagg": False}
    study = parse_study({"framework": "fclopt", "pretrain": {"rounds": 3, **settings}, "security": clear})
    assert owed(study, 0, 0) == offered(study, 0, 0) == {Flow.WEIGHTS, *at_once}
    assert owed(study, 0, 1, True) == offered(study, 0, 1, True) == {Flow.WEIGHTS, *with_targets}
    assert owed(study, 0, 2, True) == {Flow.WEIGHTS}  # nobody would train with the target of the last round
    predicted = bool(with_targets)
    assert [has_target(study, 0, round_) for round_ in range(4)] == [predicted, predicted, predicted, False]
    assert [makes_target(study, 0, round_) for round_ in range(4)] == [predicted, predicted, False, False]
    other = parse_study({"framework": "fcl", "pretrain": {"rounds": 3, **settings}})
    assert not has_target(other, 0, 0)
    assert not has_target(study, len(schedule(study)) - 1, 0)


def test_seeds_are_bound_to_every_label_and_to_their_borders() -> None:
    seeds = {
        derive_seed(0, "ab", "c"), derive_seed(0, "a", "bc"), derive_seed(1, "ab", "c"), derive_seed(0, "abc"),
        derive_seed(0, "ab", "c", ""), derive_seed(0),
    }  # fmt: skip
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "round", 1) == derive_seed(0, "round", "1")


def test_the_schedule_pairs_every_start_and_ends_each_stage_with_an_evaluation() -> None:
    stages = schedule(parse_study({"finetune": {"labelled": [1, 4], "rounds": 3}}))
    assert stages[0].kind is StageKind.PRETRAIN
    assert [(stage.kind, stage.labelled, stage.init, stage.rounds) for stage in stages[1:]] == [
        (kind, labelled, init, rounds)
        for kind, rounds in ((StageKind.LOCAL, 0), (StageKind.FEDERATED, 3))
        for labelled in (1, 4)
        for init in (Init.RANDOM, Init.PRETRAINED)
    ]
    alone = schedule(parse_study({"baseline": False}))
    assert all(stage.init is Init.PRETRAINED for stage in alone[1:])


@pytest.mark.parametrize(
    ("settings", "training", "evaluation"),
    [
        ({}, {Flow.WEIGHTS, Flow.FEATURES}, set()),
        ({"pretrain": {"exchange": "none"}}, {Flow.WEIGHTS}, set()),
        ({"framework": "fclopt"}, {Flow.WEIGHTS}, set()),
        ({"pretrain": {"exchange": "prototypes"}}, {Flow.WEIGHTS, Flow.PROTOTYPES}, set()),
        ({"pretrain": {"exchange": "secagg-prototypes"}}, {Flow.WEIGHTS, Flow.PROTOTYPE_SUM}, set()),
        ({"framework": "moco", "pretrain": {"exchange": "prototypes"}}, {Flow.WEIGHTS}, set()),
        ({"sites": SITES[:1], "pretrain": {"exchange": "secagg-prototypes"}}, {Flow.WEIGHTS}, set()),
        ({"framework": "fedca"}, {Flow.WEIGHTS, Flow.FEATURES}, set()),
        ({"framework": "moco"}, {Flow.WEIGHTS}, set()),
        ({"framework": "fclopt", "release_metrics": True}, {Flow.WEIGHTS}, {Flow.METRICS}),
        ({"pretrain": {"rounds": 1}}, {Flow.WEIGHTS}, set()),  # nobody would train with the features of the last round
        ({"sites": SITES[:1]}, {Flow.WEIGHTS}, set()),
    ],
)
def test_what_a_round_owes(settings: dict[str, Any], training: set[Flow], evaluation: set[Flow]) -> None:
    study = parse_study({**PAIR, **settings})
    last = study.pretrain.rounds
    assert owed(study, 0, 0) == offered(study, 0, 0) == training
    assert owed(study, 0, last - 1) == {Flow.WEIGHTS}
    assert owed(study, 0, last) == set()  # a site may have had nothing to measure
    assert offered(study, 0, last) == offered(study, 1, 0) == evaluation  # a local stage has no training round
    assert owed(study, len(schedule(study)) - 1, 0) == {Flow.WEIGHTS}


@pytest.mark.parametrize(("exchange", "boxes"), [("vectors", True), ("prototypes", True), ("secagg-prototypes", False)])
def test_what_a_round_opens_with(exchange: str, boxes: bool) -> None:
    """Boxes or the sum, in every training round of pre-training but the first, and in no other."""
    study = parse_study({**PAIR, "pretrain": {"rounds": 3, "exchange": exchange}})
    assert relays_boxes(study) is boxes
    with_sum = [(stage, r) for stage in (0, 3, 4) for r in range(4) if opens_with_sum(study, stage, r)]
    assert with_sum == ([] if boxes else [(0, 1), (0, 2)])


@pytest.mark.parametrize("exchange", ["prototypes", "secagg-prototypes"])
def test_fedca_which_knows_no_partition_exchanges_no_prototypes(exchange: str) -> None:
    with pytest.raises(SettingsError, match='which framework = "fedca" does not look at'):
        parse_study({"framework": "fedca", "pretrain": {"exchange": exchange}})


def test_pre_training_alone_is_one_evaluation_and_owes_nothing() -> None:
    study = parse_study({**PAIR, "framework": "local"})
    assert schedule(study)[0].rounds == 0
    assert owed(study, 0, 0) == offered(study, 0, 0) == set()
    assert schedule(study)[1:] == schedule(parse_study(PAIR))[1:]


@pytest.mark.parametrize(
    ("framework", "model"),
    [
        # the other frameworks publish what one of these does
        *product(["fcl", "fclopt", "swav", "mae", "dense"], [{}, {"filters": 4, "hidden": 8, "features": 8}]),
        *product(["fcl", "fclopt", "swav", "mae"], [{"filters": 48, "hidden": 512, "features": 256}]),
    ],
)
def test_no_frame_of_a_study_is_over_its_limit_and_the_limit_is_near(framework: str, model: dict[str, Any]) -> None:
    from fedsecure.learning.dispatch import initial_model
    from fedsecure.packing import pack_model

    naive = {"target": "naive", "distance": "none"}
    largest = {
        "swav": {"swav": {"prototypes": 512}},
        "fclopt": {"pretrain": naive},
        "dense": {"framework": "fclopt", "pretrain": {**naive, "dense": {"weight": 1.0}}},
    }
    own = {"framework": framework, **largest.get(framework, {})}
    study = parse_study({**PAIR, "model": model, "baseline": False, **own})
    encoder = {
        n.removeprefix("encoder."): a for n, a in initial_model(study, 0, None).items() if n.startswith("encoder.")
    }
    sizes = [len(pack_model(initial_model(study, stage, encoder))) for stage in (0, 1)]
    bank = study.pretrain.bank * (4 * study.model.features + 1)
    cells = study.pretrain.partitions * study.pretrain.prototypes_per_partition
    sizes[0] += 4 * cells * study.model.features  # of what the round before summed
    assert max(*sizes, bank) + 1000 + 200 * len(SITES) < frame_limit(study) < 6 * max(sizes) + (1 << 20)


@pytest.mark.parametrize("framework", ["fcl", "local"])
def test_without_pre_training_here_there_are_only_the_stages_of_one_start(framework: str) -> None:
    for start, init in (("random", Init.RANDOM), ("encoder", Init.PRETRAINED)):
        raw = {"framework": framework, "start": start, "baseline": False, **PAIR}
        study = parse_study({**raw, "encoder": "0" * 64} if start == "encoder" else raw)
        assert {stage.init for stage in schedule(study)} == {init}
        assert StageKind.PRETRAIN not in {stage.kind for stage in schedule(study)}
        assert all(
            owed(study, number, 0) == ({Flow.WEIGHTS} if stage.rounds else set())
            for number, stage in enumerate(schedule(study))
        )


def test_patients_are_split_by_the_studys_seed_unless_one_is_set_for_that() -> None:
    assert parse_study({"seed": 3}).split_seed == 3
    assert parse_study({"seed": 3, "data": {"split_seed": 7}}).split_seed == 7


def test_updates_are_summed_securely_unless_a_study_says_otherwise() -> None:
    sites = [{"name": f"s{number}", "weight": 1} for number in range(5)]
    plain, secure = (parse_study({"sites": sites, "security": {"secagg": on}}) for on in (False, True))
    assert plain.digest() != secure.digest() == parse_study({"sites": sites}).digest()
    assert parse_study({}).security.secagg
    assert owed(parse_study({"sites": sites}), 0, 0) == {Flow.FEATURES}


@pytest.mark.parametrize("few", range(1, 5))
def test_with_fewer_than_five_sites_a_study_says_false_itself(few: int) -> None:
    """Also where its cohort is written in later. The error says both ways out."""
    sites = [{"name": f"s{number}", "weight": 1} for number in range(few)]
    both = r"have 5 sites or more, or write secagg = false under \[security\]"
    for security in ({}, {"security": {"ring": 20}}, {"security": {"secagg": True}}):
        with pytest.raises(SettingsError, match=both):
            parse_study({"sites": sites, **security})
    members = tuple(Member(name=f"s{number}", weight=1) for number in range(few))
    with pytest.raises(SettingsError, match=both):
        with_cohort(parse_study({}), members)
    clear = parse_study({"security": {"secagg": False}, "seed": 7})
    assert with_cohort(clear, members) == parse_study({"sites": sites, "security": {"secagg": False}, "seed": 7})
