"""Both ends of every message: what one member logged as sent against what the other logged as taken.

A message that was taken and that no log of its sender's holds has passed by the gate. One that was sent and not taken
was lost on its way, or its recipient had stopped: that its sender has it on record says how much may have left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, get_args

from fedsecure.audit.testimony import Finding, Status, Testimony
from protocols.messages import Kind, Logging
from protocols.tlog.leaf import Received, Sent, flow_of

_OF_LOGS: Final = frozenset(flow_of(message) for message in get_args(Logging))
_Message = tuple[Kind, str, int, bytes]  # kind, flow, bytes, SHA-256


def both_ends(nodes: dict[str, Testimony], lost: frozenset[str]) -> Iterator[Finding]:
    """Each message that left a member, by its size and digest, against what its recipient took. lost: members whose
    log is not here from its beginning, so that nothing of it is missed."""
    names = sorted({leaf.peer for one in nodes.values() for leaf in one.leaves} | nodes.keys())
    for name in names:
        for peer in names:
            if name in nodes and peer in nodes:
                sent = [leaf for leaf in nodes[name].leaves if isinstance(leaf, Sent) and leaf.peer == peer]
                took = [leaf for leaf in nodes[peer].leaves if isinstance(leaf, Received) and leaf.peer == name]
                if sent or took:
                    yield _pair(name, peer, sent, took, lost=name in lost)
            elif name in nodes and any(leaf.peer == peer for leaf in nodes[name].leaves):
                text = f"what it and {peer} say they sent each other has no other end here"
                yield Finding("both ends", name, Status.OPEN, text)


def _pair(name: str, peer: str, sent: list[Sent], took: list[Received], *, lost: bool) -> Finding:
    left, came = Counter(map(_identity, sent)), Counter(map(_identity, took))
    if extra := came - left:
        text = f"{peer} took {extra.total():,} messages of it, {_size(extra):,} bytes, that its log does not hold"
        return Finding("both ends", name, Status.OPEN if lost else Status.FAILED, text)
    matched = f"{came.total():,} messages, {_size(came):,} bytes, to {peer}"
    alone = left - came
    last = max((at for at, leaf in enumerate(sent) if came[_identity(leaf)]), default=-1)
    end = [leaf for leaf in sent[last + 1 :] if leaf.kind is Kind.CONTROL or leaf.flow in _OF_LOGS]
    if alone.total() == len(sent) - last - 1 == len(end):
        told = f"{matched}; {len(end)} more when it had stopped" if end else matched
        return Finding("both ends", name, Status.PROVED, told)
    told = f"{matched}; {alone.total():,} messages, {_size(alone):,} bytes, not acknowledged"
    return Finding("both ends", name, Status.OPEN, told)


def _identity(leaf: Sent | Received) -> _Message:
    return leaf.kind, leaf.flow, leaf.size, leaf.ciphertext


def _size(messages: Counter[_Message]) -> int:
    return sum(size * count for (_, _, size, _), count in messages.items())
