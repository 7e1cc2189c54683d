"""One node is killed at an instant of a secure sum: between any two of its writes to disk and messages sent.

The instants are found, not listed: what a kill leaves behind changes only where something is written or sent, so that
a kill before each write and each message is a kill at every instant there is. A study of one round is trained up to the
moment in which its sum begins; from there each kill is a run of its own, in memory, in copies of the nodes' folders.

    python -m sim.instants                  from the project's root: all of one site, and all of the coordinator
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedsecure.config import Study, parse_study
from fedsecure.egress import Gate
from fedsecure.node import sums
from fedsecure.node.coordinator_shell import CoordinatorShell
from fedsecure.node.store import Store
from fedsecure.node.wiring import COORDINATOR
from sim.arena import Arena
from sim.audit import final_models
from sim.chaos import SITES, SUMMING
from sim.witness import (
    Summed,
    inexact,
    masked_twice,
    opened_apart,
    read,
    read_summed,
    taken_twice,
    told_twice,
    witnessing,
)  # fmt: skip
from sim.world import build, coordinator_folder, site_folder

SHORT: Final[dict[str, Any]] = {
    **SUMMING,
    "pretrain": {**SUMMING["pretrain"], "rounds": 1},
    "finetune": {"labelled": [1], "modes": []},
    "security": {**SUMMING["security"], "step_deadline_s": 5.0},
}  # one stage of one round
_WRITES: Final = ((Store, "put"), (Store, "write"), (Store, "log"), (Store, "log_and_queue"))


class Killed(BaseException):
    """Ends a node where it stands, as kill -9 does: nothing in between catches it."""


class Trap:
    """Counts what a node writes and sends from now on, and kills it before the `at`-th, from 0, or the first that is
    named so; None: never."""

    def __init__(self, folder: Path, name: str, at: int | str | None) -> None:
        self.instants: list[str] = []  # what came, up to the kill
        self._folder, self._name, self._at = folder.resolve(), name, at

    def pass_(self, what: str) -> None:
        if self._at is not None and self._at in (what, len(self.instants)):
            self._at = None
            raise Killed(what)
        self.instants.append(what)

    @contextmanager
    def set(self) -> Iterator[None]:
        """Patches what writes and sends, of all nodes of this process."""
        with ExitStack() as undo:
            for owner, method in _WRITES:
                undo.enter_context(_before(owner, method, self._written))
            undo.enter_context(_before(sums, "replace_private", self._private))
            undo.enter_context(_before(Gate, "_hand_over", self._sent))
            yield

    def _written(self, store: Store, *what: Any, **values: Any) -> None:
        if store.folder.resolve() == self._folder:
            names = [part for part in (*what, *values) if isinstance(part, str)]
            self.pass_(f"write {' '.join(names) or 'log'}")

    def _private(self, path: Path, *_: Any) -> None:
        if path.parent.resolve() == self._folder:
            self.pass_(f"write {path.name}")

    def _sent(self, gate: Gate, row: Any, _: bytes) -> None:
        if gate._name == self._name:
            self.pass_(f"send {row.flow}")


@contextmanager
def _before(owner: Any, name: str, notice: Callable[..., None]) -> Iterator[None]:
    inner = getattr(owner, name)

    def noticed(*parts: Any, **named: Any) -> Any:
        notice(*parts, **named)
        return inner(*parts, **named)

    setattr(owner, name, noticed)
    try:
        yield
    finally:
        setattr(owner, name, inner)


class Fall(NamedTuple):
    """What came of one kill. Counts but `instants` are of what must not be."""

    instants: list[str]  # what the node wrote and sent before it was killed
    outcomes: dict[str, str]
    survivors: tuple[str, ...]  # of the sum
    same: bool  # the model is that of the undisturbed run
    sums: int  # that were opened
    inexact: int  # of them, that are not those of what the survivors put in
    apart: int  # of them, over other survivors than another of the round
    masked_twice: int  # vectors under a keyset that had masked one
    told_twice: int  # messages of one step that came with two contents
    taken_twice: int  # frames that a node accepted again
    refused: list[str]  # what a node refused, and whose fault it was

    def holds(self, sites: int) -> bool:
        """Everybody is done, and who is in the sum is: all, or all but the one that was killed."""
        ended = set(self.outcomes.values()) == {"finished"} and self.sums >= 1
        complete = self.same if len(self.survivors) == sites else len(self.survivors) == sites - 1
        wrong = self.inexact + self.apart + self.masked_twice + self.told_twice + self.taken_twice + len(self.refused)
        return ended and complete and not wrong


class Instants:
    """Kills in one study. run: a new folder in which the study was built; its first stage has one round."""

    def __init__(self, run: Path, study: Study) -> None:
        self._run, self._study, self._kills = run, study, 0
        arena = Arena(run, study)
        arena.start(*arena.folders)
        begins = CoordinatorShell._open_sum

        def stop(*_: object) -> None:
            raise Killed

        CoordinatorShell._open_sum = stop  # type: ignore[assignment, method-assign]
        try:
            arena.finish()
        except Killed:
            pass
        finally:
            CoordinatorShell._open_sum = begins  # type: ignore[method-assign]
            arena.close()
        self._model: tuple[bytes, ...] | None = None
        self._model = self.kill(COORDINATOR, None)[1]

    def kill(self, name: str, at: int | str | None) -> tuple[Fall, tuple[bytes, ...]]:
        """Kill a node as `Trap` says, start it again at once, and go on to the end. Returns also the final model."""
        self._kills += 1
        run = self._run.with_name(f"{self._run.name}-{self._kills}")
        shutil.copytree(self._run, run)
        folders = {COORDINATOR: coordinator_folder(run)}
        folders |= {member.name: site_folder(run, member.name) for member in self._study.sites}
        lives = dict.fromkeys(folders, 0)
        with witnessing(folders.__getitem__, lives.__getitem__):
            trap, arena = Trap(folders[name], name, at), Arena(run, self._study)
            arena.start(*arena.folders)
            with trap.set():
                try:
                    arena.finish()
                except Killed:
                    arena.end(name)
            if name not in arena.shells:
                lives[name] += 1
                arena.start(name)
                arena.finish()
            outcomes = arena.outcomes()
            arena.close()
        fall = _fall(folders, trap, outcomes, [f"{who}: {event.rule}" for who, event in arena.refused])
        model = final_models(run)
        shutil.rmtree(run)
        return fall._replace(same=self._model in (None, model)), model


def _fall(folders: dict[str, Path], trap: Trap, outcomes: dict[str, str], refused: list[str]) -> Fall:
    records = [read(folder) for folder in folders.values()]
    summed: dict[str, list[Summed]] = {name: read_summed(folder) for name, folder in folders.items()}
    opened = summed.pop(COORDINATOR)
    return Fall(
        trap.instants, outcomes, opened[-1].sites if opened else (), False, len(opened), inexact(summed, opened),
        opened_apart(opened), sum(map(masked_twice, summed.values())), sum(map(told_twice, records)),
        sum(map(taken_twice, records)), refused,
    )  # fmt: skip


def everywhere(instants: Instants, name: str, sites: int, told: Callable[[str], object]) -> int:
    """Kill a node at each of its instants, one after the other. Returns of how many the result does not hold."""
    calm, _ = instants.kill(name, None)
    wrong = 0
    for at, what in enumerate(calm.instants):
        fall, _ = instants.kill(name, at)
        if not fall.holds(sites):
            told(f"{name}, killed before it came to {what} ({at}): {fall._replace(instants=[])}")
            wrong += 1
    told(f"{name}: {len(calm.instants)} instants, {wrong} of them do not hold")
    return wrong


def main(told: Callable[[str], object] = print) -> int:
    with tempfile.TemporaryDirectory(prefix="fedsecure-instants-") as folder:
        run, cache = Path(folder) / "run", Path(folder) / "cache"
        study = build(SITES, parse_study(SHORT), run, cache, lambda _: None)
        instants = Instants(run, study)
        return 1 if sum(everywhere(instants, name, SITES.sites, told) for name in ("site-3", COORDINATOR)) else 0


if __name__ == "__main__":
    sys.exit(main())
