"""The guides' own steps, docs/keys.md and then docs/pilot.md, in their order and with their files: the ceremony, the
doctor, the study to its end. They are typed at a coordinator and three sites, each with a network namespace and an
address of its own.

What is changed: the fingerprints that people would compare, the volumes, and a study small enough to end in a minute.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsecure.data.phantom import write_phantom
from fedsecure.node.vitals import read

DOCS = Path(__file__).parents[2] / "docs"
FEDSECURE = [sys.executable, "-c", "from fedsecure.cli.main import main; main()"]
SITES = {"north": "st-mary", "south": "charite", "east": "mgh"}
ADDRESS = {"hub": "10.77.0.1", "north": "10.77.0.2", "south": "10.77.0.3", "east": "10.77.0.4"}
SMALL = """size = 32
[model]
filters = 4
hidden = 16
features = 8
[pretrain]
rounds = 2
local_steps = 1
batch = 8
bank = 32
negatives = 16
[finetune]
labelled = [1]
modes = ["federated"]
steps = 1
rounds = 1
batch = 2
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machines:
    """A bridge, and a namespace with one address on it for each node; names resolve as in the guide."""

    def __init__(self) -> None:
        self._prefix = f"fs{os.getpid()}"
        self._wire = f"{self._prefix}-wire"
        self._hosts = [Path("/etc/netns") / self.of(node) for node in ADDRESS]

    def of(self, node: str) -> str:
        return f"{self._prefix}-{node}"

    def up(self) -> None:
        ip("netns", "add", self._wire)
        ip("-n", self._wire, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._wire, "link", "set", "bridge", "up")
        for node, address in ADDRESS.items():
            ip("netns", "add", self.of(node))
            ip("link", "add", "eth0", "netns", self.of(node), "type", "veth", "peer", node, "netns", self._wire)
            ip("-n", self._wire, "link", "set", node, "master", "bridge", "up")
            ip("-n", self.of(node), "addr", "add", f"{address}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                ip("-n", self.of(node), "link", "set", link, "up")
        for folder in self._hosts:  # ip-netns(8) puts it in the place of /etc/hosts
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS['hub']} hub.example.org\n")

    def down(self) -> None:
        for name in (*map(self.of, ADDRESS), self._wire):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        for folder in self._hosts:
            shutil.rmtree(folder, ignore_errors=True)

    def at(self, node: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.of(node), *words]

    def sockets(self, node: str) -> list[tuple[str, str, str]]:
        """(state, own end, far end) of each TCP socket of a node."""
        told = subprocess.run(self.at(node, "ss", "-Htan"), check=True, capture_output=True, text=True).stdout
        return [(words[0], words[3], words[4]) for words in map(str.split, told.splitlines())]

    def established(self, node: str) -> list[tuple[str, str, str]]:
        return [end for end in self.sockets(node) if end[0] == "ESTAB" and not end[1].startswith("127.")]


@pytest.fixture
def machines() -> Iterator[Machines]:
    if shutil.which("ip") is None or shutil.which("ss") is None:
        pytest.skip("needs ip and ss (iproute2)")
    made = Machines()
    try:
        made.up()
    except (subprocess.CalledProcessError, OSError) as error:
        made.down()
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield made
    made.down()


def typed(guide: str, until: str = "") -> list[tuple[str, str]]:
    """(hub or north, command) of each line that a guide has somebody type, up to a heading."""
    text = (DOCS / guide).read_text("utf-8")
    text = text[: text.index(until)] if until else text
    lines = re.findall(r"^    (hub|north)\$ +(.+?)(?: +#.*)?$", text, re.MULTILINE)
    return [(who, command) for who, command in lines]


def block(first: str) -> str:
    text = (DOCS / "pilot.md").read_text("utf-8")
    found = re.search(rf"^    {re.escape(first)}.*\n(?:    .*\n)*", text, re.MULTILINE)
    assert found is not None
    return re.sub("^    ", "", found[0], flags=re.MULTILINE)


