"""The models of a study against its logs: one for all sites in each round, and the last ones against the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fedsecure.audit.testimony import Finding, Status, Testimony
from fedsecure.errors import SettingsError
from fedsecure.plan import schedule
from protocols.tlog.leaf import Received, Refused

_OPENS: Final = "round-open"
_KEPT: Final = ("encoder.safetensors", "segmenter.safetensors")  # what a simulation puts at the top of a run


def models(run: Path, nodes: dict[str, Testimony]) -> Iterator[Finding]:
    """Three findings at most: rounds, results, files at the top of the run."""
    opened: dict[tuple[int, int], bytes] = {}
    for one in sorted(nodes.values(), key=_follows):
        for leaf in one.leaves:
            if isinstance(leaf, Refused) or not leaf.model:
                continue
            if isinstance(leaf, Received) and leaf.flow != _OPENS:
                continue  # its sender's word, maybe of a message that was refused: the sender's own log has it too
            known = opened.setdefault((leaf.stage, leaf.round), leaf.model)
            if known != leaf.model:
                at = f"stage {leaf.stage}, round {leaf.round}"
                yield Finding("models", one.name, Status.FAILED, f"{at}: it speaks of another model than others")
                return
    yield Finding("models", "", Status.PROVED, f"{len(opened):,} rounds, each with one model for all")
    hub = next((one for one in nodes.values() if one.name == one.edition.coordinator), None)
    if hub is None:
        yield Finding("models", "", Status.OPEN, "which models came of the study is the coordinator's to say")
        return
    yield from _results(run, hub, opened)


def _results(run: Path, hub: Testimony, opened: dict[tuple[int, int], bytes]) -> Iterator[Finding]:
    results = {one.name: one.digest for one in hub.closing.results}
    for stage, plan in enumerate(schedule(hub.study)):
        last = results.get(f"models/{stage}-{plan.rounds}.safetensors")
        if last is not None and opened.get((stage, plan.rounds), last) != last:
            text = f"the last model of stage {stage} is not the one that its sites were sent"
            yield Finding("models", hub.name, Status.FAILED, text)
            return
    here = {name: hub.folder / name for name in results if (hub.folder / name).is_file()}
    for name, path in here.items():
        if _digest(path) != results[name]:
            yield Finding("models", hub.name, Status.FAILED, f"{name}: not the file that came of the study")
            return
    kept = [name for name in _KEPT if hub.folder != run and (run / name).is_file()]
    for name in kept:
        if _digest(run / name) not in results.values():
            yield Finding("models", "", Status.FAILED, f"{name}: not a model that came of the study")
            return
    found = f"{len(here)} of {len(results)} models of the coordinator's, {len(kept)} of the run's"
    status = Status.PROVED if len(here) == len(results) else Status.OPEN
    yield Finding("models", hub.name, status, found if status is Status.PROVED else f"{found} are here to be compared")


def _follows(one: Testimony) -> bool:
    """Of the coordinator False: which model a round opens with is for it to say."""
    return one.name != one.edition.coordinator


def _digest(path: Path) -> bytes:
    """SHA-256 of a file. Raises SettingsError."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise SettingsError(f"a model cannot be read: {error.strerror}") from None
