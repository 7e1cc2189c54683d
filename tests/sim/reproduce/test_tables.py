from __future__ import annotations

import csv
import io

import pytest

from fedsecure.report.results import WorldRecord
from fedsecure.report.summary import Estimate
from sim.reproduce.protocols import PaperTable, load_protocol
from sim.reproduce.record import Probe, Record, Score, Traffic
from sim.reproduce.tables import Table, paired, site_mean, table_of, units
from sim.reproduce.texts import Heading, csv_text, latex, markdown

from .conftest import record

PROTOCOL = load_protocol()
ARMS = tuple(PROTOCOL.arm(name) for name in ("random", "fcl", "fclopt"))
PAPER = PaperTable(source="somewhere; read from an image", labelled=(1,), rows={"fcl": ((0.506, 0.056),)})
# (3 + 4) / 2 of structure a and (1 + 2) / 2 of b, in tenths; then the mean over structures
HAND = (Score("local", 1, None, "s1", 0, (0.3, 0.1)), Score("local", 1, None, "s1", 1, (0.4, 0.2)))


def local(site: str, dice: float, fold: int | None = None) -> Score:
    return Score("local", 1, fold, site, 0, (dice, dice))


def federated(site: str, dice: float, fold: int | None = None) -> Score:
    return Score("federated", 1, fold, site, 0, (dice, dice))


def test_a_sites_dice_is_the_mean_over_patients_and_then_over_structures_that_are_there() -> None:
    assert site_mean(HAND) == pytest.approx(0.25)
    assert site_mean((*HAND, Score("local", 1, None, "s1", 2, (None, 0.9)))) == pytest.approx((0.35 + 0.4) / 2)
    assert site_mean((Score("local", 1, None, "s1", 0, (None, 0.2)),)) == pytest.approx(0.2)
    assert site_mean((Score("local", 1, None, "s1", 0, (None, None)),)) is None


def test_a_local_unit_is_a_site_under_a_seed_with_its_folds_averaged() -> None:
    records = [
        record("fcl", 1, (local("s1", 0.2, 0), local("s2", 0.6, 0), federated("s1", 0.9, 0))),
        record("fcl", 1, (local("s1", 0.4, 1),), id="fcl-s1-f1"),
        record("fcl", 2, (local("s1", 0.5, 0),)),
    ]
    assert units(records, "local", 1) == pytest.approx({(1, "s1"): 0.3, (1, "s2"): 0.6, (2, "s1"): 0.5})
    assert units(records, "local", 4) == {}


def test_a_federated_unit_is_a_seed_and_fold_with_its_sites_averaged() -> None:
    records = [record("fcl", 1, (federated("s1", 0.2, 0), federated("s2", 0.4, 0), federated("s1", 0.6, 1)))]
    assert units(records, "federated", 1) == pytest.approx({(1, "0"): 0.3, (1, "1"): 0.6})


def test_the_paired_interval_is_the_hand_computed_one_and_pairs_need_both_sides() -> None:
    """Differences .1, .2, .3: mean .2, SD .1, t(.975, 2) = 4.302653, half width 4.302653 * .1 / sqrt(3) = .248414."""
    own = {(1, "a"): 0.4, (1, "b"): 0.6, (2, "a"): 0.8, (3, "a"): 0.9}
    random = {(1, "a"): 0.3, (1, "b"): 0.4, (2, "a"): 0.5, (4, "a"): 0.0}
    found = paired(own, random)
    assert found is not None
    assert found.n == 3
    assert (found.mean, found.sd, found.low, found.high) == pytest.approx((0.2, 0.1, -0.048414, 0.448414), abs=1e-6)
    assert paired(own, {}) is None


def made(records: list[Record] | None = None) -> Table:
    every = records or [
        record("random", 1, (local("s1", 0.3), local("s2", 0.4), federated("s1", 0.5)), probes=()),
        record("random", 2, (local("s1", 0.5),), probes=()),
        record("fcl", 1, (local("s1", 0.4), local("s2", 0.6), federated("s1", 0.7))),
        record("fcl", 2, (local("s1", 0.8),)),
    ]
    return table_of(ARMS, ("local", "federated"), (1,), every, PAPER)


