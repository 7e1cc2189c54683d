"""The terminal during a run: live bars while people watch, and one plain line per round and stage for all others.

`Display` subscribes to the progress events of one or several nodes. It prints numbers only, never a subject's id, and
holds no state of the run: what it shows is rebuilt from the events of the round that is under way.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import fmean
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fedsecure import progress
from fedsecure.plan import Stage, StageKind
from fedsecure.report.words import size

NAMED: Final = 4  # sites that are waited for by their names, on one line


@dataclass(slots=True)
class _Round:
    """What has been heard of one round, over all nodes."""

    losses: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # node -> loss of each step
    accuracy: dict[str, float] = field(default_factory=dict)  # node -> k-NN partition accuracy
    dice: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # node -> patients x structures
    sent: int = 0  # bytes of all nodes
    sums: list[progress.Summed] = field(default_factory=list)

    def loss(self) -> float | None:
        """Mean over sites of the mean over steps."""
        return fmean(map(fmean, self.losses.values())) if self.losses else None


class Display:
    """Shows the progress of a study; `on` may be called from any thread.

    stages: the study's, from `plan.schedule`. sites: nodes that get a bar of their own. lead: the node whose
    RoundEnded closes a round, the coordinator's name, or the site's own where a site watches itself alone.
    On a console that is no terminal there are lines only and no control codes. `quiet` leaves what went wrong.

    Use as a context manager: leaving it, by Ctrl-C too, gives the terminal back as it was.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        sites: Sequence[str],
        lead: str,
        *,
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        self._stages = tuple(stages)
        self._before = (0, *accumulate(stage.rounds + 1 for stage in stages))  # rounds before each stage
        self._lead = lead
        self._console = console or Console()
        self._quiet = quiet
        self._lock = threading.Lock()
        self._rounds: dict[tuple[int, int], _Round] = defaultdict(_Round)
        self._awaited: set[str] = set()  # sites that have not answered the running step of a secure sum
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
            transient=True,
        )
        self._overall = self._bars.add_task("all rounds", total=self._before[-1], note="")
        self._sites = {site: self._bars.add_task(site, total=None, note="waiting") for site in sites}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def on(self, node: str, event: progress.Progress) -> None:
        """Take one event of `node`."""
        with self._lock:
            now = self._rounds[event.stage, event.round]
            match event:
                case progress.RoundStarted():
                    self._started(node, event)
                case progress.Step():
                    self._step(node, event, now)
                case progress.Measured(metric="knn_partition_accuracy"):
                    now.accuracy[node] = event.value
                case progress.Measured():
                    pass
                case progress.Scored():
                    now.dice[node].append(event.dice)
                case progress.Sent():
                    now.sent += event.size
                case progress.SumAsked() | progress.SumHeard() | progress.SumStepEnded() | progress.Summed():
                    self._sum(event, now)
                case progress.Refused():
                    self._line(f"{node}: refused {event.rule} (from {event.peer})", "bold red")
                case progress.RoundEnded():
                    self._ended(node, event)
                case progress.Stopped(reason=reason) if reason != "finished":
                    self._line(f"{node}: {reason}", "bold red")
                case progress.Stopped():
                    pass

    def _started(self, node: str, event: progress.RoundStarted) -> None:
        if node == self._lead:
            self._bars.update(
                self._overall, completed=self._before[event.stage] + event.round, note=_place(event.name, event)
            )
        if node in self._sites:
            self._bars.reset(self._sites[node], total=None, note="")

    def _step(self, node: str, event: progress.Step, now: _Round) -> None:
        if event.loss is not None:
            now.losses[node].append(event.loss)
        task: TaskID | None = self._sites.get(node)
        if task is not None:
            note = "" if event.loss is None else f"loss {event.loss:.3f}"
            self._bars.update(task, completed=event.done, total=event.total, note=note)

    def _sum(
        self, event: progress.SumAsked | progress.SumHeard | progress.SumStepEnded | progress.Summed, now: _Round
    ) -> None:
        match event:
            case progress.SumAsked():
                self._awaited = set(event.sites)
                self._awaiting(event.step)
            case progress.SumHeard():
                self._awaited.discard(event.site)
                self._awaiting(event.step)
            case progress.SumStepEnded():
                for site in event.late:
                    self._line(f"secure sum: {site} was late with {event.step}", "yellow")
            case progress.Summed():
                now.sums.append(event)

    def _awaiting(self, step: str) -> None:
        """The step of a secure sum and whom it waits for: behind all rounds, and at the bars of these sites."""
        for site, task in self._sites.items():
            self._bars.update(task, note=f"waited for: {step}" if site in self._awaited else "")
        names = sorted(self._awaited)
        whom = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        self._bars.update(self._overall, note=f"secure sum, {step}" + (f": waits for {whom}" if names else ""))

    def _ended(self, node: str, event: progress.RoundEnded) -> None:
        if node in self._sites:
            self._bars.update(self._sites[node], note="done")
        if node != self._lead:
            return
        heard = self._rounds.pop((event.stage, event.round))
        stage = self._stages[event.stage]
        self._bars.update(self._overall, completed=self._before[event.stage] + event.round + 1)
        if self._quiet:
            return
        if event.round < stage.rounds:
            self._line(_round_line(stage, event, heard))
        else:
            self._line(_stage_line(stage, event, heard), "bold")

    def _line(self, text: str, style: str | None = None) -> None:
        # A site's name or a rule is text, not markup; long lines stay one line in a log.
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _place(name: str, event: progress.RoundStarted) -> str:
    return f"{name}, round {event.round + 1}/{event.rounds}" if event.round < event.rounds else f"{name}, evaluation"


def _round_line(stage: Stage, event: progress.RoundEnded, heard: _Round) -> str:
    loss = heard.loss()
    parts = [
        f"{stage.name}  round {event.round + 1}/{stage.rounds}",
        "loss not measured here" if loss is None else f"loss {loss:.4f}",
        f"{event.seconds:.1f} s",
        f"{size(heard.sent)} sent",
        f"{event.sites} {'site' if event.sites == 1 else 'sites'}",
        *map(_sum_words, heard.sums),
    ]
    return "  ".join(parts)


def _sum_words(done: progress.Summed) -> str:
    again = f", attempt {done.attempts}" if done.attempts > 1 else ""
    return f"secure sum of {len(done.survivors)}/{done.sites} in {done.seconds:.1f} s{again}"


def _stage_line(stage: Stage, event: progress.RoundEnded, heard: _Round) -> str:
    if stage.kind is StageKind.PRETRAIN:
        score = f"k-NN accuracy {fmean(heard.accuracy.values()):.3f}" if heard.accuracy else None
    else:
        score = f"Dice {fmean(map(fmean, heard.dice.values())):.3f}" if heard.dice else None
    return f"{stage.name}  done  {score or 'not scored here'}  {event.seconds:.1f} s"
