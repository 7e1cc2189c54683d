"""`python -m sim.witness ROLE FOLDER ...`: a node as `python -m fedsecure.node` starts it, and beside it a record, in
its folder, of every frame that it accepts: what others sent it, against what they say of themselves.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from fedsecure.node import shell
from fedsecure.node.__main__ import main as node
from protocols.codec import encode
from protocols.envelope import Opened, open_frame
from protocols.messages import Kind, kind_of

FILE: Final = "accepted.jsonl"


class Accepted(msgspec.Struct, frozen=True, array_like=True):
    """life: when the receiver was started. what: type, stage and round of a release; empty for all others."""

    life: int
    sender: str
    seq: int
    what: str
    body: str


def main(arguments: list[str]) -> int:
    folder, life, inner = Path(arguments[1]), time.monotonic_ns(), open_frame
    record = (folder / FILE).open("ab", buffering=0)  # with the system at once: a kill of the node loses no line

    def witnessed(frame: bytes, **named: Any) -> Opened:
        opened = inner(frame, **named)
        message, what = opened.message, ""
        if kind_of(message) is Kind.RELEASE:
            what = f"{type(message).__name__} {message.stage} {message.round}"  # type: ignore[union-attr]
        body = hashlib.sha256(encode(message)).hexdigest()
        record.write(msgspec.json.encode(Accepted(life, opened.sender, opened.seq, what, body)) + b"\n")
        return opened

    vars(shell)["open_frame"] = witnessed  # what a shell opens its frames with
    return node(arguments)


def read(folder: Path) -> list[Accepted]:
    """The record of one node, over all its starts."""
    lines = (folder / FILE).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Accepted) for line in lines]


def taken_twice(records: Iterable[Accepted]) -> int:
    """Frames that one life of a node accepted more than once."""
    frames = Counter((row.life, row.sender, row.seq) for row in records)
    return sum(count - 1 for count in frames.values())


def told_twice(records: Iterable[Accepted]) -> int:
    """Releases of one site, type and round that came with more than one content."""
    bodies: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in records:
        if row.what:
            bodies[row.sender, row.what].add(row.body)
    return sum(len(contents) - 1 for contents in bodies.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
