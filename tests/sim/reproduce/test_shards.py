from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from fedsecure.config import parse_study
from fedsecure.errors import SettingsError
from fedsecure.plan import Init, StageKind, schedule
from sim.reproduce.protocols import Protocol, load_protocol
from sim.reproduce.shards import Asked, Expanded, chosen, expand
from sim.reproduce.sources import Described

PROTOCOL = load_protocol()
GROUPS = tuple(group for group in "ABC" for _ in range(12))
DATA = Described("msd", "msd:/one", ("x", "y"), GROUPS, "f" * 64)
HUNDRED = Described("acdc", "acdc:/two", ("x", "y", "z"), ("A",) * 100, "e" * 64)
ASKED = Asked("local", "cpu", DATA)


def digests(expanded: Expanded) -> dict[str, str]:
    return {f"{shard.arm}-{shard.seed}-{shard.fold}": shard.digest for shard in expanded.shards}


def changed(budget: str, **changes: object) -> Protocol:
    other = msgspec.structs.replace(PROTOCOL.budgets[budget], **changes)
    return msgspec.structs.replace(PROTOCOL, budgets={**PROTOCOL.budgets, budget: other})


def test_a_protocols_shards_are_ordered_seed_by_seed_without_a_duplicate() -> None:
    for experiment in ("local", "federated", "traffic", "ablation"):
        for budget in ("smoke", "cpu", "gpu"):
            shards = expand(PROTOCOL, replace(ASKED, experiment=experiment, budget=budget)).shards
            assert len({shard.id for shard in shards}) == len({shard.digest for shard in shards}) == len(shards)
            assert [shard.seed for shard in shards] == sorted(shard.seed for shard in shards)
            assert shards[0].arm == "random"


def test_headline_arms_have_every_seed_and_the_others_the_first_few() -> None:
    shards = expand(PROTOCOL, ASKED).shards
    seeds = {arm: [shard.seed for shard in shards if shard.arm == arm] for arm in ("random", "fcl", "fclopt", "moco")}
    assert seeds == {"random": [20, 21, 22, 23], "fcl": [20, 21, 22, 23], "fclopt": [20, 21, 22, 23], "moco": [20, 21]}


def test_a_digest_is_what_it_was_so_that_shards_of_another_day_are_found() -> None:
    """A change here throws away every finished shard: change the protocol on purpose, and only then these."""
    found = digests(expand(PROTOCOL, ASKED))
    assert found["random-20-None"][:16] == "4cdb3aded9f559fd"
    assert found["fcl-20-None"][:16] == "af4e3f0de0ff0e0b"


def test_local_and_federated_share_all_shards_and_the_random_start_serves_every_experiment() -> None:
    local = expand(PROTOCOL, ASKED)
    assert digests(local) == digests(expand(PROTOCOL, replace(ASKED, experiment="federated")))
    for other in ("traffic", "ablation"):
        found = digests(expand(PROTOCOL, replace(ASKED, experiment=other)))
        assert found["random-20-None"] == digests(local)["random-20-None"]
    assert (
        digests(expand(PROTOCOL, replace(ASKED, experiment="ablation")))["fcl-20-None"] == digests(local)["fcl-20-None"]
    )
    # twice the rounds of half the steps
    assert (
        digests(expand(PROTOCOL, replace(ASKED, experiment="traffic")))["fcl-20-None"] != digests(local)["fcl-20-None"]
    )


