"""A pilot: the programs as operators start them, from files that operators write, over CURVE on loopback.

Keys and roster are of the ceremony that tests/cli/test_ceremony.py walks through; here they are made on the spot.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsecure.cli.main import main
from fedsecure.data.phantom import write_phantom
from fedsecure.node.vitals import Standing, SumStanding, Vitals, read
from sim.ceremony import enrol

FEDSECURE = [sys.executable, "-c", "from fedsecure.cli.main import main; main()"]
STUDY = """
name = "pilot"
minimum_sites = 1
baseline = false
sites = [{name = "north", weight = 2}, {name = "south", weight = 2}]
[model]
filters = 4
hidden = 16
features = 8
[security]
secagg = false
[data]
size = 32
[pretrain]
rounds = 2
local_steps = 2
batch = 8
bank = 32
negatives = 16
[finetune]
labelled = [1]
modes = ["federated"]
steps = 2
rounds = 1
batch = 2
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pilot:
    """Folders of a coordinator and two sites, and their processes."""

    def __init__(self, path: Path) -> None:
        self.path, self.port, self.health = path, free_port(), free_port()
        self.folders = {name: path / name for name in ("hub", "north", "south")}
        for number, (name, folder) in enumerate(self.folders.items()):
            folder.mkdir()
            (folder / "study.toml").write_text(STUDY)
            if name != "hub":
                write_phantom(folder / "volumes", 3, number, number, 48)
                self.site_file(name)
        enrol(self.folders, "hub")
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def site_file(self, name: str, more: str = "") -> None:
        text = f'coordinator = "tcp://127.0.0.1:{self.port}"\nsource = "folder:volumes"\n{more}'
        (self.folders[name] / "site.toml").write_text(text)

    def start(self, name: str) -> None:
        folder = self.folders[name]
        words = ["site", str(folder / "site.toml")]
        if name == "hub":
            words = ["coordinator", str(folder / "study.toml"), "--bind", f"tcp://127.0.0.1:{self.port}"]
            words += ["--health", f"127.0.0.1:{self.health}"]
        with (folder / "log").open("a") as log:
            words = [*FEDSECURE, *words, "--folder", str(folder)]
            self.processes[name] = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)

    def wait(self, name: str, timeout: float = 120.0) -> int:
        return self.processes[name].wait(timeout)

    def log(self, name: str) -> list[dict[str, Any]]:
        lines = (self.folders[name] / "log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def until(self, name: str, event: str, timeout: float = 120.0, **fields: object) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in self.log(name):
                if line["event"] == event and fields.items() <= line.items():
                    return
            time.sleep(0.05)
        raise AssertionError(f"{name} never said {event}: {(self.folders[name] / 'log').read_text()}")

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Pilot]:
    made = Pilot(tmp_path)
    yield made
    made.end()