def test_a_table_has_a_line_for_each_arm_that_has_finished_shards() -> None:
    table = made()
    assert [line.arm.name for line in table.lines] == ["random", "fcl"]
    random, fcl = table.lines
    cell = fcl.cells[0]
    assert cell is not None
    assert cell.difference is not None
    assert (cell.dice.mean, cell.dice.n) == (pytest.approx(0.6), 3)
    assert (cell.difference.mean, cell.difference.n) == (pytest.approx(0.2), 3)
    assert cell.difference.low == pytest.approx(-0.048414, abs=1e-6)
    assert cell.paper == (0.506, 0.056)
    assert random.cells[0] is not None
    assert random.cells[0].difference is None
    assert fcl.cells[1] is not None
    assert fcl.cells[1].difference == Estimate(pytest.approx(0.2), 1)  # type: ignore[arg-type]
    assert (random.accuracy, fcl.accuracy, fcl.untrained, fcl.norm, fcl.seeds) == (None, 0.5, 0.4, 0.2, 2)


def test_of_sites_with_an_encoder_each_the_mean_of_their_probes_stands_in_the_table() -> None:
    probes = tuple(
        Probe(site=name, accuracy=accuracy, chance=0.25, untrained=None, norm=0.5, slices=4)
        for name, accuracy in (("s1", 0.4), ("s2", 0.6))
    )
    (line,) = made([record("fcl", 1, (local("s1", 0.4),), probes=probes)]).lines
    assert (line.accuracy, line.untrained) == (pytest.approx(0.5), None)


def heading(**changes: object) -> Heading:
    fields: dict[str, object] = {
        "experiment": "local",
        "about": PROTOCOL.experiments["local"],
        "budget": "cpu",
        "command": "fedsecure reproduce local",
        "written": "2026-01-02",
        "edition": 1,
        "left": 0,
        "left_out": (),
        "records": [record("fcl", 1, (local("s1", 0.4),))],
        "paper": PAPER,
    }
    return Heading(**{**fields, **changes})  # type: ignore[arg-type]


def test_markdown_says_what_was_run_and_stands_beside_the_papers_own() -> None:
    text = markdown(made(), heading())
    for said in ("fedsecure reproduce local", "seeds: 1", "c" * 40, "torch 2.0", "test, 2 cores", "reconstructed"):
        assert said in text
    assert "| FCL | 0.600 ± 0.200 | +0.200 [−0.048, +0.448] | 3 | 0.700 | +0.200 | 1 | 0.500 |" in text
    assert "| FCL | 0.506 ± 0.056 |" in text
    assert "read from an image" in text
    assert "Not finished" not in text
    assert "The patients are phantoms" not in text


def test_markdown_says_what_is_missing_and_that_phantoms_are_no_patients() -> None:
    phantoms = WorldRecord(kind="phantom", partition=None, sites=2, phantom_patients=3)
    text = markdown(
        made(),
        heading(left=3, left_out=("N = 8: too few patients",), records=[record("fcl", 1, (), worlds=(phantoms,))]),
    )
    assert "The patients are phantoms" in text
    assert "1 finished, 3 left" in text
    assert "**Not finished**" in text
    assert "left out: N = 8: too few patients" in text


def test_csv_holds_the_numbers_unrounded_and_an_empty_field_where_there_is_none() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(made()))))
    assert [(row["arm"], row["mode"], row["labelled"]) for row in rows] == [
        *(("random", mode, "1") for mode in ("local", "federated")),
        *(("fcl", mode, "1") for mode in ("local", "federated")),
    ]
    assert float(rows[2]["low"]) == pytest.approx(-0.048414, abs=1e-6)
    assert (rows[2]["pairs"], rows[2]["paper"], rows[2]["up_bytes"]) == ("3", "0.506", "1000.0")
    assert (rows[0]["difference"], rows[3]["low"], rows[0]["knn_accuracy"], rows[2]["rho"]) == ("", "", "", "")


def test_latex_escapes_and_has_as_many_fields_in_each_line() -> None:
    text = latex(made(), heading())
    assert r"95 \%" in text
    assert r"0.600 $\pm$ 0.200 & +0.200 [$-$0.048, +0.448]" in text
    fields = {line.replace(r"\&", "").count("&") for line in text.splitlines() if line.endswith(r"\\")}
    assert len(fields) == 1
    assert all(line.startswith("%") for line in text.split(r"\begin")[0].splitlines())


def test_shares_and_modelled_bytes_stand_in_a_table_with_a_target_network() -> None:
    sent = Traffic(
        up=1e6, down=2e6, all_up=1e6, all_down=2e6, rho=0.3, sigma=0.1, model_up=990_000, model_down=1_980_000
    )
    table = made([record("fclopt", 1, (local("s1", 0.4),), traffic=sent)])
    text = markdown(table, heading(paper=None))
    assert "| rho | sigma | up, model | down, model |" in text
    assert "| 1 MB | 2 MB | 0.300 | 0.100 | 990 kB | 1.98 MB |" in text
    assert "rho" not in markdown(made(), heading())