def test_a_digest_moves_with_all_that_decides_a_result_and_with_nothing_else() -> None:
    before = digests(expand(PROTOCOL, ASKED))
    study = msgspec.json.decode(msgspec.json.encode(PROTOCOL.budgets["cpu"].study))
    study["finetune"]["steps"] += 1
    others = [
        expand(changed("cpu", study=study), ASKED),
        expand(msgspec.structs.replace(PROTOCOL, edition=PROTOCOL.edition + 1), ASKED),
        expand(PROTOCOL, replace(ASKED, data=replace(DATA, fingerprint="a" * 64))),
        expand(PROTOCOL, replace(ASKED, judged="validation")),
        expand(PROTOCOL, replace(ASKED, device="cuda")),
        expand(PROTOCOL, replace(ASKED, sites=2)),
        expand(PROTOCOL, replace(ASKED, crop=32)),
    ]
    for other in others:
        assert not set(digests(other).values()) & set(before.values())
    assert digests(expand(PROTOCOL, replace(ASKED, data=replace(DATA, address="msd:/elsewhere")))) == before
    assert digests(expand(changed("cpu", about="other words", minutes=1.0), ASKED)) == before


def test_one_arms_settings_change_its_own_shards_alone() -> None:
    arms = tuple(
        msgspec.structs.replace(arm, study={"pretrain": {"bank": 7}}) if arm.name == "moco" else arm
        for arm in PROTOCOL.arms
    )
    before, after = (
        digests(expand(PROTOCOL, ASKED)),
        digests(expand(msgspec.structs.replace(PROTOCOL, arms=arms), ASKED)),
    )
    assert {name for name in before if before[name] != after[name]} == {"moco-20-None", "moco-21-None"}


def test_all_arms_of_a_seed_differ_in_nothing_but_their_method() -> None:
    for shard in expand(PROTOCOL, ASKED).shards:
        first = next(
            other for other in expand(PROTOCOL, ASKED).shards if other.seed == shard.seed and other.arm == "fcl"
        )
        assert shard.legs[0].world == first.legs[0].world
        own, other = dict(shard.legs[0].study), dict(first.legs[0].study)
        for study in (own, other):
            for name in ("framework", "start", "pretrain"):
                study.pop(name, None)
        assert own == other


def test_sites_are_the_groups_that_a_source_names_else_the_budgets_number() -> None:
    assert (expand(PROTOCOL, ASKED).world.sites, expand(PROTOCOL, ASKED).world.scheme) == (3, "group")
    none = replace(DATA, groups=(None,) * 36)
    assert (
        expand(PROTOCOL, replace(ASKED, data=none)).world.sites,
        expand(PROTOCOL, replace(ASKED, data=none)).world.scheme,
    ) == (5, "random")
    assert expand(PROTOCOL, replace(ASKED, sites=2, scheme="random")).world.sites == 2
    assert replace(DATA, groups=("A", "A", "B")).natural_sites is None  # one patient is no hospital
    assert replace(DATA, groups=("A",) * 9).natural_sites is None


def test_the_sources_structures_stand_in_every_study_and_only_a_known_source_brings_a_crop() -> None:
    for data, structures, crop in ((DATA, ("x", "y"), None), (HUNDRED, ("x", "y", "z"), 160)):
        found = parse_study(expand(PROTOCOL, replace(ASKED, data=data)).shards[0].legs[0].study).data
        assert (found.structures, found.crop) == (structures, crop)
    flag = parse_study(expand(PROTOCOL, replace(ASKED, data=HUNDRED, crop=96)).shards[0].legs[0].study).data
    assert flag.crop == 96


def test_the_papers_protocol_has_ten_sites_of_ten_patients_and_five_folds() -> None:
    expanded = expand(PROTOCOL, replace(ASKED, budget="paper", data=HUNDRED))
    assert (expanded.world.sites, expanded.world.scheme, expanded.labelled) == (10, "random", (1, 2, 4, 8))
    assert [shard.fold for shard in expanded.shards if shard.arm == "fcl"] == [0, 1, 2, 3, 4]
    assert parse_study(expanded.shards[-1].legs[0].study).data.fold == (4, 5)
    with pytest.raises(SettingsError, match="10 sites of 10 patients, and the source has 36 in all"):
        expand(PROTOCOL, replace(ASKED, budget="paper"))