def command(*words: str) -> str:
    done = subprocess.run([*FEDSECURE, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.stdout + done.stderr


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Run a command in this process, which it has to end with an error; what it says."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fedsecure", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        told = capsys.readouterr()
        return told.out + told.err

    monkeypatch.setattr(sys, "stdin", io.StringIO())  # nobody sits at it
    before = os.umask(0o022)
    yield run
    os.umask(before)


def test_a_pilot_from_files_with_a_stop_a_late_site_and_what_operators_see(pilot: Pilot) -> None:
    pilot.start("hub")
    pilot.start("north")
    pilot.until("north", "started")
    pilot.until("hub", "started")
    with urllib.request.urlopen(f"http://127.0.0.1:{pilot.health}/health", timeout=5) as answer:
        assert json.loads(answer.read())["phase"] == "joining"
    # Ctrl-C and SIGTERM end a node cleanly; started again it goes on.
    for number, name in ((signal.SIGINT, "north"), (signal.SIGTERM, "hub")):
        pilot.processes[name].send_signal(number)
        assert pilot.wait(name) == 0, (pilot.folders[name] / "log").read_text()
        assert read(pilot.folders[name]).stopped == "interrupted"
        pilot.start(name)
    pilot.start("south")
    for name in pilot.folders:
        assert pilot.wait(name) == 0, (pilot.folders[name] / "log").read_text()
    shown = command("status", str(pilot.folders["hub"]))
    for text in ("hub, coordinator, stopped: finished", "budget   none yet", "site     north", "peer     south"):
        assert text in shown
    status = json.loads(command("status", str(pilot.folders["north"]), "--json"))
    assert status["running"] is False
    assert status["peers"]["hub"]["received"] > 0
    assert status["peers"]["hub"]["sent"] > 0
    everything = "".join((folder / "log").read_text() for folder in pilot.folders.values())
    assert "phantom" not in everything
    assert str(pilot.path) not in everything
    levels = {line["level"] for name in pilot.folders for line in pilot.log(name)}
    assert levels <= {"notice", "info"}
    assert (pilot.folders["hub"] / "models" / "encoder.safetensors").exists()


@pytest.mark.slow
def test_a_site_that_vetoed_while_the_coordinator_was_down_is_not_waited_for(pilot: Pilot) -> None:
    for name in pilot.folders:
        pilot.start(name)
    pilot.until("hub", "round-started", stage=0, round=0)
    pilot.processes["hub"].kill()
    pilot.wait("hub")
    assert "stops training now" in command("veto", str(pilot.folders["south"]))
    time.sleep(1.0)
    assert pilot.processes["south"].poll() is None  # it has not been heard
    pilot.start("hub")
    assert pilot.wait("south") == 1
    assert read(pilot.folders["south"]).stopped == "vetoed"
    assert pilot.wait("north") == 0
    assert pilot.wait("hub") == 0
    assert "left, vetoed" in command("status", str(pilot.folders["hub"]))


def test_another_study_file_stops_the_site_and_names_what_differs(pilot: Pilot) -> None:
    path = pilot.folders["south"] / "study.toml"
    path.write_text(STUDY.replace("local_steps = 2", "local_steps = 3"))
    pilot.start("hub")
    pilot.start("south")
    assert pilot.wait("south") == 1
    text = (pilot.folders["south"] / "log").read_text()
    assert "this node's study file and hub's differ in pretrain.local_steps" in text
    pilot.until("hub", "refused", peer="south")
    # The same settings written otherwise are the same study.
    path.write_text("# a comment\n" + STUDY)
    os.remove(pilot.folders["south"] / "node.db")  # noqa: PTH107  begun with another study
    pilot.start("south")
    pilot.until("south", "started")


@pytest.mark.parametrize(
    ("where", "text", "error"),
    [
        ("north/site.toml", 'source = "folder:volumes"', "coordinator: Field required"),
        ("north/site.toml", 'coordinator = "hub"\nsource = "folder:volumes"', "coordinator: String should match"),
        ("north/site.toml", 'coordinator = "tcp://h:1"\nsource = "volumes"', "source is acdc:PATH"),
        ("north/site.toml", 'name = "x"\ncoordinator = "tcp://h:1"\nsource = "folder:v"', "leave `name` out"),
        ("north/site.toml", 'coordinator = "tcp://h:1"\nsource = "folder:v"\nhealth = "0.0.0.0:80"', "loopback alone"),
        ("north/study.toml", STUDY.replace('"north"', '"west"'), "names sites that the roster does not: west"),
        ("north/study.toml", 'sites = [{name = "south", weight = 2}]\n[security]\nsecagg = false', "do not name north"),
        ("north/study.toml", "seed = 1", "the study names no site"),
    ],
)
def test_what_an_operator_gets_wrong_is_said_before_anything_is_written(
    pilot: Pilot, said: Callable[..., str], where: str, text: str, error: str
) -> None:
    (pilot.path / where).write_text(text)
    north = pilot.folders["north"]
    assert error in said("site", str(north / "site.toml"), "--folder", str(north))
    assert not (north / "study.json").exists() or "loopback" in error


def test_the_wrong_program_or_a_taken_port_is_said(pilot: Pilot, said: Callable[..., str]) -> None:
    north, hub = pilot.folders["north"], pilot.folders["hub"]
    study = str(hub / "study.toml")
    assert "a site: it is started by" in said("coordinator", study, "--folder", str(north))
    assert "are the coordinator's" in said("site", str(north / "site.toml"), "--folder", str(hub))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", pilot.port))
        taken.listen()
        bind = f"tcp://127.0.0.1:{pilot.port}"
        assert "Address already in use" in said("coordinator", study, "--folder", str(hub), "--bind", bind)
    assert "no node has run in this folder" in said("status", str(north))
    assert "no site's" in said("veto", str(hub))


@pytest.mark.slow
def test_the_doctor_compares_nodes_before_a_study(pilot: Pilot) -> None:
    """Real transport; north labels and samples like south, and says another modality."""
    pilot.site_file("north", 'modality = "MR"\n')
    pilot.site_file("south", 'modality = "CT"\n')
    words = {name: [str(pilot.folders[name] / "site.toml")] for name in ("north", "south")}
    words["hub"] = [str(pilot.folders["hub"] / "study.toml"), "--bind", f"tcp://127.0.0.1:{pilot.port}"]
    shown = {}
    processes = {
        name: subprocess.Popen(
            [*FEDSECURE, "doctor", *words[name], "--folder", str(pilot.folders[name]), "--wait", "60"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in ("hub", "north", "south")
    }  # fmt: skip
    for name, process in processes.items():
        shown[name] = process.communicate(timeout=120)[0]
    for name in processes:
        assert "ok       spacing    the same at north, south" in shown[name], shown
        assert "ok       label map  the same at north, south" in shown[name]
        assert "warning  modality   not the same: north | south" in shown[name]
        assert "Traceback" not in shown[name]
    assert "ok       data       2 patients to train on, 2 of them labelled, 1 held out" in shown["north"]
    assert "ok       clock      hub: " in shown["north"]
    assert "ok       versions   north: the same" in shown["hub"]
    assert "ok       roster     version 1, 2 sites, ends in 89 days" in shown["hub"]
    assert "ok       study      south: the same" in shown["hub"]
    # Nothing of the study has begun.
    for folder in pilot.folders.values():
        assert not (folder / "node.db").exists()
        assert not (folder / "study.json").exists()
    # Alone, it says what is missing.
    alone = command("doctor", *words["north"], "--folder", str(pilot.folders["north"]), "--wait", "1")
    assert "failed   port" in alone
    assert "run the doctor on all nodes at the same time" in alone


def test_status_says_where_a_secure_sum_is_and_who_is_waited_for(tmp_path: Path) -> None:
    standing = Standing(
        node="hub", role="coordinator", study="pilot", digest="ab" * 32, phase="summing", stage=0,
        stage_name="pre-training", round=1, rounds=2, sites={"north": "in"},
        sum=SumStanding(step="masked-input", number=3, steps=6, attempt=2, awaited=("north", "west")),
    )  # fmt: skip
    Vitals(tmp_path, {}, "0.1.0").write(standing)
    shown = command("status", str(tmp_path))
    assert "sum      step 3 of 6, masked-input, attempt 2; waits for north, west\n" in shown
    found = json.loads(command("status", str(tmp_path), "--json"))
    assert found["standing"]["sum"]["awaited"] == ["north", "west"]
