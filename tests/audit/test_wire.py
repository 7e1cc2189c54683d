"""Captures of real CURVE lines reconcile to the byte; what is on the wire and not on record does not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedsecure.audit.capture import packets
from fedsecure.audit.streams import Stream, streams
from fedsecure.audit.wire import NotOurs, files_in, read, reconcile
from fedsecure.cli.audit import app
from keys.identity import Identity
from keys.roster import Roster
from protocols.handshake import Party
from protocols.session import CHUNK
from protocols.transport.zmq_curve import CurveClient, CurveServer

from .packets import conversation, on_loopback, pcap

UP, DOWN = [300, 45, CHUNK + 7, 2 * CHUNK, 1], [900, 5 * CHUNK + 1]


@pytest.fixture(scope="module")
def captured() -> bytes:
    """Two nodes over CURVE on the loopback: the site sends frames of the sizes UP, the coordinator of DOWN."""
    hub, site = Identity.generate(), Identity.generate()
    roster = Roster("hub", {"hub": hub.public, "site": site.public})
    frames: list[bytes] = []
    try:
        with on_loopback(frames):
            server = CurveServer(Party("hub", hub, roster, bytes(32), 1), maximum=1 << 24)
            client = CurveClient(Party("site", site, roster, bytes(32), 1), maximum=1 << 24, endpoint=server.endpoint)
            heard: list[bytes] = []
            for size in UP:
                client.send(bytes(size))
            deadline = time.monotonic() + 30
            while len(heard) < len(UP) and time.monotonic() < deadline:
                heard += [frame for _, frame in server.poll(0.1)]
            client.rekey()
            for size in DOWN:
                server.send("site", bytes(size))
            back: list[bytes] = []
            while len(back) < len(DOWN) and time.monotonic() < deadline:
                back += client.poll(0.1)
                server.poll(0.0)
            seen = -1  # credits are answered still: who closes now cuts one of them in two
            while seen != len(frames) and time.monotonic() < deadline:
                seen = len(frames)
                for _ in range(5):
                    server.poll(0.1)
                    client.poll(0.1)
            client.close()
            server.close()
            port = int(server.endpoint.rpartition(":")[2])
    except PermissionError:
        pytest.skip("a raw socket on the loopback needs CAP_NET_RAW")
    assert ([*map(len, heard)], [*map(len, back)]) == (UP, DOWN)
    here = [one for one in frames if port in (int.from_bytes(one[34:36], "big"), int.from_bytes(one[36:38], "big"))]
    return pcap(here, link=1)


def sides(raw: bytes) -> tuple[list[Stream], list[Stream]]:
    found, _ = streams(packets(raw))
    return [one for one in found if one.opened], [one for one in found if not one.opened]


def test_a_real_line_reconciles_to_the_byte_both_ways(captured: bytes) -> None:
    for ours, recorded in zip(sides(captured), (UP, DOWN), strict=True):
        side = reconcile(ours, recorded)
        assert side.whole
        assert side.records == sum(recorded)
        control = sum(size for _, size in side.control.values())
        assert side.wire == sum(len(one.data) for one in ours) == side.records + side.framing + control


@pytest.mark.parametrize(
    ("recorded", "unseen", "unexplained"),
    [
        ([*UP, 77], 77, ()),  # logged, never sent
        (UP[1:], 0, (345,)),  # sent, never logged
        ([301, *UP[1:]], 301, (345,)),  # sent as something else
        ([*UP[:2], CHUNK + 8, *UP[3:]], 8, (52,)),
    ],
)
def test_what_is_not_on_record_or_not_on_the_wire_is_told(
    captured: bytes, recorded: list[int], unseen: int, unexplained: tuple[int, ...]
) -> None:
    side = reconcile(sides(captured)[0], recorded)
    assert not side.whole
    assert (side.unseen, side.unexplained) == (unseen, unexplained)


def test_the_cipher_hides_formats_and_the_clear_does_not(captured: bytes) -> None:
    assert [files_in(one) for side in sides(captured) for one in side] == [(), ()]
    said = b"GET / " + b"\x93NUMPY\x01\0" + bytes(100)
    (stream,), _ = sides(pcap(conversation(said)))
    assert files_in(stream) == ("npy",)
    with pytest.raises(NotOurs, match="does not begin as ZMTP"):
        read(stream)


def test_a_line_that_ends_within_a_frame_or_says_something_beside_messages(captured: bytes) -> None:
    (up,), _ = sides(captured)
    with pytest.raises(NotOurs, match="ends within a frame"):
        read(Stream(up.ends, opened=True, data=up.data[:-1]))
    with pytest.raises(NotOurs, match="beside CURVE's messages"):
        read(Stream(up.ends, opened=True, data=up.data + b"\0\5hello"))
    with pytest.raises(NotOurs, match="handshake"):
        read(Stream(up.ends, opened=False, data=up.data))


def test_the_command_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    capture, node = tmp_path / "x.pcap", tmp_path / "node"
    capture.write_bytes(pcap([]))
    node.mkdir()
    result = CliRunner().invoke(app, ["wire", str(capture), str(node)])
    assert result.exit_code != 0
    assert "node.db" in str(result.exception)