def test_validation_keeps_to_one_fold_and_to_studies_that_never_score_a_held_out_patient() -> None:
    shards = expand(PROTOCOL, replace(ASKED, budget="paper", data=HUNDRED, judged="validation")).shards
    assert {shard.fold for shard in shards} == {0}
    assert {parse_study(shard.legs[0].study).data.judged for shard in shards} == {"validation"}


def test_more_labelled_patients_than_a_site_trains_on_are_left_out_and_said() -> None:
    small = replace(DATA, groups=tuple(group for group in "ABC" for _ in range(4)))  # 3 train, 1 is held out
    expanded = expand(PROTOCOL, replace(ASKED, data=small))
    assert expanded.labelled == (1,)
    assert expanded.left_out == ("N = 4: the smallest site has fewer patients to train on",)
    for shard in expanded.shards:
        assert parse_study(shard.legs[0].study).finetune.labelled == (1,)


def test_an_arm_that_takes_more_sites_than_there_are_is_left_out_and_said() -> None:
    traffic = replace(ASKED, experiment="traffic")
    three, five = expand(PROTOCOL, traffic), expand(PROTOCOL, replace(traffic, sites=5, scheme="random"))
    (missing,) = three.left_out
    assert missing.endswith("16-bit secure sums: it takes 5 sites")
    assert {arm.name for arm in five.arms} - {arm.name for arm in three.arms} == {"fclopt-sparse"}
    assert five.left_out == ()
    (sparse, *_) = (shard for shard in five.shards if shard.arm == "fclopt-sparse")
    study = parse_study(sparse.legs[0].study)
    assert (study.sparse.period, study.security.secagg, study.security.ring) == (8, True, 16)


def test_a_transfer_pre_trains_on_one_source_and_only_fine_tunes_on_the_other() -> None:
    asked = replace(ASKED, experiment="transfer", target=replace(HUNDRED, kind="hvsmr", groups=(None,) * 10))
    for shard in expand(PROTOCOL, asked).shards:
        last = parse_study(shard.legs[-1].study)
        assert (shard.legs[-1].world.source, shard.legs[-1].world.sites) == ("acdc:/two", 1)
        assert last.data.structures == ("x", "y", "z")
        if shard.arm == "random":
            assert len(shard.legs) == 1
            assert {stage.init for stage in schedule(last)} == {Init.RANDOM}
            continue
        first = parse_study(shard.legs[0].study)
        assert (shard.legs[0].world.source, shard.legs[0].world.sites) == ("msd:/one", 3)
        assert [stage.kind for stage in schedule(first)] == [StageKind.PRETRAIN]
        assert {(stage.kind, stage.init) for stage in schedule(last)} == {(StageKind.LOCAL, Init.PRETRAINED)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experiment": "nonsense"}, "no such experiment"),
        ({"budget": "huge"}, "no such budget"),
        ({"experiment": "transfer"}, "needs --target-data"),
        ({"target": HUNDRED}, "needs --target-data"),
        ({"frameworks": frozenset({"fclopt-naive"})}, "fclopt-naive is no arm of this experiment"),
        ({"sites": 40}, "36 patients cannot make 40 sites"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(changes: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        expand(PROTOCOL, replace(ASKED, **changes))  # type: ignore[arg-type]


def test_a_subset_of_methods_keeps_the_random_start_and_its_digests() -> None:
    some = expand(PROTOCOL, replace(ASKED, frameworks=frozenset({"fcl"})))
    assert {shard.arm for shard in some.shards} == {"random", "fcl"}
    assert digests(some).items() <= digests(expand(PROTOCOL, ASKED)).items()


def test_shards_are_chosen_by_pattern_and_a_pattern_without_a_shard_is_an_error() -> None:
    shards = expand(PROTOCOL, ASKED).shards
    assert {shard.arm for shard in chosen(shards, ("fcl-s*", "moco-*"))} == {"fcl", "moco"}
    assert chosen(shards, ()) == shards
    with pytest.raises(SettingsError, match="no shard is called resnet"):
        chosen(shards, ("fcl-*", "resnet-*"))
