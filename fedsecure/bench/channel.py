"""How fast the channel is beside what it is made of, on loopback, between two processes.

A message goes from a site to a coordinator in another process (`fedsecure.bench.far_end`), which acknowledges it; bare
CURVE and the sealed channel in turns, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import zmq
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedsecure.bench.far_end import ACK, MEMORY, World, memory
from protocols.handshake import SessionKeys
from protocols.session import CHUNK, TAG, Buffers, Session
from protocols.transport.zmq_curve import CurveClient

MESSAGE = 64 << 20  # bytes
_CROWD = 64  # sites
_PATIENCE_S = 60.0


def bench_channel(repeats: int = 7) -> dict[str, float]:
    """Medians of `repeats` measurements of one message of 64 MiB, in bytes of 10^9 a second unless said otherwise.

    sealed_curve_gbps   frames in our sessions over CURVE, message to acknowledgement
    curve_gbps          the same message as one ZeroMQ message over CURVE
    seal_gbps           packets of a session made, one core
    aes_gcm_gbps        AES-256-GCM into a buffer of 1 MiB, one core
    sha256_gbps         SHA-256, one core
    seal_digest_gbps    SHA-256 of the message, then its packets, one core
    handshake_ms        fresh session keys and one small frame there and back, on a connection that is up
    peak_bytes          most memory used beyond the message itself, on the worse of both sides
    crowd_bytes         memory of a coordinator with 64 sites in session
    """
    message = os.urandom(MESSAGE)
    result = _on_one_core(message, repeats)
    with _far("sealed") as sealed, _far("bare") as bare:
        result |= _over_loopback(message, repeats, sealed, bare)
    with _far("sealed") as crowded:
        result["crowd_bytes"] = _crowd(crowded)
    return result


def _on_one_core(message: bytes, repeats: int) -> dict[str, float]:
    cipher, buffer, nonce = AESGCM(bytes(32)), bytearray(CHUNK + TAG), bytes(12)

    def gcm() -> None:
        for start in range(0, MESSAGE, CHUNK):
            cipher.encrypt_into(nonce, memoryview(message)[start : start + CHUNK], b"", buffer)

    aes, sha, seal = [], [], []
    for _ in range(repeats):
        aes.append(_seconds(gcm))
        sha.append(_seconds(lambda: hashlib.sha256(message).digest()))
        seal.append(_sealing(message))
    both = [a + b for a, b in zip(sha, seal, strict=True)]
    names = ("aes_gcm_gbps", "sha256_gbps", "seal_gbps", "seal_digest_gbps")
    return {name: _gbps(seconds) for name, seconds in zip(names, (aes, sha, seal, both), strict=True)}


def _sealing(message: bytes) -> float:
    """Seconds in which a session makes the packets of a message; what grants it the next ones is not counted."""
    keys = SessionKeys(bytes(8), os.urandom(32), os.urandom(32))
    near = Session(keys, peer="far", to_coordinator=True, maximum=MESSAGE, buffers=Buffers())
    far = Session(keys, peer="near", to_coordinator=False, maximum=MESSAGE, buffers=Buffers())
    near.begin(message)
    seconds, arrived = 0.0, None
    while arrived is None:
        start = time.perf_counter()
        packet = near.next_packet()
        seconds += time.perf_counter() - start
        if packet is None:
            raise RuntimeError("a session that was granted its chunks sends them")
        arrived = far.receive(packet)
        if (credit := far.next_packet()) is not None:
            near.receive(credit)
    return seconds


def _over_loopback(message: bytes, repeats: int, sealed: _Far, bare: _Far) -> dict[str, float]:
    client = CurveClient(sealed.world.party("site-0"), maximum=MESSAGE, endpoint=sealed.endpoint)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    party = bare.world.party("site-0")
    socket.curve_secretkey, socket.curve_publickey = party.identity.channel_key, party.identity.public.channel
    socket.curve_serverkey = bare.world.party("hub").identity.public.channel
    socket.connect(bare.endpoint)

    def ask(frame: bytes) -> bytes:
        client.send(frame)
        return _answer(client)

    def ask_bare(frame: bytes) -> None:
        socket.send(frame, copy=False)
        socket.recv()

    def rekey() -> None:
        client.rekey()
        ask(b"x")

    try:
        ask(b"x")
        ask_bare(b"x")
        ask(MEMORY)  # from here on the far end counts
        before = memory(reset=True)[0]
        ask(message)
        beyond = memory()[1] - before, int(ask(MEMORY)) - MESSAGE
        ours, theirs = [], []
        for _ in range(repeats):
            theirs.append(_seconds(lambda: ask_bare(message)))
            ours.append(_seconds(lambda: ask(message)))
        handshakes = [_seconds(rekey) for _ in range(20 * repeats)]
    finally:
        client.close()
        context.destroy(linger=0)
    return {
        "sealed_curve_gbps": _gbps(ours),
        "curve_gbps": _gbps(theirs),
        "handshake_ms": 1000 * median(handshakes),
        "peak_bytes": float(max(beyond)),
    }


def _crowd(far: _Far) -> float:
    """Memory of a coordinator when all sites have been heard from, in bytes."""
    clients = [CurveClient(far.world.party(f"site-{n}"), maximum=MESSAGE, endpoint=far.endpoint) for n in range(_CROWD)]
    try:
        for client in clients:
            client.send(b"x")
        for client in clients:
            _answer(client)
        clients[0].send(MEMORY)
        _answer(clients[0])
        return float(far.resident())
    finally:
        for client in clients:
            client.close()


class _Far:
    """The other process, and what both know."""

    def __init__(self, mode: str) -> None:
        self.world = World.make(_CROWD)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedsecure.bench.far_end"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        order = json.dumps({"mode": mode, "maximum": MESSAGE, "private": self.world.private})
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the far end has no pipes")
        self.process.stdin.write(order.encode() + b"\n")
        self.process.stdin.flush()
        self.endpoint = self.process.stdout.readline().decode().strip()

    def resident(self) -> int:
        return memory(pid=self.process.pid)[0]


@contextmanager
def _far(mode: str) -> Iterator[_Far]:
    far = _Far(mode)
    try:
        yield far
    finally:
        far.process.kill()
        far.process.communicate()


def _answer(client: CurveClient) -> bytes:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        for frame in client.poll(0.5):
            return frame.removeprefix(ACK)
    raise RuntimeError("the far end does not answer")


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _gbps(seconds: list[float]) -> float:
    return MESSAGE / median(seconds) / 1e9
