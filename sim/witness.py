"""`python -m sim.witness ROLE FOLDER ...`: a node as `python -m fedsecure.node` starts it, and beside it a record, in
its folder, of what nodes keep to themselves, so that what others say can be held against it:

    accepted.jsonl         every frame that it accepts
    summed/<n>.msgpack     a site: the integers of each vector that it masks. A coordinator: of each sum that it opens
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from fedsecure import egress
from fedsecure.node import shell
from fedsecure.node.__main__ import main as node
from fedsecure.node.coordinator_shell import CoordinatorShell
from protocols.codec import encode
from protocols.envelope import Opened, open_frame
from protocols.messages import Kind, Message, kind_of
from protocols.secagg.client import Fill, mask_input
from protocols.secagg.manifest import manifest_digest
from protocols.secagg.messages import MaskedInput, SecAggOpen
from protocols.secagg.states import Burned

FILE: Final = "accepted.jsonl"
SUMMED: Final = "summed"

Integers = npt.NDArray[np.int32]


class Accepted(msgspec.Struct, frozen=True, array_like=True):
    """life: when the receiver was started. what: of a release type, stage and round, of a message of a secure sum type
    and what it belongs to; empty for all others."""

    life: int
    sender: str
    seq: int
    what: str
    body: str


class Summed(msgspec.Struct, frozen=True, array_like=True):
    """What a site put into a sum, or a coordinator read out of one. sites: whose. integers: little-endian int32."""

    manifest: bytes
    keyset: bytes
    stage: int
    round: int
    flows: tuple[str, ...]
    sites: tuple[str, ...]
    integers: bytes

    @property
    def values(self) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.integers, "<i4").astype(np.int64)


@contextmanager
def witnessing(folder_of: Callable[[str], Path], life_of: Callable[[str], int]) -> Iterator[None]:
    """All nodes of this process are witnessed, each in its folder. life_of(name): which of its starts this is."""
    finish = CoordinatorShell._finish_sum

    def accepting(frame: bytes, *, me: str, **named: Any) -> Opened:
        opened = open_frame(frame, me=me, **named)
        body = hashlib.sha256(encode(opened.message)).hexdigest()
        line = Accepted(life_of(me), opened.sender, opened.seq, _what(opened.message), body)
        with (folder_of(me) / FILE).open("ab", buffering=0) as record:  # with the system at once: no kill loses a line
            record.write(msgspec.json.encode(line) + b"\n")
        return opened

    def masking(burned: Burned, fill: Fill) -> Any:
        cohort, rank, keyset = burned.keyed.opened.cohort, burned.keyed.opened.me, burned.keyed.keyset
        manifest, parts = cohort.manifest, []

        def seen(start: int, words: Any) -> None:
            fill(start, words)
            parts.append(words.view(words.dtype.str.replace("u", "i")).astype("<i4"))

        masked = mask_input(burned, seen)
        name = manifest.cohort[rank].site
        flows = tuple(part.flow for part in manifest.flows)
        _keep(folder_of(name), Summed(
            cohort.digest, keyset, manifest.stage, manifest.round, flows, (name,), np.concatenate(parts).tobytes()
        ))  # fmt: skip
        return masked

    def finishing(self: CoordinatorShell, manifest: Any, integers: Integers, survivors: tuple[str, ...]) -> bytes:
        flows, digest = tuple(part.flow for part in manifest.flows), manifest_digest(manifest)
        row = Summed(digest, b"", manifest.stage, manifest.round, flows, survivors, integers.astype("<i4").tobytes())
        _keep(folder_of(self.name), row)
        return finish(self, manifest, integers, survivors)

    vars(shell)["open_frame"] = accepting  # what a shell opens its frames with
    vars(egress)["mask_input"] = masking
    CoordinatorShell._finish_sum = finishing  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(shell)["open_frame"], vars(egress)["mask_input"] = open_frame, mask_input
        CoordinatorShell._finish_sum = finish  # type: ignore[method-assign]


def main(arguments: list[str]) -> int:
    folder, life = Path(arguments[1]), time.monotonic_ns()
    with witnessing(lambda _: folder, lambda _: life):
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
    """Releases of one site, type and round, and messages of one sum, that came with more than one content."""
    bodies: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in records:
        if row.what:
            bodies[row.sender, row.what].add(row.body)
    return sum(len(contents) - 1 for contents in bodies.values())


def read_summed(folder: Path) -> list[Summed]:
    """What one node masked or opened, in its order."""
    files = sorted((folder / SUMMED).glob("*.msgpack"))
    return [msgspec.msgpack.decode(file.read_bytes(), type=Summed) for file in files]


def inexact(sites: Mapping[str, Iterable[Summed]], opened: Iterable[Summed]) -> int:
    """Sums that are not those of what the survivors masked for them."""
    put_in = {(name, row.manifest): row.values for name, rows in sites.items() for row in rows}
    return sum(not np.array_equal(sum(put_in[site, row.manifest] for site in row.sites), row.values) for row in opened)


def masked_twice(rows: Iterable[Summed]) -> int:
    """Vectors that one site masked under a keyset that had masked one."""
    return sum(count - 1 for count in Counter(row.keyset for row in rows).values())


def opened_apart(opened: Iterable[Summed]) -> int:
    """Sums of one round and flow over other survivors than one before them: their difference is about single sites."""
    survivors: dict[tuple[int, int, str], set[tuple[str, ...]]] = defaultdict(set)
    for row in opened:
        for flow in row.flows:
            survivors[row.stage, row.round, flow].add(row.sites)
    return sum(len(sets) - 1 for sets in survivors.values())


def _what(message: Message) -> str:
    of: Any = message
    match message:
        case SecAggOpen(manifest=manifest):
            place = manifest_digest(manifest).hex()
        case _ if hasattr(message, "keyset"):
            place = of.keyset.hex()
        case _ if isinstance(getattr(message, "manifest", None), bytes):
            place = of.manifest.hex()
        case _ if kind_of(message) is Kind.RELEASE and not isinstance(message, MaskedInput):
            place = f"{of.stage} {of.round}"
        case _:
            return ""
    return f"{type(message).__name__} {place}"


def _keep(folder: Path, row: Summed) -> None:
    place = folder / SUMMED
    place.mkdir(exist_ok=True)
    (place / f"{len(list(place.iterdir())):06}.msgpack").write_bytes(msgspec.msgpack.encode(row))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
