from __future__ import annotations

import pytest

from fedsecure.report.results import merge
from fedsecure.report.wire import by_kind, by_site
from fedsecure.report.words import duration, size


def test_totals_count_each_frame_once(make):
    results = make("fcl", sites=("north", "south"))
    kinds = by_kind(results, "fcl")
    assert sum(total.bytes for total in kinds) == sum(row.bytes for row in results.traffic)
    assert [(total.direction, total.kind, total.flow) for total in kinds][:2] == [
        ("up", "release", "weights"),
        ("up", "release", "features"),
    ]
    assert kinds[0].messages == 100
    assert kinds[0].bytes == 100 * 4_725_000
    north, south = by_site(results, "fcl")
    assert (north.site, south.site) == ("north", "south")
    assert north.up == 50 * 4_725_000 + 54 * 412 + 10 * 263_000
    assert north.down == 50 * 4_725_000 + 54 * 300 + 40 * 263_000


def test_seeds_are_averaged_and_frameworks_kept_apart(make):
    one, two = make("fcl", seed=1), make("fcl", seed=2)
    assert by_kind(merge(one, two), "fcl") == by_kind(one, "fcl")
    assert by_kind(one, "fclopt") == ()


def test_the_words_say_who_reads(make):
    words = {total.flow: total.words for total in by_kind(make("fcl"), "fcl")}
    assert "neither summed under masks nor noised" in words["weights"].readers
    assert "sealed" in words["features"].readers
    assert words["model"].readers == "every site of the study"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (4_725_000, "4.72 MB"), (2.5e12, "2.5e+03 GB")],
)
def test_size(count, text):
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text
