"""A capture of a run against what its nodes have on record: every byte of the wire is explained, or it is told.

    TCP stream  = ZMTP greeting (64 bytes) || CURVE handshake || frames          ZMTP 3.1; ZeroMQ RFC 23, 26
    frame       = flags (1) || size (1 or 8) || "\\7MESSAGE" || nonce (8) || box (17) || packet
    packet      = 45 bytes || chunk of at most 1 MiB of what is on record      protocols/session
                | a credit (45), an offer, an answer, a reset, a roster's digest      protocols/link
                | a heartbeat: PING (7), PONG (5)

Sizes of ciphertext are all that an outsider has, and they are exact: a record of n bytes is ceil(n / 1 MiB) packets of
known sizes. What is left over must be packets of the sizes that carry no record, and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fedsecure.audit import magic
from fedsecure.audit.streams import Stream
from protocols.link import RESET_SIZE
from protocols.session import CHUNK, HEADER, TAG

_GREETING: Final = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_MESSAGE: Final = b"\x07MESSAGE"
_ADDED: Final = len(_MESSAGE) + 8 + 16 + 1  # nonce, MAC, flags of the frame inside
_CLIENT: Final = ((b"\x05HELLO", 200, 200), (b"\x08INITIATE", 257, 1 << 10))
_SERVER: Final = ((b"\x07WELCOME", 168, 168), (b"\x05READY", 30, 1 << 10))
_FRAME: Final = HEADER.size + TAG
_SIGNED: Final = 1 + 64  # type and signature of a handshake's packet
# MessagePack of an offer's and an answer's fields: names of 1 to 32 letters, boot numbers of 1 to 5 bytes
_OFFER: Final = range(_SIGNED + 1301 + 2 * 2 + 1, _SIGNED + 1301 + 2 * 34 + 5 + 1)
_ANSWER: Final = range(_SIGNED + 1161 + 1, _SIGNED + 1161 + 5 + 1)
_CONTROL: Final[Mapping[str, range]] = {
    "pong": range(5, 6),
    "ping": range(7, 8),
    "reset": range(RESET_SIZE, RESET_SIZE + 1),
    "roster": range(33, 34),
    "credit": range(_FRAME, _FRAME + 1),
    "answer": _ANSWER,
    "offer": _OFFER,
}


class NotOurs(ValueError):
    """A stream that does not speak what nodes speak. The text says where it stops to."""


@dataclass(frozen=True, slots=True)
class Direction:
    """All that went one way. wire: TCP payload; records: bytes on record; framing: what ZMTP, CURVE and sessions add
    to these; control: name -> (packets, bytes) of what carries no record. unseen: bytes on record that are not in the
    capture; unexplained: packets that no record and no rule explains."""

    wire: int
    records: int
    framing: int
    control: Mapping[str, tuple[int, int]]
    unseen: int
    unexplained: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether record and wire agree to the byte."""
        return not self.unseen and not self.unexplained


def reconcile(found: Iterable[Stream], recorded: Iterable[int]) -> Direction:
    """Streams of one direction against the sizes that all nodes on that side have on record. Raises NotOurs."""
    wire = around = 0
    seen: Counter[int] = Counter()
    for stream in found:
        packets, framing = read(stream)
        wire += len(stream.data)
        around += framing
        seen.update(packets)
    expected: Counter[int] = Counter()
    records = 0
    for size in recorded:
        records += size
        full, rest = divmod(size, CHUNK)
        expected[_FRAME + CHUNK] += full
        expected[_FRAME + rest] += rest > 0
    missing, extra = expected - seen, seen - expected
    chunks = (expected & seen).total()
    control: dict[str, tuple[int, int]] = {}
    unexplained: list[int] = []
    for size, count in sorted(extra.items()):
        name = next((name for name, sizes in _CONTROL.items() if size in sizes), None)
        if name is None:
            unexplained += [size] * count
        else:
            packets_, bytes_ = control.get(name, (0, 0))
            control[name] = packets_ + count, bytes_ + count * size
    unseen = sum((size - _FRAME) * count for size, count in missing.items())
    return Direction(wire, records, around + chunks * _FRAME, control, unseen, tuple(unexplained))


def read(stream: Stream) -> tuple[list[int], int]:
    """(sizes of the packets inside, bytes that ZMTP and CURVE add to them). Raises NotOurs."""
    raw = stream.data
    if len(raw) < _GREETING or raw[0] != 0xFF or raw[9] != 0x7F or raw[12:32] != b"CURVE".ljust(20, b"\0"):
        raise NotOurs(f"{stream.ends} does not begin as ZMTP 3 under CURVE does")
    at, packets = _GREETING, []
    for name, least, most in _CLIENT if stream.opened else _SERVER:
        if at == len(raw):
            return [], len(raw)  # the door refused it
        body, at, flags = _body(stream, at)
        if flags & ~_LONG != _COMMAND or not body.startswith(name) or not least <= len(body) <= most:
            raise NotOurs(f"{stream.ends} leaves CURVE's handshake")
    while at < len(raw):
        body, at, flags = _body(stream, at)
        if flags & ~_LONG or not body.startswith(_MESSAGE) or len(body) < _ADDED:
            raise NotOurs(f"{stream.ends} sends something beside CURVE's messages")
        packets.append(len(body) - _ADDED)
    return packets, len(raw) - sum(packets)


def files_in(stream: Stream) -> tuple[str, ...]:
    """Formats of files that begin in a stream in the clear."""
    return tuple(name for name, _ in magic.found_in(stream.data))


def _body(stream: Stream, at: int) -> tuple[bytes, int, int]:
    raw = stream.data
    flags = raw[at]
    width = 8 if flags & _LONG else 1
    start = at + 1 + width
    end = start + int.from_bytes(raw[at + 1 : start], "big")
    if flags > (_MORE | _LONG | _COMMAND) or start > len(raw) or end > len(raw):
        raise NotOurs(f"{stream.ends} ends within a frame of ZMTP: end the capture after the nodes")
    return raw[start:end], end, flags
