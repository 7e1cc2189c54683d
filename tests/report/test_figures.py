from __future__ import annotations

import re

import msgspec

from fedsecure.report.figures import dice_chart, loss_charts
from fedsecure.report.summary import Estimate, Group


def test_one_round_is_no_course_to_draw(make):
    results = make("fcl")
    stages = {(row.name, row.stage) for row in results.rounds if row.loss is not None}
    assert len(loss_charts(results)) == len(stages) > 1
    first = tuple(row for row in results.rounds if row.stage > 0 or row.round == 0)
    drawn = [chart.stage for chart in loss_charts(msgspec.structs.replace(results, rounds=first))]
    assert len(drawn) == len(stages) - 1
    assert "pre-training" not in drawn


def test_an_interval_wider_than_its_dots_stays_inside_the_chart():
    group = Group(None, "local", 1, None)
    wide = Estimate(0.5, 2, 0.01, 0.12, 0.88)
    text = str(dice_chart("local", {group: wide}, {group: [0.49, 0.51]}))
    ticks = {float(tick) for tick in re.findall(r">(0\.\d)</text>", text)}
    assert min(ticks) <= 0.2
    assert max(ticks) >= 0.8
