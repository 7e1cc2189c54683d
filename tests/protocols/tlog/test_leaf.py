"""A leaf has one encoding, says nothing that its author could choose freely, and commits to one plaintext."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.agreement import Agreement
from protocols import messages as m
from protocols.errors import FaultyPeer
from protocols.tlog.leaf import FLOWS as LOGGED
from protocols.tlog.leaf import Leaf, Reason, Received, Refused, Sent, commitment, decode_leaf, encode_leaf

FLOWS = {
    "hello": m.Kind.CONTROL, "round-done": m.Kind.CONTROL, "leave": m.Kind.CONTROL, "want-target": m.Kind.CONTROL,
    "ask-targets": m.Kind.CONTROL, "study-closed": m.Kind.CONTROL,
    "log-head": m.Kind.SHARE, "log-heads": m.Kind.SHARE, "log-witness": m.Kind.SHARE,
    "weight-update": m.Kind.RELEASE, "feature-bank": m.Kind.RELEASE, "prototype-sum": m.Kind.RELEASE,
    "metric-report": m.Kind.RELEASE, "target-update": m.Kind.RELEASE, "distance-report": m.Kind.RELEASE,
    "masked-input": m.Kind.RELEASE,
    "advertise-keys": m.Kind.SHARE, "share-keys": m.Kind.SHARE, "consistency-check": m.Kind.SHARE,
    "unmask-shares": m.Kind.SHARE, "result-agreement": m.Kind.SHARE, "keyset": m.Kind.SHARE,
    "relay-shares": m.Kind.SHARE, "survivors": m.Kind.SHARE, "unmask-request": m.Kind.SHARE,
    "agreed-result": m.Kind.SHARE, "secagg-open": m.Kind.PUBLISH, "sum-result": m.Kind.PUBLISH,
    "round-open": m.Kind.PUBLISH, "bank-relay": m.Kind.PUBLISH, "target-model": m.Kind.PUBLISH,
}  # fmt: skip
NOTES = {
    "greeting": m.Kind.CONTROL, "inquiry": m.Kind.CONTROL, "begin": m.Kind.CONTROL, "verdicts": m.Kind.CONTROL,
    "key-share": m.Kind.SHARE, "digests": m.Kind.RELEASE,
}  # fmt: skip
numbers = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
shapes = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=8).map(tuple), max_size=5).map(tuple)
flows = st.sampled_from(sorted(FLOWS | NOTES))
counts = st.integers(0, 2**31 - 1)
places = st.tuples(counts, counts)
models = st.just(b"") | digests
tails = st.tuples(st.just(-1) | numbers, digests, digests)


def sent(
    seq: int, flow: str, peer: str, at: Any, shape: Any, size: int, ciphertext: bytes, model: bytes, tail: Any
) -> Leaf:
    return Sent(1, seq, (FLOWS | NOTES)[flow], peer, flow, *at, shape, size, ciphertext, bytes(32), model, *tail)


def received(seq: int, flow: str, peer: str, at: Any, size: int, ciphertext: bytes, model: bytes) -> Leaf:
    return Received(1, seq, (FLOWS | NOTES)[flow], peer, flow, *at, size, ciphertext, model)


def refused(seq: int, flow: str, peer: str, at: Any, shape: Any, size: int, reason: Reason, tail: Any) -> Leaf:
    return Refused(1, seq, (FLOWS | NOTES)[flow], peer, flow, *at, shape, size, reason, bytes(32), *tail)


leaves = (
    st.builds(sent, numbers, flows, names, places, shapes, numbers, digests, models, tails)
    | st.builds(received, numbers, flows, names, places, numbers, digests, models)
    | st.builds(refused, numbers, flows, names, places, shapes, numbers, st.sampled_from(Reason), tails)
)


@given(leaves)
def test_round_trip(leaf: Leaf) -> None:
    raw = encode_leaf(leaf)
    assert decode_leaf(raw, leaf.seq, "north") == leaf
    assert repr(leaf) in ("Sent()", "Received()", "Refused()")


@given(leaves, st.data())
def test_whatever_the_bytes(leaf: Leaf, data: st.DataObject) -> None:
    """Altered bytes are refused, or are another leaf in its one encoding."""
    raw = bytearray(encode_leaf(leaf))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = decode_leaf(bytes(raw), leaf.seq, "north")
    except FaultyPeer:
        return
    assert other != leaf
    assert encode_leaf(other) == raw


def test_every_message_can_be_logged() -> None:
    of = {str(each.__struct_config__.tag) for each in m.Message.__args__}
    assert of == FLOWS.keys()
    notes = {str(each.__struct_config__.tag) for each in Agreement.__args__} | {"greeting"}
    assert notes == NOTES.keys()
    assert LOGGED == FLOWS | NOTES


def test_nothing_invalid_is_logged() -> None:
    tail = (-1, bytes(32), bytes(32))
    good = sent(0, "hello", "hub", (0, 0), (), 1, bytes(32), b"", tail)
    bad: tuple[dict[str, Any], ...] = (
        {"seq": -1}, {"peer": "The Hub"}, {"shapes": ((-1,),)}, {"policy": b""}, {"budget": 0.5}, {"model": b"m"},
    )  # fmt: skip
    for changed in bad:
        with pytest.raises(ValueError):  # noqa: PT011 (msgspec's own texts)
            encode_leaf(msgspec.structs.replace(good, **changed))
    for reason in set(Reason) - {Reason.SCHEMA}:
        with pytest.raises(ValueError, match="refused for its schema"):
            Refused(1, 0, m.Kind.RELEASE, "hub", "", 0, 0, (), 1, reason, bytes(32), *tail)
    with pytest.raises(ValueError, match="tag of a message of its kind"):
        msgspec.structs.replace(good, flow="patient 17")


def test_a_commitment_binds_nonce_and_plaintext() -> None:
    nonce = bytes(range(32))
    made = {commitment(nonce, b"a"), commitment(nonce, b"b"), commitment(nonce[::-1], b"a"), commitment(nonce, b"")}
    assert len(made) == 4
    with pytest.raises(ValueError, match="32 bytes"):
        commitment(nonce[1:], nonce[:1] + b"a")
