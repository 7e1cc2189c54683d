from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fedsecure.report.provenance import collect, redacted


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["study.toml"], "<...>"),
        (["--seed=3", "--sites", "4"], "--seed=3 --sites 4"),
        (["--framework", "both", "--partition", "group"], "--framework both --partition group"),
        (
            ["--transport=zmq", "--patients", "8", "--resume", "--quiet"],
            "--transport=zmq --patients 8 --resume --quiet",
        ),
        (["--data", "acdc:/data/acdc"], "--data acdc:<...>"),
        (["--data=dicom:SMITH^JOHN"], "--data=dicom:<...>"),
        (["--data", "SMITH^JOHN:x"], "--data <...>"),
        (["--out", "DOE_JOHN", "--cache=DOE_JANE"], "--out <...> --cache=<...>"),
        (["--out", "--doe-john", "study.toml"], "--out <...> <...>"),
        (["--doe-john=3", "--quiet=DOE", "simulate"], "<...> <...> <...>"),
        (["--out"], "--out <...>"),
    ],
)
def test_only_values_that_name_nobody_reach_the_report(arguments, shown):
    assert redacted(["/opt/bin/fedsecure", "simulate", *arguments]) == f"fedsecure simulate {shown}"


def test_every_option_of_a_run_is_known():
    from typer.main import get_command

    from fedsecure.cli.main import app

    commands = get_command(app).commands
    options = {
        name for command in ("demo", "simulate") for p in commands[command].params for name in p.opts if name[0] == "-"
    }
    assert "--out" in options
    assert not [option for option in options - {"--help"} if redacted(["fedsecure", option]).startswith("fedsecure <")]


def test_this_process():
    found = collect("fedsecure simulate", datetime(2026, 3, 1, 9, 30, tzinfo=UTC), 1.5)
    assert found.started == "2026-03-01T09:30:00+00:00"
    assert found.machine.cores >= 1
    assert found.libraries["numpy"].count(".") == 2
    assert found.commit is None or len(found.commit.removesuffix("+changes")) == 40