class Federation:
    """The nodes' folders, the files that go between them, and whoever types."""

    def __init__(self, path: Path, machines: Machines) -> None:
        self.machines, self.folders, self._mail = machines, {node: path / node for node in ADDRESS}, path / "mail"
        for folder in (*self.folders.values(), self._mail):
            folder.mkdir(mode=0o700)
        self.environment = {**os.environ, "FEDSECURE_PASSPHRASE": "correct horse battery"}

    def words(self, node: str, command: str) -> list[str]:
        """The command at a node, in its folder: a site types its own name, and the fingerprints it was told."""
        if node != "hub":
            command = command.replace("north", node)
        if "--pin" in command:
            others = [other for other in SITES if other != node]
            told = " ".join(f"--pin {other}:{SITES[other]}:{self.fingerprint(other)}" for other in others)
            command = re.sub(r"--pin .+", told, command)
        if re.search("roster (join|sign)", command):
            command += " --yes"  # a person is asked
        program, *rest = shlex.split(command)
        return self.machines.at(node, *(FEDSECURE if program == "fedsecure" else [program]), *rest)

    def type(self, node: str, command: str) -> str:
        """To its end, with the files that others handed over; its own are handed over then."""
        folder = self.folders[node]
        for file in self._mail.iterdir():
            shutil.copy2(file, folder)
        done = subprocess.run(
            self.words(node, command), cwd=folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (node, command, done.stdout, done.stderr)
        for name in (f"invitation-{node}", "roster", *(f"invitation-{site}" for site in SITES if node == "hub")):
            if (folder / name).exists():
                shutil.copy2(folder / name, self._mail)
            elif name == f"invitation-{node}":
                (self._mail / name).unlink(missing_ok=True)  # shredded
        if "roster join" in command:
            shutil.copy2(folder / "request", self._mail / f"request-{node}")
        return done.stdout

    def fingerprint(self, node: str) -> str:
        return self.type(node, "fedsecure keys show").split("fingerprint")[1].split()[0]

    def start(self, node: str, command: str) -> subprocess.Popen[str]:
        with (self.folders[node] / "log").open("a") as log:
            return subprocess.Popen(
                self.words(node, command), cwd=self.folders[node], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, text=True,
            )  # fmt: skip

    def everywhere(self, commands: list[tuple[str, str]]) -> dict[str, subprocess.Popen[str]]:
        by_role = dict(commands)
        return {node: self.start(node, by_role["hub" if node == "hub" else "north"]) for node in ADDRESS}

    def log(self, node: str) -> str:
        return (self.folders[node] / "log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guides_steps_on_machines_of_their_own(tmp_path: Path, machines: Machines) -> None:
    federation = Federation(tmp_path, machines)
    _ceremony(federation)
    health = _files(federation)
    doctor, start, after = _phases(typed("pilot.md"))

    for node, process in federation.everywhere(doctor).items():
        assert process.wait(240) == 0, federation.log(node)
        for category in ("label map", "modality", "spacing"):
            assert re.search(rf"{category} +the same at east, north, south", federation.log(node)), federation.log(node)

    processes = federation.everywhere(start)
    dialled, alive = _watched(machines, processes, health)
    for node, process in processes.items():
        assert process.returncode == 0, federation.log(node)
        assert read(federation.folders[node]).stopped == "finished"
    assert dialled == set(SITES)
    assert alive, "the health endpoint never said that its node is alive"

    said = {"status": "stopped: finished", "veto": "vetoed"}
    for who, command in after:
        for node in ["hub"] if who == "hub" else list(SITES):
            assert said[command.split()[1]] in federation.type(node, command)


def _ceremony(federation: Federation) -> None:
    for who, command in typed("keys.md", "**Renewal**"):
        for node in ["hub"] if who == "hub" else list(SITES):
            if "roster invite" in command:  # one per site
                for site, institution in SITES.items():
                    federation.type(node, command.replace("north", site).replace("st-mary", institution))
            else:
                federation.type(node, command)


def _files(federation: Federation) -> str:
    """The two files of the guide and volumes, in their places. Returns where a site's health is asked for."""
    study, site = block('name = "pilot"'), block('coordinator = "tcp:')
    study = "baseline = false\n" + re.sub(r"weight = \d+", "weight = 2", study) + SMALL
    for number, (node, folder) in enumerate(federation.folders.items()):
        (folder / "study.toml").write_text(study)
        if node != "hub":
            write_phantom(folder / "volumes", 3, number, number, 48)
            (folder / "site.toml").write_text(site.replace("folder:/data/cardiac", "folder:volumes"))
    found = re.search('health = "([0-9.:]+)"', site)
    assert found is not None
    return f"http://{found[1]}/health"


def _watched(machines: Machines, processes: dict[str, subprocess.Popen[str]], health: str) -> tuple[set[str], bool]:
    """Until all have ended: the sites that were connected to the coordinator, and whether one's health was answered.

    Asserts that nobody but the coordinator is connected to, and that it dials nobody."""
    ask = f"import urllib.request as u; print(u.urlopen('{health}').read().decode())"
    dialled: set[str] = set()
    alive = False
    while any(process.poll() is None for process in processes.values()):
        for node in SITES:
            dialled |= _dialled_out(machines, node)
        for _, own, far in machines.established("hub"):
            assert own == f"{ADDRESS['hub']}:7443", f"the coordinator dialled {far}"
        if dialled and not alive:
            asked = machines.at(min(dialled), sys.executable, "-c", ask)
            told = subprocess.run(asked, check=False, capture_output=True, text=True)
            alive = '"alive": true' in told.stdout
        time.sleep(0.5)
    return dialled, alive


def _phases(commands: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], ...]:
    """What the guide has typed on all nodes at the same time, twice, and what comes after."""
    doctor = [(who, command) for who, command in commands if command.startswith("fedsecure doctor")]
    start = [(who, command) for who, command in commands if re.match("fedsecure (coordinator|site) ", command)]
    after = commands[len(doctor) + len(start) :]
    assert doctor + start + after == commands
    return doctor, start, after


def _dialled_out(machines: Machines, node: str) -> set[str]:
    """The node, if it is connected to the coordinator. It listens on loopback alone, and is connected to nobody else.

    Nobody can have dialled a node that listens nowhere else."""
    listening = {own for state, own, _ in machines.sockets(node) if state == "LISTEN"}
    assert listening <= {"127.0.0.1:9402"}
    far_ends = {far for _, _, far in machines.established(node)}
    assert far_ends <= {f"{ADDRESS['hub']}:7443"}
    return {node} if far_ends else set()
