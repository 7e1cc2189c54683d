"""What a node's process says when it cannot start or go on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from fedsecure.config import Member, Run, SecuritySettings, Site, Study
from fedsecure.node.wiring import lay_out
from sim.ceremony import enrol


def test_a_node_without_an_accepted_roster_says_so_in_one_line_that_names_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "st-marys-ward-7"
    study = Study(sites=(Member(name="north", weight=1),), security=SecuritySettings(secagg=False))
    lay_out(folder, study, Run(), Site(name="north", source="folder:x", coordinator="tcp://127.0.0.1:1"))
    node = subprocess.run(
        [sys.executable, "-m", "fedsecure.node", "site", str(folder)], capture_output=True, text=True, check=False
    )
    assert node.returncode == 1
    assert "cannot read the trust file" in node.stderr
    assert node.stderr.count("\n") == 1
    assert folder.name not in node.stderr


def test_a_running_node_ends_with_its_roster(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("coordinator", "north")}
    study = Study(sites=(Member(name="north", weight=1),), security=SecuritySettings(secagg=False))
    for folder in folders.values():
        lay_out(folder, study, Run())
    enrol(folders, "coordinator")
    hub = folders["coordinator"]
    command = [sys.executable, "-m", "fedsecure.node", "coordinator", str(hub), "tcp://127.0.0.1:*"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        deadline = time.monotonic() + 60
        while not (hub / "endpoint").exists() and node.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        (hub / "trust").write_bytes(b"nonsense")
        try:
            _, said = node.communicate(timeout=30)
        finally:
            node.kill()
    assert node.returncode == 1
    assert said == "the trust file is damaged (to blame: operator)\n"
