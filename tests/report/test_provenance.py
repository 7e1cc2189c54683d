from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fedsecure.report.provenance import collect, redacted


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("study.toml", "study.toml"),
        ("--seed=3", "--seed=3"),
        ("acdc:/data/acdc", "acdc:<path>"),
        ("--source=dicom:SMITH^JOHN", "--source=dicom:<path>"),
        ("--out=runs/today", "--out=<path>"),
        ("Jane Doe/scan", "<path>"),
        ("C:\\scans\\x", "C:<path>"),
        ("tcp://host:5555", "tcp:<path>"),
    ],
)
def test_paths_do_not_reach_the_report(argument, shown):
    assert redacted(["/opt/bin/fedsecure", "simulate", argument]) == f"fedsecure simulate {shown}"


def test_this_process():
    found = collect(["fedsecure", "simulate"], datetime(2026, 3, 1, 9, 30, tzinfo=UTC), 1.5)
    assert found.started == "2026-03-01T09:30:00+00:00"
    assert found.machine.cores >= 1
    assert found.libraries["numpy"].count(".") == 2
    assert found.commit is None or len(found.commit.removesuffix("+changes")) == 40
