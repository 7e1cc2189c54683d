"""Who could learn what: the table follows the setting and the run, and README's is the same one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedsecure.config import Study, parse_study
from fedsecure.report.exposure import exposure, terms

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def study(sites: int = 5, secagg: bool = True, **settings: Any) -> Study:
    members = [{"name": f"s{number}", "weight": 3} for number in range(sites)]
    return parse_study({"sites": members, "security": {"secagg": secagg}, **settings})


def table(of: Study, *rounds: int) -> dict[str, str]:
    return {line.who: line.learns for line in exposure(of, rounds)}


def test_the_table_of_the_readme_is_that_of_five_sites() -> None:
    """In both columns, row by row; a row that one of them has not is a dash there."""
    (block,) = re.findall(
        r"^\| who \| `secagg = false` \| `secagg = true` \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", README, re.M
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    off, on = table(study(secagg=False)), table(study())
    assert [row[0] for row in rows] == list(on)
    assert {who: cell for who, cell, _ in rows} == {who: off.get(who, "-") for who in on}
    assert {who: cell for who, _, cell in rows} == on


def test_dropouts_of_the_run_are_in_it() -> None:
    before, after = table(study(6)), table(study(6), 6, 5, 6, 4)
    assert "at least 4 of 6 sites (in this run 4 to 6)" in after["the coordinator"]
    assert "in this run" not in before["the coordinator"]
    assert "the sum over the others, at least 3 sites" in after["another site"]
    assert "at least 5 sites" in table(study(6), 6, 6)["another site"]
    assert "over the other survivors, at least 3 sites" in after["1 site and the coordinator"]


@pytest.mark.parametrize(("sites", "t", "c"), [(5, 4, 1), (10, 6, 1), (11, 7, 2), (100, 60, 19)])
def test_numbers_are_those_of_the_protocol(sites: int, t: int, c: int) -> None:
    found = table(study(sites))
    assert f"at least {t} of {sites} sites" in found["the coordinator"]
    assert f"at least {t - c} sites" in found[f"{c} {'site' if c == 1 else 'sites'} and the coordinator"]
    assert f"{t} sites and the coordinator" in found
    assert f"n = {sites} sites, of which c = {c}" in terms(study(sites))
    assert f"t = {t} sites close a sum. Complete graph of {sites} sites" in terms(study(sites))


def test_above_100_sites_the_graph_is_random_and_its_chance_is_said() -> None:
    found = table(study(200))
    assert "2^-40" in found["39 sites and the coordinator"]
    assert "90 neighbours of a site and the coordinator" in found
    assert "98 neighbours each of 200 sites" in terms(study(200))


def test_of_two_sites_one_reads_the_other_and_the_coordinator_both() -> None:
    found = table(study(2, secagg=False))
    assert "the update of the other one" in found["another site"]
    assert found["the coordinator"] == "each site's updates in each round"
    assert "secure aggregation off" in terms(study(2, secagg=False))
    late = study(4, secagg=False, round_deadline_s=9.0, minimum_sites=2)
    assert "the update of the other one" in table(late)["another site"]


@pytest.mark.parametrize(
    ("settings", "coordinator", "site"),
    [
        ({"pretrain": {"exchange": "vectors"}}, "the sum of updates over", "each other site's feature vectors"),
        ({"pretrain": {"exchange": "prototypes"}}, "the sum of updates over", "each other site's sums of features"),
        (
            {"pretrain": {"exchange": "secagg-prototypes"}},
            "the sum of updates and sums of features over",
            "the sum of features over all sites",
        ),
        ({"framework": "fclopt", "pretrain": {"distance": "r2"}}, "each site's distance from the predicted target", ""),
        ({"framework": "fclopt"}, "the sum of updates and target networks over", ""),
        ({"release_metrics": True}, "each site's mean scores", ""),
    ],
)
def test_what_goes_beside_a_sum_is_in_it(settings: dict[str, Any], coordinator: str, site: str) -> None:
    found = table(study(**settings))
    assert coordinator in found["the coordinator"]
    assert site in found["another site"]
    assert site in found["1 site and the coordinator"] or site == "the sum of features over all sites"
    sealed = settings.get("pretrain", {}).get("exchange") in ("vectors", "prototypes")
    assert ("kept sealed open with the keys of a site" in found["who steals keys later"]) == (
        sealed or settings == {"release_metrics": True}
    )


def test_where_nothing_is_averaged_nothing_is_learnt_of_an_update() -> None:
    alone = study(framework="local", finetune={"modes": ["local"]})
    found = table(alone)
    assert {learns for who, learns in found.items() if "coordinator" in who or "another" in who} == {
        "no update: none is averaged in this study"
    }
    assert "masked" not in found["who steals keys later"]


def test_noise_is_said_to_be_there_only_where_it_is() -> None:
    assert "no noise bounds it (epsilon is infinite)" in table(study())["who has a model"]
    noised = study(privacy={"enabled": True, "epsilon": 4.0})
    assert "at most epsilon = 4 of one patient" in table(noised)["who has a model"]
    assert "noise on" in terms(noised)
