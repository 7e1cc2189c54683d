"""Every message round-trips to the same bytes; anything else is a ProtocolError, whatever the bytes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols import messages as m
from protocols.codec import decode, encode
from protocols.errors import FaultyPeer, Malformed, UnexpectedMessage

counts = st.integers(0, 2**31 - 1)
digests = st.binary(min_size=32, max_size=32)
names = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
floats = st.binary(max_size=400).map(lambda raw: raw[: len(raw) // 4 * 4])
positions = st.tuples(st.just(-1), st.just(-1), st.just(False)) | st.tuples(counts, counts, st.booleans())
sorted_names = st.sets(names, min_size=1, max_size=5).map(sorted)
wrapped = st.binary(min_size=80, max_size=80)
boxes = st.builds(
    m.SealedBox,
    names,
    st.binary(min_size=16, max_size=100),
    sorted_names.flatmap(lambda to: st.tuples(*(st.builds(m.Wrap, st.just(name), wrapped) for name in to))),
    st.binary(min_size=64, max_size=64),
)
banks = sorted_names.flatmap(lambda of: st.tuples(*(st.builds(m.BankRef, st.just(name), digests) for name in of)))
targets = st.just(()) | st.tuples(st.builds(m.TargetRef, digests, st.booleans(), st.booleans()))
messages = st.one_of(
    st.builds(lambda boot, at: m.Hello(boot, *at), counts, positions),
    st.builds(m.RoundDone, counts, counts),
    st.builds(m.Leave, st.sampled_from(m.LeaveReason)),
    st.builds(m.StudyClosed, st.sampled_from(m.CloseReason)),
    st.builds(m.WeightUpdate, counts, counts, digests, floats),
    st.builds(m.FeatureBank, counts, counts, boxes),
    st.builds(m.PrototypeSum, counts, counts, digests, floats),
    st.builds(m.MetricReport, counts, counts, floats),
    st.builds(
        lambda s, r, b, t, sums, model: m.RoundOpen(s, r, m.model_digest(model), b, t, sums, b"", model),
        counts,
        counts,
        banks,
        targets,
        floats,
        floats,
    ),
    st.builds(
        lambda s, r, digest, b, t, sums, values: m.RoundOpen(s, r + 1, digest, b, t, sums, values, b""),
        st.integers(0, 1 << 16),
        st.integers(0, 1 << 16),
        digests,
        banks,
        targets,
        floats,
        floats.filter(len),
    ),
    st.builds(m.TargetUpdate, counts, counts, digests, floats),
    st.builds(m.DistanceReport, counts, counts, st.binary(min_size=4, max_size=4)),
    st.builds(lambda s, r, target: m.TargetModel(s, r, m.model_digest(target), target), counts, counts, floats),
    st.builds(m.WantTarget, counts, counts),
    st.builds(m.AskTargets, counts, counts),
    st.builds(lambda s, r, box: m.BankRelay(s, r, box.sender, box), counts, counts, boxes),
)


@given(messages)
def test_round_trip(message: m.Message) -> None:
    raw = encode(message)
    decoded = decode(m.kind_of(message), raw, "north")
    assert decoded == message
    assert type(decoded) is type(message)
    assert encode(decoded) == raw


@given(messages, st.sampled_from(m.Kind))
def test_a_message_has_no_other_kind(message: m.Message, kind: m.Kind) -> None:
    if kind is not m.kind_of(message):
        with pytest.raises((Malformed, UnexpectedMessage)):
            decode(kind, encode(message), "north")


@given(st.sampled_from(m.Kind), st.binary(max_size=200))
@example(m.Kind.CONTROL, b"\x91" * 100_000)
@example(m.Kind.RELEASE, b"\xdf\xff\xff\xff\xff" * 10)
@example(m.Kind.PUBLISH, b"\xdd\x7f\xff\xff\xff")
def test_garbage_is_the_peers_fault(kind: m.Kind, raw: bytes) -> None:
    with pytest.raises(FaultyPeer) as caught:
        decode(kind, raw, "north")
    assert caught.value.peer == "north"


@given(messages, st.data())
def test_a_changed_byte_is_refused_or_another_message(message: m.Message, data: st.DataObject) -> None:
    """The encoding is one to one: no change of bytes leaves the message as it was."""
    raw = bytearray(encode(message))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(m.kind_of(message), bytes(raw), "north")
    except FaultyPeer:
        return
    assert changed != message
    assert encode(changed) == bytes(raw)


@given(messages, st.binary(min_size=1, max_size=5))
def test_nothing_is_left_over(message: m.Message, more: bytes) -> None:
    with pytest.raises(Malformed):
        decode(m.kind_of(message), encode(message) + more, "north")


def _mutations(value: Any) -> st.SearchStrategy[Any]:
    """The same tree with one leaf or branch exchanged for something of another sort."""
    other = st.sampled_from([None, True, -1, 2**64 - 1, math.nan, "text", b"", [], {}, [[[]]]])
    if isinstance(value, list) and value:
        index = st.integers(0, len(value) - 1)
        inner = index.flatmap(lambda i: _mutations(value[i]).map(lambda new: [*value[:i], new, *value[i + 1 :]]))
        return inner | other
    return other


@given(messages, st.data())
def test_a_field_of_another_sort_is_refused(message: m.Message, data: st.DataObject) -> None:
    tree = msgspec.msgpack.decode(encode(message))
    changed = msgspec.msgpack.encode(data.draw(_mutations(tree)))
    try:
        decoded = decode(m.kind_of(message), changed, "north")
    except FaultyPeer:
        return
    assert encode(decoded) == changed


def test_refusals_say_nothing_of_the_content() -> None:
    with pytest.raises(Malformed) as caught:
        decode(m.Kind.CONTROL, encode(m.RoundDone(0, 0))[:-2] + b"\xa9mrs.smith", "north")
    assert str(caught.value) == "north: the bytes are not a control message"
    assert caught.value.__suppress_context__
