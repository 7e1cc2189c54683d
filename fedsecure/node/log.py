"""The log of a node's process: JSON lines on standard error, with levels that journald understands.

Of what the node observes only six kinds of event go in: rounds that begin and end, secure sums that are open and who
was late in one, refusals, and the stop. Losses, scores and ids of patients stay in the node's own metrics.jsonl.
"""

from __future__ import annotations

import json
import os
import time
from enum import IntEnum
from typing import Final, TextIO

from fedsecure.progress import Progress, Refused, RoundEnded, RoundStarted, Stopped, Summed, SumStepEnded

UNDER_JOURNALD: Final = "JOURNAL_STREAM"  # systemd.exec(5)


class Level(IntEnum):
    """syslog(3)'s numbers, by which `journalctl --priority` selects."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


class Log:
    """Writes lines to `stream`. `journald`: each with its level in front, as sd-daemon(3) reads it."""

    def __init__(self, node: str, stream: TextIO, journald: bool = UNDER_JOURNALD in os.environ) -> None:
        self._node, self._stream, self._journald = node, stream, journald

    def say(self, level: Level, event: str, **fields: str | int | float) -> None:
        line = {"at": round(time.time(), 3), "level": level.name.lower(), "node": self._node, "event": event, **fields}
        prefix = f"<{level}>" if self._journald else ""
        self._stream.write(f"{prefix}{json.dumps(line)}\n")
        self._stream.flush()

    def observe(self, event: Progress) -> None:
        """For a node's events; most are not for the log."""
        at = {"stage": event.stage, "round": event.round}
        match event:
            case RoundStarted(name=name, rounds=rounds):
                self.say(Level.INFO, "round-started", **at, name=name, rounds=rounds)
            case RoundEnded(seconds=seconds, sites=sites):
                self.say(Level.INFO, "round-ended", **at, seconds=round(seconds, 1), sites=sites)
            case SumStepEnded(step=step, late=late, asked=asked) if late:
                self.say(Level.WARNING, "late-in-sum", **at, step=step, asked=asked, late=", ".join(late))
            case Summed(survivors=survivors, sites=sites, attempts=attempts, seconds=seconds):
                counted = {"survivors": len(survivors), "sites": sites, "attempts": attempts}
                self.say(Level.INFO, "summed", **at, **counted, seconds=round(seconds, 1))
            case Refused(rule=rule, peer=peer):
                self.say(Level.WARNING, "refused", **at, peer=peer, rule=rule)
            case Stopped(reason=reason):
                level = Level.NOTICE if reason in ("finished", "interrupted") else Level.ERROR
                self.say(level, "stopped", **at, reason=reason)
            case _:
                pass
