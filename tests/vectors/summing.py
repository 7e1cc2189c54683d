"""Secure sums: one of three sites, message by message, and what a site or the coordinator must refuse at each step.

A case's message is an honest one of the transcript in which `splice` = [from, to, bytes] replaced what stood there.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from msgspec.structs import replace
from world import IDENTITIES, NAMES, ROSTER, STUDY, Case, Tape, bad, fixed, load, ok

from keys import hybrid
from keys.encoding import prefixed, u64
from protocols.codec import encode
from protocols.messages import kind_of
from protocols.ring import Words, signed
from protocols.secagg import client, server, setup, unmasking
from protocols.secagg.client import AGREEMENT_LABEL, RESULT_LABEL, SURVIVORS_LABEL, result_data
from protocols.secagg.graph import commitment
from protocols.secagg.keyset import ADVERTISE_LABEL, advertisement_digest
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import Expected, Floors, manifest_digest, sign_manifest
from protocols.secagg.messages import CohortMember, FlowPart, Held, Input, KeyDigest, Manifest, Signed
from protocols.secagg.shares import SHARES_LABEL, _signed_data

SITES = NAMES[1:]
SLOW = load(Path(__file__).parents[1] / "interop" / "secagg_reader.py")
POOL = Path(__file__).with_name("encapsulations.hex")  # encapsulations are random in the library: drawn once and frozen
OPENING = fixed("opening")
FLOORS = Floors(known=frozenset(SITES), least_known=2, sites=3)
VECTORS = {"site-a": [1, -2, 3], "site-b": [10, 20, -30], "site-c": [-100, 200, 524000]}
MANIFEST = Manifest(
    study=STUDY, stage=0, round=2, attempt=0, model=fixed("model"), inputs=(Input("target", fixed("target")),),
    flows=(FlowPart("weights", 2), FlowPart("target", 1)), ring=20, cohort=tuple(CohortMember(n, 2) for n in SITES),
    threshold=3, corrupted=1, neighbours=0, holders=3, clip=struct.pack("<d", 1.0), step=struct.pack("<d", 2.0**-16),
    noise=struct.pack("<d", 0.0), budget=struct.pack("<d", 8.0), schema=fixed("schema"), terms=fixed("terms"),
    code=fixed("code"), graph=commitment(OPENING),
)  # fmt: skip
EXPECTED = Expected(
    **{name: getattr(MANIFEST, name) for name in Expected.__slots__ if name not in ("initial", "weights")},
    initial=MANIFEST.model,
    weights=dict.fromkeys(SITES, 2),
)


@contextmanager
def frozen_seals() -> Iterator[None]:
    """HPKE draws inside the library. Here the slow implementation seals, with encapsulations from the pool."""
    pool = dict(line.split(" ", 1) for line in POOL.read_text("ascii").splitlines()) if POOL.exists() else {}
    tape = Tape("ephemeral of a sum")

    def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
        place = hashlib.sha256(prefixed(public, info)).hexdigest()[:32]
        if place not in pool:
            secret, sent = hybrid.MLKEM768PublicKey.from_public_bytes(public[:1184]).encapsulate()
            pool[place] = f"{sent.hex()} {secret.hex()}"
            POOL.write_text("".join(f"{key} {value}\n" for key, value in pool.items()), "ascii")
        sent, secret = map(bytes.fromhex, pool[place].split())
        sealed: bytes = SLOW.hpke_seal(sent, secret, tape(32), public, plaintext, info)
        return sealed

    with mock.patch.object(hybrid, "seal", seal):
        yield


class _Entropy:
    """A tape that remembers all it gave."""

    def __init__(self, name: str) -> None:
        self.tape, self.drawn = Tape(f"sum/{name}"), b""

    def __call__(self, size: int) -> bytes:
        raw = self.tape(size)
        self.drawn += raw
        return raw


class Transcript:
    """An honest sum. said: (step, site) -> message to, or from, the site."""

    def __init__(self) -> None:
        self.to: dict[tuple[str, str], Any] = {}
        self.by: dict[tuple[str, str], Any] = {}
        entropy = {name: _Entropy(name) for name in SITES}
        states: dict[str, Any] = {}
        ledgers: dict[str, Ledger] = {}
        state, opened = server.open_sum(MANIFEST, OPENING, ROSTER, IDENTITIES["coordinator"])
        for name in SITES:
            self.to["open", name] = opened
            place: Any = {
                "expected": EXPECTED,
                "floors": FLOORS,
                "roster": ROSTER,
                "me": name,
            }
            begun, ledgers[name] = client.open_sum(opened, Ledger(), **place)
            states[name], self.by["open", name] = client.advertise_keys(begun, IDENTITIES[name], entropy[name])
            state = server.take_keys(state, name, self.by["open", name])
        sharing, keysets = server.close_keys(state)
        for name in SITES:
            self.to["share", name] = keysets[name]
            with frozen_seals():
                states[name], self.by["share", name] = setup.share_keys(
                    states[name], keysets[name], IDENTITIES[name], entropy[name]
                )
            sharing = server.take_shares(sharing, name, self.by["share", name])
        masking, relays = server.close_shares(sharing)
        for name in SITES:
            self.to["mask", name] = relays[name]
            burned, ledgers[name] = client.burn(setup.accept_shares(states[name], relays[name]), ledgers[name])
            states[name], self.by["mask", name] = client.mask_input(burned, filling(VECTORS[name]))
            masking = server.take_vector(masking, name, self.by["mask", name])
        checking, told = server.close_vectors(masking)
        for name in SITES:
            self.to["check", name] = told
            signing, ledgers[name] = client.sign(client.hear_survivors(states[name], told), ledgers[name])
            states[name], self.by["check", name] = client.sign_survivors(signing, IDENTITIES[name])
            checking = server.take_check(checking, name, self.by["check", name])
        unmasking_, request = server.close_checks(checking)
        for name in SITES:
            self.to["unmask", name] = request
            agreed = client.verify_agreement(states[name], request)
            answering, ledgers[name] = client.answer(agreed, ledgers[name])
            states[name], self.by["unmask", name] = client.unmask(answering)
            unmasking_ = server.take_unmask(unmasking_, name, self.by["unmask", name])
        cohort = masking.sum.cohort
        words = unmasking.sum_vectors(cohort, [self.by["mask", name].vector for name in SITES])
        unmasking.remove_masks(cohort, words, unmasking.open_masks(unmasking_))
        self.total = signed(cohort.ring, words).tolist()
        agreeing, result = server.publish_result(unmasking_, fixed("result"), IDENTITIES["coordinator"])
        for name in SITES:
            self.to["hear", name] = result
            _, self.by["hear", name] = client.hear_result(states[name], result, IDENTITIES[name])
            agreeing = server.take_agreement(agreeing, name, self.by["hear", name])
        for name in SITES:
            self.to["confirm", name] = server.close_agreement(agreeing)
        self.ledger = ledgers["site-a"]
        self.entropy = {name: entropy[name].drawn for name in SITES}
        self.digest, self.keyset = cohort.digest, masking.sum.keyset


def filling(vector: list[int]) -> client.Fill:
    def fill(start: int, words: Words) -> None:
        words[:] = np.array(vector[start : start + len(words)], np.int64).astype(words.dtype)

    return fill


def sum_context(done: Transcript) -> dict[str, Any]:
    def rows(said: dict[tuple[str, str], Any]) -> dict[str, str]:
        return {f"{step} {name}": f"{kind_of(m)} {encode(m).hex()}" for (step, name), m in said.items()}

    return {
        "vectors": VECTORS, "total": done.total, "opening": OPENING.hex(), "manifest": done.digest.hex(),
        "keyset": done.keyset.hex(), "entropy": {name: raw.hex() for name, raw in done.entropy.items()},
        "to": rows(done.to), "by": rows(done.by),
    }  # fmt: skip


def sum_vectors() -> tuple[dict[str, Any], list[Case]]:
    done = Transcript()
    cases: list[Case] = []

    def case(name: str, whose: str, step: str, site: str, change: Any) -> dict[str, Any]:
        honest = (done.to if whose == "to" else done.by)[step, site]
        message = change(honest)
        before, after = encode(honest), encode(message)
        start = next(
            (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
        )
        ends = zip(reversed(before[start:]), reversed(after[start:]), strict=False)
        same = next((i for i, (a, b) in enumerate(ends) if a != b), min(len(before), len(after)) - start)
        splice = [start, len(before) - same, after[start : len(after) - same].hex()]
        return {"name": f"{step}: {name}", "whose": whose, "step": step, "site": site, "splice": splice}

    def site(step: str, name: str, error: str, blame: str, rule: str, change: Any, **more: str) -> None:
        fields = {**case(name, "to", step, "site-a", change), **more}
        cases.append(bad(fields.pop("name"), error, blame, rule, **fields))

    def hub(step: str, name: str, error: str, rule: str, change: Any, whose: str = "site-b") -> None:
        fields = case(name, "by", step, whose, change)
        cases.append(bad(fields.pop("name"), error, whose, rule, **fields))

    for step, name in done.to:
        fields = case(f"valid, to {name}", "to", step, name, lambda m: m)
        cases.append(ok(fields.pop("name"), **fields))
    _open_cases(site, done)
    _share_cases(site, done)
    _mask_cases(site, done)
    _end_cases(site, done)
    _hub_cases(hub, done)
    return sum_context(done), cases


def _with(**fields: Any) -> Any:
    """The message with these fields."""
    return lambda message: replace(message, **fields)


def _open_cases(site: Any, done: Transcript) -> None:
    coordinator = IDENTITIES["coordinator"]

    def resigned(**fields: Any) -> Any:
        return lambda m: sign_manifest(replace(m.manifest, **fields), coordinator)

    signed_ = "a manifest is signed by the coordinator"
    site("open", "not signed", "BadSignature", "coordinator", signed_, _with(signature=bytes(64)))
    site("open", "another model", "BadSignature", "coordinator", signed_,
         lambda m: replace(m, manifest=replace(m.manifest, model=fixed("other"))))  # fmt: skip
    changes: dict[str, Any] = {
        "study": fixed("other"), "stage": 1, "round": 3, "model": fixed("other"), "inputs": (), "ring": 24,
        "flows": (FlowPart("weights", 3),), "clip": bytes(8), "step": bytes(8), "budget": bytes(8),
        "noise": struct.pack("<d", 1.0),
        "schema": fixed("other"), "terms": fixed("other"), "code": fixed("other"),
    }  # fmt: skip
    for field, value in changes.items():
        rule = f"the manifest's {field} is what the site received or computed itself"
        site("open", f"another {field}", "Inconsistent", "coordinator", rule, resigned(**{field: value}))
    weights = (CohortMember("site-a", 1), *MANIFEST.cohort[1:])
    all_ = "a cohort is all sites of the study, with its weights"
    site("open", "another weight", "Inconsistent", "coordinator", all_, resigned(cohort=weights))
    puppet = (*MANIFEST.cohort[:2], CohortMember("site-z", 2))
    site("open", "a puppet", "Inconsistent", "coordinator", all_, resigned(cohort=puppet))
    hub_too = (CohortMember("coordinator", 2), *MANIFEST.cohort[:2])
    site("open", "the coordinator in the cohort", "Inconsistent", "coordinator", all_, resigned(cohort=hub_too))
    two = resigned(cohort=MANIFEST.cohort[:2], threshold=2)
    site("open", "two of three sites", "Inconsistent", "coordinator", all_, two)
    site("open", "nobody corrupted", "BelowFloor", "coordinator", "corrupted sites as this one",
         resigned(corrupted=0))  # fmt: skip
    site("open", "two shares open a secret", "BelowFloor", "coordinator", "the graph is that", resigned(holders=2))
    site("open", "a ring of neighbours", "BelowFloor", "coordinator", "the graph is that", resigned(neighbours=2))
    again = {"ledger": done.ledger.to_bytes().hex()}
    site("open", "the same once more", "Spent", "coordinator", "comes once", lambda m: m, **again)
    came = done.ledger.confirm(MANIFEST, done.digest, fixed("result"), "coordinator", MANIFEST.model)
    after = {"ledger": came.to_bytes().hex()}
    before = replace(MANIFEST, round=1)
    led = Ledger().confirm(before, manifest_digest(before), fixed("result"), "coordinator", MANIFEST.model)
    site("open", "a model that is not what came of the round before", "Spent", "coordinator",
         "what came of the round before", lambda m: m, ledger=led.to_bytes().hex())  # fmt: skip
    late = replace(MANIFEST, round=3)
    led = Ledger().open(late, manifest_digest(late), FLOORS, "coordinator", MANIFEST.model)
    site("open", "an earlier round than before", "Spent", "coordinator", "rounds of a study ascend", lambda m: m,
         ledger=led.to_bytes().hex())  # fmt: skip
    site("open", "a second attempt of a sum of which a result came", "Spent", "coordinator", "summed no more",
         resigned(attempt=1), **after)  # fmt: skip
    site("open", "a fourth attempt", "BelowFloor", "coordinator", "at most 3 times", resigned(attempt=3))


def _share_cases(site: Any, done: Transcript) -> None:
    _, other = done.to["share", "site-a"].advertisements
    wrong = replace(other, mask=other.mask[:-1] + b"\1")

    def put(keys: Any) -> Any:
        return lambda m: replace(
            m,
            digests=(*m.digests[:2], KeyDigest(2, advertisement_digest(keys))),
            advertisements=(m.advertisements[0], keys),
        )

    def again(**fields: Any) -> Any:
        keys = replace(other, **fields)
        data = prefixed(keys.manifest, u64(2), keys.mask, keys.seal, keys.seed_commitment)
        return put(replace(keys, signature=IDENTITIES["site-c"].sign(ADVERTISE_LABEL, data)))

    hub = "coordinator"
    site("share", "of another manifest", "UnexpectedMessage", hub, "the manifest that the site advertised for",
         _with(manifest=fixed("other")))  # fmt: skip
    site("share", "another opening", "Inconsistent", hub, "opened as the manifest committed",
         _with(opening=fixed("other")))  # fmt: skip
    site("share", "a rank outside the cohort", "Malformed", hub, "of members of the cohort",
         lambda m: replace(m, digests=(*m.digests, KeyDigest(3, bytes(32)))))  # fmt: skip
    site("share", "own keys replaced", "Inconsistent", hub, "as it advertised them",
         lambda m: replace(m, digests=(KeyDigest(0, bytes(32)), *m.digests[1:])))  # fmt: skip
    site("share", "own keys left out", "Inconsistent", hub, "as it advertised them",
         lambda m: replace(m, digests=m.digests[1:]))  # fmt: skip
    site("share", "two of three", "TooFew", "nobody", "AdvertiseKeys needs 3 sites, 2 are left",
         lambda m: replace(m, digests=m.digests[:2], advertisements=m.advertisements[:1]))  # fmt: skip
    site("share", "a neighbour's keys left out", "Inconsistent", hub, "advertisements of its neighbours",
         lambda m: replace(m, advertisements=m.advertisements[:1]))  # fmt: skip
    site("share", "another's keys than the digest says", "Inconsistent", hub, "digest that the keyset says",
         lambda m: replace(m, advertisements=(m.advertisements[0], wrong)))  # fmt: skip
    site("share", "keys substituted", "BadSignature", hub, "signed by the site whose they are", put(wrong))
    site("share", "a neighbour with another manifest", "TooFew", "nobody", "AdvertiseKeys needs 3 sites, 2 are left",
         again(manifest=fixed("other")))  # fmt: skip
    low = other.mask[:1184] + bytes(32)
    site("share", "a key of low order", "Malformed", "site-c", "a sound key", again(mask=low))
    site("share", "no ML-KEM key", "Malformed", "site-c", "a sound key", again(mask=b"\xff" * 1184 + other.mask[1184:]))
    site("share", "one key for two uses", "Malformed", "site-c", "for one use", again(mask=other.seal))
    mine = done.by["open", "site-a"]
    site("share", "a reflected key", "Malformed", hub, "no two keys", again(mask=mine.mask))


def _mask_cases(site: Any, done: Transcript) -> None:
    hub = "coordinator"

    def changed(**fields: Any) -> Any:
        return lambda m: replace(m, shares=(m.shares[0], replace(m.shares[1], **fields)))

    def again(**fields: Any) -> Any:
        def change(m: Any) -> Any:
            entry = replace(m.shares[1], **fields)
            signature = IDENTITIES["site-c"].sign(SHARES_LABEL, _signed_data(entry, m.keyset))
            return replace(m, shares=(m.shares[0], replace(entry, signature=signature)))

        return change

    signed_ = "signed by their dealer for this keyset"
    site("mask", "of another keyset", "UnexpectedMessage", hub, "of the keyset that the site is in",
         _with(keyset=fixed("other")))  # fmt: skip
    site("mask", "this site did not share", "Inconsistent", hub, "those who shared keys advertised them",
         _with(sharers=(1, 2)))  # fmt: skip
    site("mask", "a sharer outside the keyset", "Inconsistent", hub, "those who shared keys advertised them",
         _with(sharers=(0, 1, 2, 3)))  # fmt: skip
    site("mask", "two of three", "TooFew", "nobody", "ShareKeys needs 3 sites, 2 are left",
         lambda m: replace(m, sharers=(0, 1), shares=m.shares[:1]))  # fmt: skip
    site("mask", "a dealer's shares left out", "Inconsistent", hub, "the shares of all its neighbours",
         lambda m: replace(m, shares=m.shares[:1]))  # fmt: skip
    for_b = next(e for e in done.by["share", "site-c"].shares if e.holder == 1)
    site("mask", "shares for another holder", "Inconsistent", hub, "dealt to it",
         lambda m: replace(m, shares=(m.shares[0], for_b)))  # fmt: skip
    site("mask", "a sealed share altered", "BadSignature", hub, signed_, changed(sealed=bytes(1202)))
    site("mask", "a commitment altered", "BadSignature", hub, signed_, changed(seed_commitment=bytes(32)))
    site("mask", "shares not signed", "BadSignature", hub, signed_, changed(signature=bytes(64)))
    site("mask", "sealed to somebody else", "CannotDecrypt", "site-c", "open for their holder",
         again(sealed=for_b.sealed))  # fmt: skip
    fits = "the one that its dealer committed to"
    site("mask", "another seed's share", "BadShare", "site-c", fits, again(seed_commitment=bytes(32)))
    site("mask", "another key's share", "BadShare", "site-c", fits, again(key_commitment=bytes(32)))


def _end_cases(site: Any, done: Transcript) -> None:
    hub = "coordinator"
    for step in ("check", "unmask", "hear", "confirm"):
        site(step, "of another keyset", "UnexpectedMessage", hub, "of the keyset that the site is in",
             _with(keyset=fixed("other")))  # fmt: skip
    spent = {"ledger": done.ledger.to_bytes().hex()}
    before = replace(MANIFEST, round=1)
    old, hub_ = manifest_digest(before), "coordinator"
    led = Ledger().open(before, old, FLOORS, hub_, MANIFEST.model).burn(old, bytes(32), hub_)
    led = led.sign(old, b"others", frozenset({0, 1}), hub_).answer(old, b"others", hub_)
    led = led.open(MANIFEST, done.digest, FLOORS, hub_, MANIFEST.model).burn(done.digest, done.keyset, hub_)
    site("check", "other survivors than of a sum of the model that may be open", "Spent", hub,
         "have the same survivors", lambda m: m, ledger=led.to_bytes().hex())  # fmt: skip
    site("check", "survivors signed before", "Spent", hub, "one set of survivors is signed", lambda m: m, **spent)
    site("unmask", "answered before", "Spent", hub, "shares are given away once", lambda m: m, **spent)
    site("mask", "masked before", "Spent", hub, "a keyset masks one vector once", lambda m: m, **spent)
    site("check", "overlapping lists", "Inconsistent", hub, "among the survivors and among the dropped",
         _with(dropped=(2,)))  # fmt: skip
    site("check", "a sharer in neither list", "Inconsistent", hub, "all who shared keys",
         _with(survivors=(0, 1)))  # fmt: skip
    site("check", "a stranger survives", "Inconsistent", hub, "all who shared keys",
         _with(survivors=(0, 1, 2, 3)))  # fmt: skip
    site("check", "this site dropped", "UnexpectedMessage", hub, "told to survivors",
         _with(survivors=(1, 2), dropped=(0,)))  # fmt: skip
    site("check", "two of three survive", "TooFew", "nobody", "ConsistencyCheck needs 3 sites, 2 are left",
         _with(survivors=(0, 1), dropped=(2,)))  # fmt: skip
    site("unmask", "two signatures", "Inconsistent", hub, "at least 3 survivors sign the same survivors",
         lambda m: replace(m, signatures=m.signatures[:2]))  # fmt: skip
    site("unmask", "a stranger's signature", "UnexpectedMessage", hub, "signed by survivors",
         lambda m: replace(m, signatures=(*m.signatures, Signed(3, bytes(64)))))  # fmt: skip
    differs = prefixed(done.digest, done.keyset, u64(0) + u64(2), u64(1))
    other = Signed(2, IDENTITIES["site-c"].sign(SURVIVORS_LABEL, differs))
    site("unmask", "told other survivors", "BadSignature", hub, "all survivors sign the same survivors",
         lambda m: replace(m, signatures=(*m.signatures[:2], other)))  # fmt: skip
    site("unmask", "one signature twice", "BadSignature", hub, "all survivors sign the same survivors",
         lambda m: replace(m, signatures=(*m.signatures[:2], Signed(2, m.signatures[1].signature))))  # fmt: skip
    site("hear", "another result", "BadSignature", hub, "a result is signed by the coordinator",
         _with(result=fixed("other")))  # fmt: skip
    result = "a result is signed by the coordinator"
    data = result_data(done.digest, done.keyset, fixed("result"))
    site("hear", "not signed", "BadSignature", hub, result, _with(signature=bytes(64)))
    site("hear", "signed by a site", "BadSignature", hub, result,
         _with(signature=IDENTITIES["site-c"].sign(RESULT_LABEL, data)))  # fmt: skip
    site("hear", "signed as sites sign", "BadSignature", hub, result,
         _with(signature=IDENTITIES["coordinator"].sign(AGREEMENT_LABEL, data)))  # fmt: skip
    old = result_data(done.digest, fixed("other"), fixed("result"))
    site("hear", "signed for another keyset", "BadSignature", hub, result,
         _with(signature=IDENTITIES["coordinator"].sign(RESULT_LABEL, old)))  # fmt: skip
    site("confirm", "two signatures", "Inconsistent", hub, "at least 3 survivors sign the same result",
         lambda m: replace(m, signatures=m.signatures[:2]))  # fmt: skip
    lied = result_data(done.digest, done.keyset, fixed("other"))
    told = Signed(2, IDENTITIES["site-c"].sign(AGREEMENT_LABEL, lied))
    site("confirm", "told another result", "BadSignature", hub, "all survivors sign the same result",
         lambda m: replace(m, signatures=(*m.signatures[:2], told)))  # fmt: skip
    site("confirm", "signed as the coordinator signs", "BadSignature", hub, "all survivors sign the same result",
         lambda m: replace(m, signatures=(*m.signatures[:2], Signed(2, IDENTITIES["site-c"].sign(
             RESULT_LABEL, result_data(done.digest, done.keyset, fixed("result")))))))  # fmt: skip


def _hub_cases(hub: Any, done: Transcript) -> None:
    hub("open", "another's rank", "Inconsistent", "under its own rank", _with(rank=2))
    hub(
        "open",
        "another manifest",
        "Inconsistent",
        "for the manifest of the sum",
        lambda m: replace(m, manifest=bytes(32)),
    )
    hub(
        "open",
        "not signed",
        "BadSignature",
        "signed by the site whose they are",
        lambda m: replace(m, signature=bytes(64)),
    )
    hub(
        "share",
        "another keyset",
        "UnexpectedMessage",
        "of the keyset of the sum",
        lambda m: replace(m, keyset=bytes(32)),
    )
    hub(
        "share",
        "nothing for one",
        "Inconsistent",
        "to its neighbours and itself",
        lambda m: replace(m, shares=m.shares[1:]),
    )
    hub("share", "not signed", "BadSignature", "signed by their dealer",
        lambda m: replace(m, shares=(replace(m.shares[0], signature=bytes(64)), *m.shares[1:])))  # fmt: skip
    hub(
        "mask",
        "another keyset",
        "UnexpectedMessage",
        "of the keyset of the sum",
        lambda m: replace(m, keyset=bytes(32)),
    )
    wrong = "the manifest's length and ring"
    hub("mask", "a byte short", "Malformed", wrong, lambda m: replace(m, vector=m.vector[:-1]))
    hub("mask", "a byte long", "Malformed", wrong, lambda m: replace(m, vector=m.vector + b"\0"))
    hub("mask", "not filled up with zeros", "Malformed", wrong,
        lambda m: replace(m, vector=m.vector[:-1] + bytes([m.vector[-1] | 0x80])))  # fmt: skip
    hub(
        "check",
        "not signed",
        "BadSignature",
        "signs the survivors that it was told",
        lambda m: replace(m, signature=bytes(64)),
    )
    gives = "the shares that it was dealt"
    hub("unmask", "another share", "BadShare", gives, lambda m: replace(m, seeds=(Held(0, bytes(33)), *m.seeds[1:])))
    hub(
        "unmask",
        "outside the field",
        "BadShare",
        gives,
        lambda m: replace(m, seeds=(Held(0, b"\xff" * 33), *m.seeds[1:])),
    )
    hub(
        "unmask",
        "a share missing",
        "Inconsistent",
        "the seed's share of each survivor",
        lambda m: replace(m, seeds=m.seeds[1:]),
    )
    hub("unmask", "both secrets of one", "Inconsistent", "the mask key's share of each dropout",
        lambda m: replace(m, keys=(Held(0, m.seeds[0].share),)))  # fmt: skip
    hub(
        "hear",
        "not signed",
        "BadSignature",
        "signs the result that it was told",
        lambda m: replace(m, signature=bytes(64)),
    )
    told = "signs the survivors that it was told"
    own = IDENTITIES["site-b"]
    hub("check", "another keyset", "UnexpectedMessage", "of the keyset of the sum", _with(keyset=bytes(32)))
    hub("check", "another site's signature", "BadSignature", told,
        _with(signature=done.by["check", "site-c"].signature))  # fmt: skip
    others = prefixed(done.digest, done.keyset, u64(0) + u64(1), u64(2))
    hub("check", "other survivors", "BadSignature", told, _with(signature=own.sign(SURVIVORS_LABEL, others)))
    everybody = prefixed(done.digest, done.keyset, u64(0) + u64(1) + u64(2), b"")
    hub("check", "signed as a result is", "BadSignature", told, _with(signature=own.sign(AGREEMENT_LABEL, everybody)))
    hub("unmask", "another keyset", "UnexpectedMessage", "of the keyset of the sum", _with(keyset=bytes(32)))
    agrees = "signs the result that it was told"
    hub("hear", "another keyset", "UnexpectedMessage", "of the keyset of the sum", _with(keyset=bytes(32)))
    hub("hear", "another site's signature", "BadSignature", agrees,
        _with(signature=done.by["hear", "site-c"].signature))  # fmt: skip
    lied = result_data(done.digest, done.keyset, fixed("other"))
    hub("hear", "another result", "BadSignature", agrees, _with(signature=own.sign(AGREEMENT_LABEL, lied)))
    data = result_data(done.digest, done.keyset, fixed("result"))
    hub("hear", "signed as the coordinator signs", "BadSignature", agrees,
        _with(signature=own.sign(RESULT_LABEL, data)))  # fmt: skip
    assert done.total == [sum(column) for column in zip(*VECTORS.values(), strict=True)]


if __name__ == "__main__":
    sys.stdout.write(f"{len(sum_vectors()[1])} cases\n")
