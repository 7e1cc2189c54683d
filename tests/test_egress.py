"""The gate: what it lets out, in which order it acts, and everything it refuses before a byte is sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsecure.agreement import KEY_SIZE, Digests, Inquiry, share_key
from fedsecure.audit.sbom import release
from fedsecure.config import Study, parse_study
from fedsecure.egress import FREE, NON_PRIVATE, REPEAT, Gate, RoundContext
from fedsecure.errors import GateRefused
from fedsecure.node.store import Store
from fedsecure.packing import pack_vector, unpack_bank, unpack_vector
from fedsecure.progress import Progress, Refused, Sent
from fedsecure.types import Flow, TensorSpec, Update
from keys.identity import Identity
from keys.roster import Roster
from protocols.box import BoxContext, open_box
from protocols.codec import encode
from protocols.envelope import ReplayGuard, open_frame
from protocols.messages import (
    DistanceReport,
    FeatureBank,
    Hello,
    MetricReport,
    PrototypeSum,
    RoundOpen,
    StudyClosed,
    TargetUpdate,
    WeightUpdate,
)
from protocols.tlog.leaf import Reason, commitment, decode_leaf
from protocols.tlog.leaf import Refused as RefusedLeaf

SCHEMA = (TensorSpec("encoder.a", (2, 3)), TensorSpec("encoder.b", (4,)))
CONTEXT = RoundContext(0, 1, SCHEMA, b"m" * 32)


@dataclass
class Bench:
    """A site's gate with a real store, and the coordinator's eyes on what came out."""

    study: Study
    gate: Gate
    store: Store
    roster: Roster
    identities: dict[str, Identity]
    frames: list[tuple[str, bytes]] = field(default_factory=list)
    events: list[Progress] = field(default_factory=list)
    replay: ReplayGuard = field(default_factory=ReplayGuard)

    def opened(self, number: int = -1) -> Any:
        _, frame = self.frames[number]
        return open_frame(
            frame, peer="a", me="coordinator", study=self.study.digest(), roster=self.roster, replay=self.replay,
            maximum=1 << 20,
        ).message  # fmt: skip


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(maximum_upload: int | None = None, inspect: Any = None, **settings: Any) -> Bench:
        sites = [{"name": name, "weight": 1} for name in "ab"]
        study = parse_study({"sites": sites, "model": {"features": 8}, "security": {"secagg": False}, **settings})
        identities = {name: Identity.generate() for name in ("coordinator", "a", "b", "elsewhere")}
        roster = Roster("coordinator", {name: identity.public for name, identity in identities.items()})
        store = Store(tmp_path / f"node-{len(list(tmp_path.iterdir()))}")
        frames: list[tuple[str, bytes]] = []
        events: list[Progress] = []
        others = {name: identities[name].public for name in ("b", "elsewhere")}
        gate = Gate(
            identities["a"], "a", study, store.next_boot(), others, "coordinator", store,
            lambda peer, frame: frames.append((peer, frame)), events.append, maximum_upload,
            *([inspect] if inspect else []),
        )  # fmt: skip
        return Bench(study, gate, store, roster, identities, frames, events)

    return build


def weights(**changes: Any) -> Update:
    arrays = {"encoder.a": np.arange(6, dtype=np.float32).reshape(2, 3), "encoder.b": np.ones(4, np.float32)}
    return Update(Flow.WEIGHTS, {**arrays, **changes})


def features(count: int = 5, width: int = 8, **changes: Any) -> Update:
    arrays = {"features": np.full((count, width), 0.5, np.float32), "partitions": np.arange(count, dtype=np.uint8) % 4}
    return Update(Flow.FEATURES, {**arrays, **changes})


def test_weights_arrive_as_the_vector_that_was_released(make: Make) -> None:
    bench = make()
    bench.gate.release(weights(), CONTEXT)
    message = bench.opened()
    assert isinstance(message, WeightUpdate)
    assert (message.stage, message.round, message.model_digest) == (0, 1, CONTEXT.model_digest)
    back = unpack_vector(message.vector, SCHEMA)
    assert all(np.array_equal(back[name], array) for name, array in weights().arrays.items())


def leaves(bench: Bench) -> list[Any]:
    return [decode_leaf(raw, index, "a") for index, raw in enumerate(bench.store.leaves_from(0))]


def test_what_the_content_tests_refuse_does_not_leave_and_is_logged_as_refused(make: Make) -> None:
    def refuses(update: Update) -> None:
        raise GateRefused(f"{update.flow}: holds a picture", "content")

    bench = make(inspect=refuses)
    with pytest.raises(GateRefused, match="holds a picture"):
        bench.gate.release(weights(), CONTEXT)
    assert bench.frames == []
    assert list(bench.store.sent()) == []
    (leaf,) = leaves(bench)
    assert isinstance(leaf, RefusedLeaf)
    assert (leaf.reason, leaf.flow, leaf.size) == (Reason.CONTENT, "weight-update", 40)
    assert leaf.shapes == ((2, 3), (4,))


def test_shapes_that_the_trainer_chose_are_in_no_leaf(make: Make) -> None:
    """An empty array costs nothing, and its other dimensions could say anything."""
    bench = make()
    with pytest.raises(GateRefused, match="names or shapes"):
        bench.gate.release(weights(**{"encoder.b": np.zeros((0, 2**31, 1934, 5), np.float32)}), CONTEXT)
    (leaf,) = leaves(bench)
    assert isinstance(leaf, RefusedLeaf)
    assert (leaf.reason, leaf.shapes) == (Reason.SCHEMA, ())


def test_whatever_leaves_is_a_leaf_that_commits_to_it(make: Make) -> None:
    bench = make(maximum_upload=10_000)
    bench.gate.release(weights(), CONTEXT)
    bench.gate.repeat(0, 1)
    bench.gate.control("coordinator", Hello(1, 0, 1, True), 0, 1)
    with pytest.raises(GateRefused):
        bench.gate.control("coordinator", WeightUpdate(0, 1, b"m" * 32, b""), 0, 1)
    with pytest.raises(GateRefused):
        bench.gate.release(weights(**{"encoder.c": np.zeros(9, np.float32)}), CONTEXT._replace(round=2))
    first, again, hello, wrong, other = leaves(bench)
    for leaf, (_, frame) in zip((first, again, hello), bench.frames, strict=True):
        assert (leaf.size, leaf.ciphertext) == (len(frame), hashlib.sha256(frame).digest())
        assert leaf.code == bytes.fromhex(release())
        assert leaf.policy == hashlib.sha256(bench.gate.policy.to_bytes()).digest()
    assert (first.flow, first.shapes, first.model) == ("weight-update", ((2, 3), (4,)), CONTEXT.model_digest)
    assert (again.flow, again.shapes, again.model) == ("weight-update", (), CONTEXT.model_digest)
    assert (hello.flow, hello.model, hello.budget) == ("hello", b"", -1)
    assert (wrong.flow, wrong.reason, other.reason) == ("", Reason.SCHEMA, Reason.SCHEMA)
    nonces = [bytes(nonce) for (nonce,) in bench.store._db.execute("SELECT nonce FROM leaves ORDER BY seq")]
    assert len(set(nonces)) == 5
    body = bench.frames[0][1].partition(pack_vector(weights().arrays))
    message = encode(WeightUpdate(0, 1, CONTEXT.model_digest, body[1]))
    assert first.commitment == commitment(nonces[0], message)
    small = make(maximum_upload=10)
    with pytest.raises(GateRefused, match="maximum_upload"):
        small.gate.release(weights(), CONTEXT)
    assert [leaf.reason for leaf in leaves(small)] == [Reason.CAP]


def test_the_order_of_a_banks_rows_says_nothing(make: Make) -> None:
    """Whatever order the trainer gives them: the same bank is read by the other site."""
    rng, read = np.random.default_rng(0), []
    rows, partitions = rng.standard_normal((5, 8)).astype(np.float32), np.array([3, 0, 1, 0, 1], np.uint8)
    for order in (np.arange(5), np.array([4, 2, 0, 3, 1])):
        bench = make()
        bench.gate.release(features(features=rows[order], partitions=partitions[order]), CONTEXT)
        context = BoxContext(bench.study.digest(), 0, 1, "a")
        box = bench.opened().box
        read.append(open_box(box, context, identity=bench.identities["b"], me="b", roster=bench.roster))
    assert read[0] == read[1]
    bank = unpack_bank(read[0], width=8, most=1024, partitions=4)
    assert list(bank.partitions) == [0, 0, 1, 1, 3]
    pairs = {(row.tobytes(), part) for row, part in zip(bank.features, bank.partitions, strict=True)}
    assert pairs == {(row.tobytes(), part) for row, part in zip(rows, partitions, strict=True)}


@pytest.mark.parametrize("followed", [False, True], ids=["from the start", "under a newer roster"])
def test_features_arrive_sealed_for_the_studys_other_site_alone(make: Make, followed: bool) -> None:
    """The roster has a member that the study does not name."""
    bench = make()
    if followed:
        bench.gate.follow({name: bench.identities[name].public for name in ("b", "elsewhere")})
    bench.gate.release(features(), CONTEXT)
    message = bench.opened()
    assert isinstance(message, FeatureBank)
    raw_features = features().arrays["features"].tobytes()
    assert raw_features not in bench.frames[0][1]
    context = BoxContext(bench.study.digest(), 0, 1, "a")
    raw = open_box(message.box, context, identity=bench.identities["b"], me="b", roster=bench.roster)
    bank = unpack_bank(raw, width=8, most=1024, partitions=4)
    assert np.array_equal(bank.features, features().arrays["features"])
    assert [wrap.recipient for wrap in message.box.wraps] == ["b"]  # no key for the coordinator


PROTOTYPES = {
    "sites": [{"name": "a", "weight": 3}, {"name": "b", "weight": 1}],
    "pretrain": {"rounds": 3, "exchange": "prototypes", "prototypes_per_partition": 1, "prototype_clip": 2.0},
}
SUMS = {**PROTOTYPES, "pretrain": {**PROTOTYPES["pretrain"], "exchange": "secagg-prototypes"}}  # type: ignore[dict-item]
CELLS = (TensorSpec("prototypes", (4, 8)),)


def entries(patients: int = 3, flow: Flow = Flow.PROTOTYPES, **changes: Any) -> Update:
    arrays = {"entries": np.random.default_rng(0).standard_normal((patients, 4, 8)).astype(np.float32)}
    return Update(flow, {**arrays, **changes})


def clipped(update: Update) -> Any:
    """What must leave: every patient scaled down to norm 2 less its slack for rounding, then their sum."""
    flat = update.arrays["entries"].astype(np.float64).reshape(len(update.arrays["entries"]), -1)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat * np.minimum(1, 2 * (1 - 2.0**-10) / norms)).sum(0).astype(np.float32).reshape(4, 8)


def test_prototypes_leave_as_one_clipped_sum_sealed_for_the_other_site_alone(make: Make) -> None:
    bench = make(**PROTOTYPES)
    bench.gate.release(entries(), CONTEXT)
    message = bench.opened()
    assert isinstance(message, FeatureBank)
    assert [wrap.recipient for wrap in message.box.wraps] == ["b"]
    context = BoxContext(bench.study.digest(), 0, 1, "a")
    raw = open_box(message.box, context, identity=bench.identities["b"], me="b", roster=bench.roster)
    np.testing.assert_allclose(unpack_vector(raw, CELLS)["prototypes"], clipped(entries()), rtol=1e-6)
    assert [row.flow for row in bench.store.sent()] == ["prototypes"]


def test_prototypes_for_the_sum_of_all_sites_leave_as_a_flat_vector(make: Make) -> None:
    bench = make(**SUMS)
    bench.gate.release(entries(flow=Flow.PROTOTYPE_SUM), CONTEXT)
    message = bench.opened()
    assert isinstance(message, PrototypeSum)
    assert (message.stage, message.round, message.model_digest) == (0, 1, CONTEXT.model_digest)
    np.testing.assert_allclose(unpack_vector(message.vector, CELLS)["prototypes"], clipped(entries()), rtol=1e-6)
    assert [row.flow for row in bench.store.sent()] == ["prototype-sum"]


def test_a_site_with_one_patient_lets_out_what_that_patient_adds(make: Make) -> None:
    """Nothing hides it in a sum of one: it is clipped, and accounted as everything else without noise is."""
    bench = make(**SUMS)
    bench.gate.release(entries(1, Flow.PROTOTYPE_SUM), CONTEXT)
    sent = unpack_vector(bench.opened().vector, CELLS)["prototypes"]
    assert np.linalg.norm(sent) == pytest.approx(2.0 * (1 - 2.0**-10), rel=1e-6)
    assert [row.event for row in bench.store.sent()] == [NON_PRIVATE]


@pytest.mark.parametrize(
    ("settings", "update", "context", "rule"),
    [
        ({}, entries(), CONTEXT, "has no site share them"),
        (SUMS, entries(), CONTEXT, "has no site share them"),
        (PROTOTYPES, entries(flow=Flow.PROTOTYPE_SUM), CONTEXT, "has no site share them"),
        (PROTOTYPES, entries(), CONTEXT._replace(round=2), "has no site share them"),  # the last training round
        (PROTOTYPES, entries(), CONTEXT._replace(stage=3, round=0), "has no site share them"),
        (PROTOTYPES, entries(4), CONTEXT, "more patients than the study declares"),
        (PROTOTYPES, entries(entries=np.zeros((3, 5, 8), np.float32)), CONTEXT, "not one array"),
        (PROTOTYPES, entries(entries=np.zeros((4, 8), np.float32)), CONTEXT, "not one array"),
        (PROTOTYPES, entries(entries=np.zeros((3, 4, 8))), CONTEXT, "finite float32"),
        (PROTOTYPES, entries(entries=np.full((3, 4, 8), np.nan, np.float32)), CONTEXT, "finite float32"),
        (PROTOTYPES, entries(counts=np.zeros(4, np.float32)), CONTEXT, "not one array"),
    ],
)
def test_entries_that_are_not_the_studys_are_refused_and_nothing_leaves(
    make: Make, settings: dict[str, Any], update: Update, context: RoundContext, rule: str
) -> None:
    bench = make(**settings)
    with pytest.raises(GateRefused, match=rule):
        bench.gate.release(update, context)
    assert bench.frames == []
    assert list(bench.store.sent()) == []


def test_metrics_leave_only_where_the_study_says_so(make: Make) -> None:
    metrics = Update(Flow.METRICS, {"dice": np.array([0.5, 0.25, 0.75], np.float32)})
    with pytest.raises(GateRefused, match="release_metrics"):
        make().gate.release(metrics, CONTEXT)
    bench = make(release_metrics=True)
    bench.gate.release(metrics, CONTEXT)
    message = bench.opened()
    assert isinstance(message, MetricReport)
    assert np.array_equal(np.frombuffer(message.values, "<f4"), metrics.arrays["dice"])


@pytest.mark.parametrize(
    ("update", "rule"),
    [
        (Update(Flow.WEIGHTS, {"encoder.a": np.zeros((2, 3), np.float32)}), "names or shapes"),
        (weights(more=np.zeros(1, np.float32)), "names or shapes"),
        (weights(**{"encoder.b": np.ones(5, np.float32)}), "names or shapes"),
        (weights(**{"encoder.b": np.ones(4, np.float64)}), "finite float32"),
        (weights(**{"encoder.b": np.array([1, 2, np.nan, 4], np.float32)}), "finite float32"),
        (weights(**{"encoder.b": np.array([1, 2, np.inf, 4], np.float32)}), "finite float32"),
        (features(width=9), "shape is not the study's"),
        (features(count=1025), "shape is not the study's"),
        (features(features=np.zeros(8, np.float32)), "shape is not the study's"),
        (features(features=np.full((5, 8), np.nan, np.float32)), "finite float32"),
        (features(partitions=np.zeros(4, np.uint8)), "do not fit"),
        (features(partitions=np.zeros(5, np.float32)), "do not fit"),
        (features(partitions=np.full(5, 4, np.uint8)), "outside the study's"),
        (features(names=np.zeros(5, np.uint8)), "nothing else"),
    ],
)
def test_what_is_not_in_the_schema_is_refused_and_nothing_leaves(make: Make, update: Update, rule: str) -> None:
    bench = make()
    with pytest.raises(GateRefused, match=rule):
        bench.gate.release(update, CONTEXT)
    assert bench.frames == []
    assert list(bench.store.sent()) == []
    (event,) = bench.events
    assert isinstance(event, Refused)


def test_too_many_metrics_are_refused(make: Make) -> None:
    too_many = Update(Flow.METRICS, {"dice": np.zeros(4, np.float32)})
    with pytest.raises(GateRefused, match="more values than structures"):
        make(release_metrics=True).gate.release(too_many, CONTEXT)


TARGET = (TensorSpec("target.encoder.a", (2, 3)),)
TARGETED = CONTEXT._replace(target_schema=TARGET, target_digest=b"t" * 32)
FCLOPT = {"framework": "fclopt", "pretrain": {"rounds": 3, "distance": "r2"}}


def target(**changes: Any) -> Update:
    return Update(Flow.TARGET, {"target.encoder.a": np.arange(6, dtype=np.float32).reshape(2, 3), **changes})


def distance(*values: float, **changes: Any) -> Update:
    return Update(Flow.DISTANCE, {"distance": np.array(values, np.float32), **changes})


def test_a_target_and_a_distance_arrive_as_they_were_released(make: Make) -> None:
    bench = make(**FCLOPT)
    bench.gate.release(target(), TARGETED)
    message = bench.opened()
    assert isinstance(message, TargetUpdate)
    assert (message.stage, message.round, message.target_digest) == (0, 1, b"t" * 32)
    assert np.array_equal(
        unpack_vector(message.vector, TARGET)["target.encoder.a"], target().arrays["target.encoder.a"]
    )
    bench.gate.release(distance(0.25), TARGETED)
    message = bench.opened()
    assert isinstance(message, DistanceReport)
    assert np.frombuffer(message.distance, "<f4").tolist() == [0.25]


@pytest.mark.parametrize(
    ("settings", "update", "context", "rule"),
    [
        (FCLOPT, target(more=np.zeros(1, np.float32)), TARGETED, "names or shapes are not the target network's"),
        (FCLOPT, target(**{"target.encoder.a": np.zeros((2, 3))}), TARGETED, "finite float32"),
        (FCLOPT, target(**{"target.encoder.a": np.full((2, 3), np.nan, np.float32)}), TARGETED, "finite float32"),
        (FCLOPT, target(), TARGETED._replace(round=2), "no target network leaves"),  # the last training round
        (FCLOPT, target(), TARGETED._replace(stage=1, round=0), "no target network leaves"),
        ({}, target(), TARGETED, "no target network leaves"),
        (
            {"framework": "fclopt", "pretrain": {"rounds": 3, "target": "naive", "distance": "none"}},
            target(), TARGETED, "no target network leaves",
        ),
        ({"framework": "fclopt"}, distance(1.0), TARGETED, "the study has no site score itself"),
        (FCLOPT, distance(1.0), TARGETED._replace(round=2), "the study has no site score itself"),
        (FCLOPT, distance(1.0, 2.0), TARGETED, "not one number"),
        (FCLOPT, distance(), TARGETED, "not one number"),
        (FCLOPT, distance(-1.0), TARGETED, "not one number"),
        (FCLOPT, distance(float("nan")), TARGETED, "not one number"),
        (FCLOPT, distance(float("inf")), TARGETED, "finite float32"),
        (FCLOPT, distance(1.0, name=np.zeros(1, np.float32)), TARGETED, "not one number"),
    ],
)  # fmt: skip
def test_what_is_not_a_target_or_a_distance_of_this_round_is_refused(
    make: Make, settings: dict[str, Any], update: Update, context: RoundContext, rule: str
) -> None:
    bench = make(**settings)
    with pytest.raises(GateRefused, match=rule):
        bench.gate.release(update, context)
    assert bench.frames == []
    assert list(bench.store.sent()) == []


def test_the_sites_own_cap_holds_over_all_rounds(make: Make) -> None:
    bench = make(maximum_upload=900)
    for round_ in range(3):
        bench.gate.release(weights(), CONTEXT._replace(round=round_))
    size = len(bench.frames[0][1])
    assert 3 * size <= 900 < 4 * size
    with pytest.raises(GateRefused, match="maximum_upload"):
        bench.gate.release(weights(), CONTEXT._replace(round=3))
    assert len(bench.frames) == 3


def test_a_release_is_on_disk_before_it_is_sent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(bench.store, "log_and_queue", fails)
    with pytest.raises(OSError, match="disk full"):
        bench.gate.release(weights(), CONTEXT)
    assert bench.frames == []


def test_a_second_release_of_the_same_flow_and_round_sends_nothing(make: Make) -> None:
    bench = make()
    bench.gate.release(weights(), CONTEXT)
    bench.gate.release(weights(**{"encoder.b": np.zeros(4, np.float32)}), CONTEXT)
    assert len(bench.frames) == 1


def test_a_repeat_is_the_stored_message_under_a_new_number(make: Make) -> None:
    bench = make()
    bench.gate.release(weights(), CONTEXT)
    bench.gate.release(features(), CONTEXT)
    first = [bench.opened(number) for number in range(2)]
    bench.gate.repeat(0, 1)
    again = [bench.opened(number) for number in range(2, 4)]  # the same replay guard takes them
    assert again == first
    assert [row.event for row in bench.store.sent()] == [NON_PRIVATE, NON_PRIVATE, REPEAT, REPEAT]


def test_repeating_an_earlier_round_sends_nothing(make: Make) -> None:
    bench = make()
    bench.gate.release(weights(), CONTEXT)
    bench.gate.release(weights(), CONTEXT._replace(round=2))
    bench.gate.repeat(0, 1)
    assert len(bench.frames) == 2


def test_control_takes_control_messages_only(make: Make) -> None:
    bench = make()
    bench.gate.control("coordinator", Hello(1, -1, -1, False), 0, 0)
    assert isinstance(bench.opened(), Hello)
    assert [row.event for row in bench.store.sent()] == [FREE]
    smuggled = WeightUpdate(0, 0, b"m" * 32, b"\0" * 4)
    with pytest.raises(GateRefused, match="WeightUpdate is not a control message"):
        bench.gate.control("coordinator", smuggled, 0, 0)
    with pytest.raises(GateRefused, match="WeightUpdate is not a publish message"):
        bench.gate.publish("coordinator", smuggled, 0, 0)
    assert len(bench.frames) == 1


def test_what_the_doctor_says_of_volumes_is_on_record_as_a_release(make: Make) -> None:
    """It holds no number, and its reader has no key; it is computed from volumes all the same, and has no noise."""
    bench = make()
    me, hub, session = "a", "coordinator", bytes(16)
    bench.gate.compare(Inquiry(me, hub, (), (), 0, 0))
    bench.gate.compare(share_key(bytes(KEY_SIZE), session, me, bench.identities["a"], bench.roster, "b"))
    bench.gate.compare(Digests(me, hub, session, (bytes(32),) * 3))
    rows = [(row.flow, row.kind, row.event) for row in bench.store.sent()]
    assert rows == [
        ("Inquiry", "control", FREE),
        ("KeyShare", "share", FREE),
        ("Digests", "release", NON_PRIVATE),
    ]
    assert bench.store.released_bytes() == len(bench.frames[2][1])


def test_every_frame_is_logged_with_its_size_and_digest(make: Make) -> None:
    import hashlib

    bench = make()
    bench.gate.release(weights(), CONTEXT)
    bench.gate.control("coordinator", Hello(1, 0, 0, True), 0, 1)
    for row, (peer, frame) in zip(bench.store.sent(), bench.frames, strict=True):
        assert (row.peer, row.size, row.digest) == (peer, len(frame), hashlib.sha256(frame).digest())
    assert [event.size for event in bench.events if isinstance(event, Sent)] == [len(f) for _, f in bench.frames]


def test_a_site_cannot_publish_what_a_coordinator_would(make: Make) -> None:
    """The gate of a site may seal it, the receiver does not take it: who may say what is checked at both ends."""
    from protocols.errors import ProtocolError

    bench = make()
    bench.gate.publish("coordinator", RoundOpen(0, 0, _sha(b""), (), (), b"", b"", b""), 0, 0)
    with pytest.raises(ProtocolError):
        bench.opened()
    with pytest.raises(GateRefused):
        bench.gate.publish("coordinator", StudyClosed("finished"), 0, 0)  # type: ignore[arg-type]


def _sha(raw: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(raw).digest()
