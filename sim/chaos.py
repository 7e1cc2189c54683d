"""kill -9 of the coordinator and of each site, at every phase boundary and at random instants of a tiny study.

Every node is a process over CURVE on loopback and is started again at once. At the end the study is finished, its
models are those of the undisturbed run bit for bit, no release was sealed twice and none came with two contents (what
went out again was stored), and no node took a frame twice (`sim.witness`).

With `sums` updates leave in secure sums of five sites. Then nodes are killed when a step of a sum was sent, too, a site
and the coordinator in each sum, another step each time. A site that loses its mask keys drops out of that sum: so the
models need not be the undisturbed ones, but each sum that is opened is that of what its survivors masked, no keyset
masks two vectors, and no round is opened over two sets of sites. `sim.instants` kills at each instant there is.

    python -m sim.chaos --kills 50          from the project's root; `make chaos` is this
    python -m sim.chaos --kills 50 --sums   and this
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedsecure.config import Study, parse_study
from fedsecure.egress import NON_PRIVATE, REPEAT
from fedsecure.node.store import Store
from fedsecure.node.wiring import COORDINATOR, PARENT
from fedsecure.progress import RoundEnded, RoundStarted, Sent
from sim.audit import final_models
from sim.ceremony import enrol
from sim.errors import FederationFailed
from sim.federation import federate, read_metrics
from sim.witness import inexact, masked_twice, opened_apart, read, read_summed, taken_twice, told_twice
from sim.world import World, build, connect, coordinator_folder, site_folder

TINY: Final[dict[str, Any]] = {
    "model": {"filters": 4, "hidden": 16, "features": 8},
    "data": {"size": 32},
    "pretrain": {"rounds": 2, "local_steps": 2, "batch": 8, "bank": 32, "negatives": 16},
    "finetune": {"labelled": [1], "modes": ["federated"], "steps": 4, "rounds": 2, "batch": 2},
    "baseline": False,
    "security": {"secagg": False},  # two sites
}
WORLD: Final = World(source=None, sites=2, scheme="random", phantom_patients=3, phantom_size=48)
# One step of a sum is killed in each of seven rounds. A node is back within the deadline of a step, mostly.
SUMMING: Final[dict[str, Any]] = {
    **TINY,
    "pretrain": {**TINY["pretrain"], "rounds": 4, "local_steps": 1, "batch": 4, "exchange": "none"},
    "finetune": {**TINY["finetune"], "steps": 3, "rounds": 3},
    "security": {"secagg": True, "clip": 30.0, "step_deadline_s": 20.0},
}
SITES: Final = World(source=None, sites=5, scheme="random", phantom_patients=2, phantom_size=48)
_SITE_STEPS: Final = (
    "AdvertiseKeys", "ShareKeys", "masked weights", "ConsistencyCheck", "UnmaskShares", "ResultAgreement",
)  # fmt: skip
_STEPS: Final = ("SecAggOpen", "Keyset", "RelayShares", "Survivors", "UnmaskRequest", "SumResult", "AgreedResult")
LOOK_EVERY_S: Final = 0.02
GAP_S: Final = (0.5, 8.0)  # between two random kills; a node takes some seconds to be back
LONGEST_S: Final = 3600.0


class Outcome(NamedTuple):
    boundaries: int  # kills at the beginning or end of a round
    instants: int  # kills at random instants
    same: bool  # the models are the undisturbed ones
    sealed_twice: int  # releases of one site, round and flow that were sealed more than once
    repeats: int  # frames in which stored bytes were sent again
    taken_twice: int  # frames that a node accepted again
    told_twice: int  # releases of one site and round, or messages of one sum, that came with more than one content
    steps: int = 0  # kills when a step of a secure sum was sent
    sums: int = 0  # that were opened
    short: int = 0  # of them, without all sites
    inexact: int = 0  # of them, not of what their survivors masked
    masked_twice: int = 0  # vectors under a keyset that had masked one
    apart: int = 0  # sums of a round over other sites than another of it

    @property
    def holds(self) -> bool:
        wrong = self.sealed_twice + self.taken_twice + self.told_twice + self.inexact + self.masked_twice + self.apart
        return (self.same or self.short > 0) and not wrong


class Chaos:
    """The disturbed federation. `boundaries`: whether to kill at them; `kills`: at random instants."""

    def __init__(self, run: Path, study: Study, kills: int, boundaries: bool, seed: int) -> None:
        self._run, self._study, self._kills, self._boundaries = run, study, kills, boundaries
        self._random = random.Random(seed)  # noqa: S311  an instant, not a secret
        self._folders = {COORDINATOR: coordinator_folder(run)}
        self._folders |= {member.name: site_folder(run, member.name) for member in study.sites}
        self._endpoint = f"tcp://127.0.0.1:{_free_port()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._seen: set[tuple[str, str, int, int]] = set()
        self._sums: list[tuple[int, int]] = []  # stage and round of each that began
        self.at_boundaries = self.at_instants = self.at_steps = 0

    def go(self) -> None:
        """Until every node has finished. Raises FederationFailed if one ended otherwise, or after LONGEST_S."""
        enrol(self._folders, COORDINATOR)
        connect(self._run, self._study, self._endpoint)
        until, next_kill = time.monotonic() + LONGEST_S, time.monotonic() + self._random.uniform(*GAP_S)
        try:
            for name in self._folders:
                self._start(name)
            while not self._over():
                if self._boundaries:
                    self._at_boundaries()
                if self._study.security.secagg:
                    self._at_steps()
                if self.at_instants < self._kills and time.monotonic() >= next_kill:
                    self._kill(self._random.choice(sorted(self._folders)))
                    self.at_instants += 1
                    next_kill = time.monotonic() + self._random.uniform(*GAP_S)
                if time.monotonic() > until:
                    raise FederationFailed("the study did not end")
                time.sleep(LOOK_EVERY_S)
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def _at_boundaries(self) -> None:
        for name, folder in self._folders.items():
            for _, event in list(read_metrics(folder / "metrics.jsonl")):
                if not isinstance(event, RoundStarted | RoundEnded):
                    continue
                boundary = name, type(event).__name__, event.stage, event.round
                if boundary not in self._seen:
                    self._seen.add(boundary)
                    self._kill(name)
                    self.at_boundaries += 1
                    break

    def _at_steps(self) -> None:
        """In the n-th sum the coordinator and one site, when each has sent its n-th step."""
        for number, (name, folder) in enumerate(self._folders.items()):
            for _, event in list(read_metrics(folder / "metrics.jsonl")):
                if not isinstance(event, Sent) or event.flow not in (_STEPS if name == COORDINATOR else _SITE_STEPS):
                    continue
                if (event.stage, event.round) not in self._sums:
                    self._sums.append((event.stage, event.round))
                place = self._sums.index((event.stage, event.round))
                steps, victim = (
                    (_STEPS, True)
                    if name == COORDINATOR
                    else (_SITE_STEPS, number == 1 + place % (len(self._folders) - 1))
                )
                step = name, event.flow, event.stage, event.round
                if victim and event.flow == steps[place % len(steps)] and step not in self._seen:
                    self._seen.add(step)
                    self._kill(name)
                    self.at_steps += 1
                    break

    def _over(self) -> bool:
        codes = {name: process.poll() for name, process in self._processes.items()}
        for name, code in codes.items():
            if code not in (None, 0):
                raise FederationFailed(f"{name} ended by itself (exit code {code})")
        return all(code == 0 for code in codes.values())

    def _kill(self, name: str) -> None:
        process = self._processes[name]
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            self._start(name)

    def _start(self, name: str) -> None:
        words = ["site", str(self._folders[name])]
        if name == COORDINATOR:
            words = ["coordinator", str(self._folders[name]), self._endpoint]
        self._processes[name] = subprocess.Popen(
            [sys.executable, "-m", "sim.witness", *words],
            stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, PARENT: str(os.getpid())},
        )  # fmt: skip


def chaos(run: Path, cache: Path, kills: int, boundaries: bool, seed: int = 0, sums: bool = False) -> Outcome:
    """run: a new folder. Raises FederationFailed if the study does not come to its end."""

    def nothing(*_: object) -> None:
        pass

    world, settings = (SITES, SUMMING) if sums else (WORLD, TINY)
    calm, wild = run / "undisturbed", run / "disturbed"
    federate(calm, build(world, parse_study(settings), calm, cache, nothing), "memory", nothing)
    study = build(world, parse_study(settings), wild, cache, nothing)
    disturbed = Chaos(wild, study, kills, boundaries, seed)
    disturbed.go()
    sites = {member.name: site_folder(wild, member.name) for member in study.sites}
    sealed, repeats = _sent(list(sites.values()))
    summed, opened = (
        {name: read_summed(folder) for name, folder in sites.items()},
        read_summed(coordinator_folder(wild)),
    )
    records = [read(folder) for folder in (coordinator_folder(wild), *sites.values())]
    return Outcome(
        boundaries=disturbed.at_boundaries, instants=disturbed.at_instants,
        same=final_models(wild) == final_models(calm),
        sealed_twice=sum(count - 1 for count in sealed.values()), repeats=repeats,
        taken_twice=sum(map(taken_twice, records)), told_twice=sum(map(told_twice, records)),
        steps=disturbed.at_steps, sums=len(opened), short=sum(len(row.sites) < len(sites) for row in opened),
        inexact=inexact(summed, opened), masked_twice=sum(map(masked_twice, summed.values())),
        apart=opened_apart(opened),
    )  # fmt: skip


def _sent(folders: list[Path]) -> tuple[Counter[tuple[str, int, int, str]], int]:
    sealed: Counter[tuple[str, int, int, str]] = Counter()
    repeats = 0
    for folder in folders:
        store = Store(folder)
        for row in store.sent():
            # A vector of a sum is sealed anew with each attempt, under other masks: `told_twice` looks at these.
            anew = row.event == NON_PRIVATE and not row.flow.startswith("masked")
            sealed[folder.name, row.stage, row.round, row.flow] += anew
            repeats += row.event == REPEAT
        store.close()
    return +sealed, repeats


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(told: Callable[[str], object] = print) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50, help="at random instants, beside those at phase boundaries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sums", action="store_true", help="updates leave in secure sums of five sites")
    parser.add_argument("--no-boundaries", action="store_true", help="do not kill at the phase boundaries")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedsecure-chaos-") as folder:
        run, cache = Path(folder) / "run", Path(folder) / "cache"
        outcome = chaos(run, cache, asked.kills, not asked.no_boundaries, asked.seed, asked.sums)
    told(f"{outcome.boundaries} kills at phase boundaries, {outcome.instants} at random instants, seed {asked.seed}")
    told(f"final models {'the same' if outcome.same else 'OTHERS'}, {outcome.sealed_twice} releases sealed twice, "
         f"{outcome.told_twice} with two contents, {outcome.taken_twice} frames taken twice, "
         f"{outcome.repeats} sent again from storage")  # fmt: skip
    if asked.sums:
        told(f"{outcome.steps} kills at steps of sums; {outcome.sums} sums opened, {outcome.short} without all sites, "
             f"{outcome.inexact} inexact, {outcome.masked_twice} keysets used twice, {outcome.apart} rounds opened "
             "over two sets of sites")  # fmt: skip
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
