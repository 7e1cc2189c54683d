"""Heads of logs in the evidence: signed by their members, of the logs that are here, and of one log each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from fedsecure.audit.testimony import Finding, Status, Testimony, rosters_of
from keys.roster import Roster
from protocols.errors import FaultyPeer
from protocols.tlog.checkpoint import check_head, compare, encode, follow
from protocols.tlog.messages import Shown, SignedHead

AUDITOR: Final = "the evidence"  # whom errors of what lies here blame


class _Held(NamedTuple):
    """A head that is its member's. keys: 0 under its present ones, more under former ones."""

    signed: SignedHead
    keys: int


class _Wrong(Exception):
    """Says whose, and what."""


def heads(nodes: dict[str, Testimony]) -> tuple[Finding, frozenset[str]]:
    """One finding over all heads that anybody holds; and the members whose log of former keys is not here: they lost
    their folder and joined anew."""
    try:
        held = _signed_and_in_order(nodes)
        lost = _of_these_logs(nodes, held.values())
        logs = _each_of_one_log(held.values(), lost)
    except _Wrong as wrong:
        member, text = wrong.args
        return Finding("heads", member, Status.FAILED, text), frozenset()
    told = f"{len(held):,} heads of {logs} logs"
    if lost:
        return Finding(
            "heads", "", Status.OPEN, f"{told}; logs of former keys of {', '.join(sorted(lost))} are lost"
        ), lost
    return Finding("heads", "", Status.PROVED, told), lost


def _signed_and_in_order(nodes: dict[str, Testimony]) -> dict[bytes, _Held]:
    """By encoding. A log that begins anew does so under other keys."""
    study, rosters = next(iter(nodes.values())).closing.study, rosters_of([one.edition for one in nodes.values()])
    known: dict[bytes, _Held] = {}
    read: list[list[Shown]] = []
    for one in sorted(nodes.values(), key=lambda one: -len(one.heads)):
        if any(one.heads == longer[: len(one.heads)] for longer in read):
            continue  # the one list, as far as this member holds it
        read.append(one.heads)
        before: dict[str, _Held] = {}
        for number, shown in enumerate(one.heads):
            member, raw = shown.signed.head.member, encode(shown.signed)
            place = f"head {number} of the list that {one.name} holds"
            if raw not in known:
                keys = _keys(shown.signed, study, rosters)
                if keys is None:
                    raise _Wrong(member, f"{place}: not signed by {member}")
                known[raw] = _Held(shown.signed, keys)
            _check_follows(before.get(member), known[raw], shown, place)
            before[member] = known[raw]
    return known


def _keys(signed: SignedHead, study: bytes, rosters: Iterable[Roster]) -> int | None:
    for number, roster in enumerate(rosters):
        try:
            check_head(signed, peer=AUDITOR, study=study, roster=roster)
        except FaultyPeer:
            continue
        return number
    return None


def _check_follows(last: _Held | None, new: _Held, shown: Shown, place: str) -> None:
    member = new.signed.head.member
    try:
        try:
            follow(last and last.signed, new.signed, shown.proof, peer=member)
        except FaultyPeer:
            if last is None or last.keys == new.keys:
                raise
            follow(None, new.signed, shown.proof, peer=member)
    except FaultyPeer as error:
        raise _Wrong(member, f"{place}: {type(error).__name__}: {error.rule}") from None


def _of_these_logs(nodes: dict[str, Testimony], held: Iterable[_Held]) -> frozenset[str]:
    lost = set()
    for signed, keys in held:
        head, author = signed.head, nodes.get(signed.head.member)
        if author is None or (head.size <= len(author.tree) and author.tree.root(head.size) == head.root):
            continue
        if keys == 0:
            text = f"the log that is here is not the one that it signed after round {head.round}"
            raise _Wrong(head.member, text)
        lost.add(head.member)
    return frozenset(lost)


def _each_of_one_log(held: Iterable[_Held], lost: frozenset[str]) -> int:
    """Whether any two heads contradict each other, whoever holds them. Gives the number of logs."""
    logs: dict[tuple[str, int], list[SignedHead]] = {}
    for signed, keys in held:
        member = signed.head.member
        logs.setdefault((member, keys if member in lost else 0), []).append(signed)
    for (member, _), of_log in sorted(logs.items()):
        for first, second in pairwise(sorted(of_log, key=lambda signed: (signed.head.round, signed.head.size))):
            try:
                compare(first, second)
            except FaultyPeer as error:
                raise _Wrong(member, f"two members hold heads of two logs: {error.rule}") from None
    return len(logs)
