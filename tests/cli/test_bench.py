from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fedsecure.cli.bench import app


@pytest.mark.parametrize(("option", "value"), [("--threads", "0"), ("--seconds", "0"), ("--seconds", "-3")])
def test_a_measurement_of_nothing_is_refused(option: str, value: str) -> None:
    found = CliRunner().invoke(app, ["train", option, value], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert "greater than or equal to" in found.output
