"""A whole sum in memory: real sites, a real coordinator, and a hand between them that can change or drop a message."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keys.identity import Identity
from keys.roster import Roster
from protocols.codec import decode, encode
from protocols.errors import ProtocolError
from protocols.messages import kind_of
from protocols.ring import Words, signed
from protocols.secagg import client, server, setup, unmasking
from protocols.secagg.graph import commitment, degree
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import Expected, Floors, assumed_corrupted, least_threshold
from protocols.secagg.messages import CohortMember, FlowPart, Input, Manifest

OPENING = bytes(range(32))
REAL = struct.pack("<d", 1.0)
MODEL = hashlib.sha256(b"model").digest()
FLOORS = Floors(sites=1, known=frozenset(f"site-{rank:04}" for rank in range(1000)))
_POOL: list[Identity] = []


def identities(count: int) -> list[Identity]:
    while len(_POOL) < count:
        _POOL.append(Identity.generate())
    return _POOL[:count]


def names(sites: int) -> list[str]:
    return [f"site-{rank:04}" for rank in range(sites)]


def manifest(sites: int, length: int = 3, **changes: Any) -> Manifest:
    corrupted = changes.pop("corrupted", assumed_corrupted(sites))
    threshold = changes.pop("threshold", least_threshold(sites, corrupted))
    wanted = degree(sites, corrupted, threshold)
    fields: dict[str, Any] = {
        "study": bytes(32), "stage": 0, "round": 0, "attempt": 0, "model": MODEL,
        "inputs": (Input("target", bytes(32)),), "flows": (FlowPart("weights", length),), "ring": 20,
        "cohort": tuple(CohortMember(name, 1) for name in names(sites)), "threshold": threshold,
        "corrupted": corrupted, "neighbours": wanted.neighbours, "holders": wanted.holders, "clip": REAL, "step": REAL,
        "noise": REAL, "budget": REAL, "schema": bytes(32), "terms": bytes(32), "code": bytes(32),
        "graph": commitment(OPENING),
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


def expected(of: Manifest, study: int = 0) -> Expected:
    """What an honest site computes, and an honest manifest says. study: how many sites, if not the cohort."""
    shared = {name: getattr(of, name) for name in Expected.__slots__ if name not in ("initial", "weights")}
    weights = dict.fromkeys(names(study), 1) or {member.site: member.weight for member in of.cohort}
    return Expected(**shared, initial=MODEL, weights=weights)


@dataclass
class Site:
    """One site with its ledger; `state` is whatever its last step left."""

    name: str
    identity: Identity
    roster: Roster
    vector: list[int]
    floors: Floors = field(default_factory=lambda: FLOORS)
    ledger: Ledger = field(default_factory=Ledger)
    state: Any = None
    first: bytes = MODEL  # the study's first model

    def fill(self, start: int, words: Words) -> None:
        words[:] = np.array(self.vector[start : start + len(words)], np.int64).astype(words.dtype)

    def open(self, message: Any, knows: Expected | None = None) -> Any:
        knows = expected(message.manifest) if knows is None else knows
        knows = replace(knows, initial=self.first)
        place = {"floors": self.floors, "roster": self.roster, "me": self.name}
        opened, self.ledger = client.open_sum(message, self.ledger, expected=knows, **place)
        self.state, answer = client.advertise_keys(opened, self.identity)
        return answer

    def share(self, message: Any) -> Any:
        self.state, answer = setup.share_keys(self.state, message, self.identity)
        return answer

    def mask(self, message: Any) -> Any:
        burned, self.ledger = client.burn(setup.accept_shares(self.state, message), self.ledger)
        self.state, answer = client.mask_input(burned, self.fill)
        return answer

    def check(self, message: Any) -> Any:
        signing, self.ledger = client.sign(client.hear_survivors(self.state, message), self.ledger)
        self.state, answer = client.sign_survivors(signing, self.identity)
        return answer

    def unmask(self, message: Any) -> Any:
        answering, self.ledger = client.answer(client.verify_agreement(self.state, message), self.ledger)
        self.state, answer = client.unmask(answering)
        return answer

    def hear(self, message: Any) -> Any:
        self.state, answer = client.hear_result(self.state, message, self.identity)
        return answer

    def confirm(self, message: Any) -> bytes:
        self.ledger = client.confirm_result(self.state, message, self.ledger, self.first)
        return self.ledger.entries[-1].result


def wire(message: Any) -> Any:
    """What arrives is what the codec makes of the bytes."""
    return decode(kind_of(message), encode(message), "peer")


Twist = Callable[[str, str, Any], Any]  # (step, site, message) -> what arrives instead; None: nothing
STEPS = ("open", "share", "mask", "check", "unmask", "hear")


def straight(step: str, site: str, message: Any) -> Any:
    return message


@dataclass
class Run:
    sites: Mapping[str, Site]
    total: list[int] | None = None
    survivors: frozenset[str] = frozenset()
    refusals: list[tuple[str, ProtocolError]] = field(default_factory=list)  # (who refused, what)
    vectors: dict[str, bytes] = field(default_factory=dict)
    said: dict[tuple[str, str], Any] = field(default_factory=dict)  # (step, site) -> what the site answered
    result: bytes = b""
    agreed: Any = None  # agreed-result
    state: Any = None  # the coordinator's last


def party(sites: int, length: int = 3, seed: int = 0, ring: int = 20) -> tuple[dict[str, Site], Identity, Roster]:
    hub, *members = identities(sites + 1)
    roster = Roster("hub", {"hub": hub.public, **{n: i.public for n, i in zip(names(sites), members, strict=True)}})
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-(2 ** (ring - 6)), 2 ** (ring - 6), (sites, length)).tolist()
    return (
        {n: Site(n, i, roster, v) for n, i, v in zip(names(sites), members, vectors, strict=True)},
        hub,
        roster,
    )


def run(
    sites: Mapping[str, Site], hub: Identity, roster: Roster, what: Manifest, *,
    drop: Mapping[str, Iterable[str]] | None = None, down: Twist = straight, up: Twist = straight,
) -> Run:  # fmt: skip
    """One sum. drop: step -> sites silent from that step on. down, up: change what arrives at a site, or from one."""
    done = Run(sites)
    gone: set[str] = set()
    members = [member.site for member in what.cohort]

    def ask(step: str, state: Any, take: Any, messages: Mapping[str, Any]) -> Any:
        gone.update((drop or {}).get(step, ()))
        for name, message in messages.items():
            if name in gone:
                continue
            try:
                arrived = down(step, name, message)
                answer = None if arrived is None else getattr(sites[name], step)(wire(arrived))
            except ProtocolError as refusal:
                done.refusals.append((name, refusal))
                gone.add(name)
                continue
            answer = None if answer is None else up(step, name, answer)
            if answer is None:
                gone.add(name)
                continue
            try:
                state = take(state, name, wire(answer))
                done.said[step, name] = answer
            except ProtocolError as refusal:
                done.refusals.append(("hub", refusal))
                gone.add(name)
        done.state = state
        return state

    state, opened = server.open_sum(what, OPENING, roster, hub)
    state = ask("open", state, server.take_keys, dict.fromkeys(members, opened))
    state, keysets = server.close_keys(state)
    state = ask("share", state, server.take_shares, keysets)
    state, relays = server.close_shares(state)
    state = ask("mask", state, server.take_vector, relays)
    done.vectors = {name: done.said["mask", name].vector for step, name in done.said if step == "mask"}
    checking, told = server.close_vectors(state)
    done.survivors = frozenset(state.sum.name(rank) for rank in state.survivors)
    state = ask("check", checking, server.take_check, dict.fromkeys(sorted(done.survivors), told))
    signed_by = [state.masking.sum.name(rank) for rank in sorted(state.signatures)]
    state, request = server.close_checks(state)
    state = ask("unmask", state, server.take_unmask, dict.fromkeys(signed_by, request))
    cohort, masks = state.masking.sum.cohort, unmasking.open_masks(state)
    words = unmasking.sum_vectors(cohort, (done.vectors[name] for name in sorted(done.survivors)))
    unmasking.remove_masks(cohort, words, masks)
    done.total = signed(cohort.ring, words).tolist()
    answered = [cohort.names[rank] for rank in sorted(state.answered)]
    agreeing, result = server.publish_result(state, hashlib.sha256(words.tobytes()).digest(), hub)
    agreeing = ask("hear", agreeing, server.take_agreement, dict.fromkeys(answered, result))
    agreed = done.agreed = server.close_agreement(agreeing)
    for name in answered:
        if name not in gone:
            done.result = sites[name].confirm(wire(agreed))
    return done


def plain_sum(sites: Mapping[str, Site], survivors: Iterable[str]) -> list[int]:
    return [sum(column) for column in zip(*(sites[name].vector for name in survivors), strict=True)]
