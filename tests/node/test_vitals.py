"""What an operator sees of a node: log, status.json and health endpoint; and that no patient is in any of them."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fedsecure.errors import SettingsError
from fedsecure.node.health import Health
from fedsecure.node.log import Log
from fedsecure.node.store import Store
from fedsecure.node.vitals import Standing, Status, SumStanding, Vitals, read, running
from fedsecure.progress import (
    Measured,
    Progress,
    Refused,
    RoundEnded,
    RoundStarted,
    Scored,
    Sent,
    Step,
    Stopped,
    SumAsked,
    SumHeard,
    Summed,
    SumStepEnded,
)

AT = {"stage": 0, "round": 1}
EVENTS: list[Progress] = [
    RoundStarted(**AT, name="pre-training", rounds=2),
    Step(**AT, done=1, total=2, loss=0.123456),
    Measured(**AT, metric="knn_partition_accuracy", value=0.123456),
    Scored(**AT, subject="planted-patient", structure="LV", dice=0.123456),
    Sent(**AT, kind="release", flow="weights", size=1000, peer="hub"),
    Refused(**AT, rule="a rule", peer="hub"),
    SumAsked(**AT, attempt=0, step="masked-input", sites=("south", "east")),
    SumHeard(**AT, step="masked-input", site="south"),
    SumStepEnded(**AT, attempt=0, step="masked-input", asked=2, late=("east",), seconds=9.0),
    SumStepEnded(**AT, attempt=0, step="unmask-shares", asked=1, late=(), seconds=0.1),
    Summed(**AT, flows=("weights",), sites=2, survivors=("south",), agreed=1, attempts=1, seconds=9.5),
    RoundEnded(**AT, seconds=1.23, sites=1),
    Stopped(**AT, reason="failed"),
]
STANDING = Standing(
    node="north", role="site", study="pilot", digest="ab" * 32, phase="training", stage=0, stage_name="pre-training",
    round=1, rounds=2, sites={"north": "training"},
)  # fmt: skip
SUMMING = msgspec.structs.replace(
    STANDING,
    sum=SumStanding(step="share-keys", number=2, steps=6, attempt=1, awaited=("south", "east")),
)


def test_the_log_is_json_lines_with_levels_and_without_what_was_measured() -> None:
    stream = io.StringIO()
    log = Log("north", stream, journald=False)
    for event in EVENTS:
        log.observe(event)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("round-started", "info"), ("refused", "warning"), ("late-in-sum", "warning"), ("summed", "info"),
        ("round-ended", "info"), ("stopped", "error"),
    ]  # fmt: skip
    assert {line["node"] for line in lines} == {"north"}
    assert (lines[2]["step"], lines[2]["late"], lines[3]["survivors"]) == ("masked-input", "east", 1)
    for private in ("planted", "0.123456", "LV"):
        assert private not in stream.getvalue()


def test_under_journald_each_line_has_its_priority_in_front() -> None:
    stream = io.StringIO()
    log = Log("north", stream, journald=True)
    for event in EVENTS:
        log.observe(event)
    assert [line[:3] for line in stream.getvalue().splitlines()] == ["<6>", "<4>", "<4>", "<6>", "<6>", "<3>"]


def test_status_counts_over_restarts(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path, {}, "0.1.0")
    vitals.heard("hub", 10)
    for event in EVENTS:
        vitals.observe(event)
    vitals.write(STANDING, "interrupted")
    again = Vitals(tmp_path, {"hub": 1000}, "0.1.0")
    again.heard("hub", 5)
    again.write(STANDING)
    found = read(tmp_path)
    assert (found.peers["hub"].sent, found.peers["hub"].received, found.peers["hub"].refused) == (1000, 15, 1)
    assert found.stopped is None
    assert found.budget == "none yet"
    assert b"planted" not in (tmp_path / "status.json").read_bytes()


def test_a_running_node_is_told_from_one_that_is_not(tmp_path: Path) -> None:
    assert not running(tmp_path)
    store = Store(tmp_path)
    assert running(tmp_path)
    store.close()
    assert not running(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_without_a_whole_status_it_is_said(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status.json").write_text(text)
    with pytest.raises(SettingsError, match=r"no node has run|damaged"):
        read(tmp_path)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def serve() -> Callable[[Callable[[], Status | None]], Health]:
    started = []

    def make(status: Callable[[], Status | None]) -> Health:
        started.append(Health("127.0.0.1:0", status))
        return started[-1]

    yield make
    for health in started:
        health.close()


def test_health_says_whether_the_loop_turns_and_names_nobody(tmp_path: Path, serve: Callable[..., Health]) -> None:
    vitals = Vitals(tmp_path, {"hub": 7}, "0.1.0")
    health = serve(lambda: vitals.latest)
    assert get(health.port, "/health")[0] == 503
    vitals.write(STANDING)
    code, text = get(health.port, "/health")
    assert (code, json.loads(text)) == (200, {"alive": True, "phase": "training", "stage": 0, "round": 1})
    code, metrics = get(health.port, "/metrics")
    assert "fedsecure_sent_bytes 7\n" in metrics
    assert "fedsecure_sum_awaited 0\n" in metrics
    vitals.write(SUMMING)
    code, metrics = get(health.port, "/metrics")
    assert "fedsecure_sum_awaited 2\n" in metrics
    assert get(health.port, "/status.json")[0] == 404
    for private in ("north", "hub", "pilot", "ab" * 8):
        assert private not in text + metrics


def test_a_loop_that_hangs_is_noticed(tmp_path: Path, serve: Callable[..., Health]) -> None:
    vitals = Vitals(tmp_path, {}, "0.1.0")
    vitals.write(STANDING)
    old = msgspec.structs.replace(vitals.latest, at=0.0)
    assert get(serve(lambda: old).port, "/health")[0] == 503


@pytest.mark.parametrize(
    "address", ["0.0.0.0:80", "192.0.2.1:80", "hub:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"]
)
def test_it_listens_on_loopback_alone(address: str) -> None:
    with pytest.raises(SettingsError, match="loopback alone"):
        Health(address, lambda: None)


def test_a_status_of_another_version_keeps_no_node_from_starting(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"of": "another version"}')
    Vitals(tmp_path, {"hub": 7}, "0.1.0").write(STANDING)
    assert read(tmp_path).peers["hub"].sent == 7


def test_it_listens_on_ipv6_loopback() -> None:
    health = Health("[::1]:0", lambda: None)
    socket.create_connection(("::1", health.port), 5).close()
    health.close()


def test_a_client_that_breaks_off_puts_no_traceback_into_the_log(
    serve: Callable[..., Health], capfd: pytest.CaptureFixture[str]
) -> None:
    health = serve(lambda: None)
    for _ in range(5):
        line = socket.create_connection(("127.0.0.1", health.port), 5)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.sendall(b"GET /health HT")
        line.close()  # by a reset
    assert get(health.port, "/health")[0] == 503
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


def test_whoever_holds_many_connections_uses_up_few(serve: Callable[..., Health]) -> None:
    health = serve(lambda: None)
    before = threading.active_count()
    lines = [socket.create_connection(("127.0.0.1", health.port), 5) for _ in range(100)]
    time.sleep(0.5)
    assert threading.active_count() - before <= 2 * 8
    for line in lines:
        line.close()
