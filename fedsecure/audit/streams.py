"""TCP byte streams out of packets (RFC 9293): one for each direction of each connection, whole or not at all.

Segments may come twice, out of order or overlap, as long as they agree. A byte that is missing, or that two segments
say differently, makes the capture useless as evidence, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, NamedTuple

from fedsecure.audit.capture import Broken, Packet

TCP: Final = 6
_SYN, _ACK = 2, 16
_HALF: Final = 1 << 31


class Ends(NamedTuple):
    """Who sent, and to whom: address and port."""

    source: tuple[str, int]
    target: tuple[str, int]

    def __str__(self) -> str:
        return f"{self.source[0]}:{self.source[1]} > {self.target[0]}:{self.target[1]}"


@dataclass(frozen=True, slots=True)
class Stream:
    """One direction of a connection. opened: by this end."""

    ends: Ends
    opened: bool
    data: bytes = field(repr=False)


class Segments:
    """What a capture has of one direction of one connection."""

    def __init__(self, first: int, opened: bool) -> None:
        self.first = first  # the SYN's sequence number
        self.opened = opened
        self._pieces: dict[int, bytes] = {}

    def add(self, number: int, payload: bytes) -> None:
        at = (number - self.first - 1) % (2 * _HALF)
        if payload and at < _HALF and len(payload) > len(self._pieces.get(at, b"")):
            # A longer piece at the same place must say the same as far as the shorter one goes.
            if not payload.startswith(self._pieces.get(at, b"")):
                raise Broken("two segments of the capture say the same bytes differently")
            self._pieces[at] = payload
        elif payload and at < _HALF and not self._pieces[at].startswith(payload):
            raise Broken("two segments of the capture say the same bytes differently")

    def data(self, ends: Ends) -> bytes:
        out = bytearray()
        for at, payload in sorted(self._pieces.items()):
            if at > len(out):
                raise Broken(f"the capture lacks {at - len(out)} bytes of {ends}: it began late, or dropped packets")
            again = out[at : at + len(payload)]
            if not payload.startswith(again):
                raise Broken("two segments of the capture say the same bytes differently")
            out += payload[len(again) :]
        return bytes(out)


def streams(found: Iterable[Packet]) -> tuple[tuple[Stream, ...], dict[int, int]]:
    """All streams with a byte in them, and the bytes of other protocols by IANA's number. Raises Broken."""
    open_: dict[Ends, Segments] = {}
    ended: list[tuple[Ends, Segments]] = []
    others: dict[int, int] = {}
    for packet in found:
        if packet.protocol != TCP:
            others[packet.protocol] = others.get(packet.protocol, 0) + len(packet.payload)
            continue
        ends, number, flags, payload = _segment(packet)
        if flags & _SYN:
            now = open_.get(ends)
            if now is None or now.first != number:
                if now is not None:
                    ended.append((ends, now))
                open_[ends] = Segments(number, opened=not flags & _ACK)
            number += 1
        if payload:
            if ends not in open_:
                raise Broken(f"the capture lacks the beginning of {ends}: begin it before the first node starts")
            open_[ends].add(number, payload)
    whole = [Stream(ends, segments.opened, segments.data(ends)) for ends, segments in [*ended, *open_.items()]]
    return tuple(stream for stream in whole if stream.data), others


def _segment(packet: Packet) -> tuple[Ends, int, int, bytes]:
    raw = packet.payload
    header = (raw[12] >> 4) * 4 if len(raw) >= 20 else 0
    if not 20 <= header <= len(raw):
        raise Broken("a TCP segment of the capture is shorter than its header")
    source, target = int.from_bytes(raw[0:2], "big"), int.from_bytes(raw[2:4], "big")
    ends = Ends((str(ip_address(packet.source)), source), (str(ip_address(packet.target)), target))
    return ends, int.from_bytes(raw[4:8], "big"), raw[13], raw[header:]
