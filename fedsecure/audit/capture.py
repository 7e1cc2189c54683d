"""Packets out of a capture file: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), strictly read.

A file that breaks off, has a packet that was cut to a snap length, or a link type that is not known here is refused:
what is not in a capture cannot be accounted for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from fedsecure.errors import SettingsError

_PCAP: Final = (0xA1B2C3D4, 0xA1B23C4D)  # microseconds, nanoseconds
_INTERFACE, _SIMPLE, _ENHANCED = 1, 3, 6
_ORDER: Final = 0x1A2B3C4D
_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN: Final = (0x8100, 0x88A8)
_LARGEST: Final = 1 << 26  # bytes of one block


class Packet(NamedTuple):
    """One IP packet. protocol: IANA's number; source, target: addresses, 4 or 16 bytes; payload: of the protocol."""

    protocol: int
    source: bytes
    target: bytes
    payload: bytes


class Broken(SettingsError):
    """The capture cannot be used. The text says why and what to do."""


def packets(raw: bytes) -> Iterator[Packet]:
    """IP packets of a capture, in order; other packets (ARP and its kin) carry nothing further. Raises Broken."""
    frames = _pcapng(raw) if raw[:4] == b"\x0a\x0d\x0d\x0a" else _pcap(raw)
    for link, frame in frames:
        network = _network(link, frame)
        if network:
            yield _ip(network)


def _pcap(raw: bytes) -> Iterator[tuple[int, bytes]]:
    order = next((order for order in "<>" if raw[:4] in [struct.pack(order + "I", one) for one in _PCAP]), None)
    if order is None or len(raw) < 24:
        raise Broken("this is neither pcap nor pcapng: write it with tcpdump -w or dumpcap")
    link = struct.unpack_from(order + "I", raw, 20)[0] & 0x0FFFFFFF
    at = 24
    while at < len(raw):
        if at + 16 > len(raw):
            raise Broken("the capture breaks off within a packet's header")
        kept, size = struct.unpack_from(order + "II", raw, at + 8)
        yield link, _whole(raw, at + 16, kept, size)
        at += 16 + kept


def _pcapng(raw: bytes) -> Iterator[tuple[int, bytes]]:
    links: list[int] = []
    at, order = 0, "<"
    while at < len(raw):
        if at + 12 > len(raw):
            raise Broken("the capture breaks off within a block")
        if raw[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if raw[at + 8 : at + 12] == struct.pack("<I", _ORDER) else ">"
            if raw[at + 8 : at + 12] != struct.pack(order + "I", _ORDER):
                raise Broken("a section of the capture has no byte order")
            links = []
        kind, size = struct.unpack_from(order + "II", raw, at)
        if size < 12 or size % 4 or size > _LARGEST or at + size > len(raw):
            raise Broken("a block of the capture has no length that holds")
        if raw[at + size - 4 : at + size] != raw[at + 4 : at + 8]:
            raise Broken("a block of the capture says two lengths")
        body = raw[at + 8 : at + size - 4]
        if kind == _INTERFACE:
            links.append(struct.unpack_from(order + "H", _least(body, 8))[0])
        elif kind == _ENHANCED:
            interface, _, _, kept, full = struct.unpack_from(order + "IIIII", _least(body, 20))
            yield _link(links, interface), _whole(body, 20, kept, full)
        elif kind == _SIMPLE:
            (full,) = struct.unpack_from(order + "I", _least(body, 4))
            yield _link(links, 0), _whole(body, 4, full, full)
        at += size


def _least(body: bytes, size: int) -> bytes:
    if len(body) < size:
        raise Broken("a block of the capture is shorter than its fields")
    return body


def _link(links: list[int], interface: int) -> int:
    if interface >= len(links):
        raise Broken("a packet of the capture is of an interface that it does not describe")
    return links[interface]


def _whole(raw: bytes, at: int, kept: int, size: int) -> bytes:
    if kept < size:
        raise Broken("a packet was cut short when it was captured: capture whole packets (tcpdump -s 0)")
    if at + kept > len(raw):
        raise Broken("the capture breaks off within a packet")
    return raw[at : at + kept]


def _network(link: int, frame: bytes) -> bytes:
    """The IP packet in a frame; empty if it holds none."""
    match link:  # https://www.tcpdump.org/linktypes.html
        case 101:  # raw IP
            return frame
        case 0:  # BSD loopback
            return frame[4:]
        case 1:  # Ethernet
            at = 12
            while int.from_bytes(frame[at : at + 2], "big") in _VLAN:
                at += 4
        case 113:  # Linux cooked capture, version 1
            at = 14
        case 276:  # and version 2
            return frame[20:] if int.from_bytes(frame[:2], "big") in (_IPV4, _IPV6) else b""
        case _:
            raise Broken(f"the capture's link type {link} is not known here: capture on Ethernet, loopback or `any`")
    return frame[at + 2 :] if int.from_bytes(frame[at : at + 2], "big") in (_IPV4, _IPV6) else b""


def _ip(raw: bytes) -> Packet:
    version = raw[0] >> 4
    if version == 4 and len(raw) >= 20:
        header, total = (raw[0] & 15) * 4, int.from_bytes(raw[2:4], "big") or len(raw)
        if int.from_bytes(raw[6:8], "big") & 0x3FFF:
            raise Broken("a packet of the capture is an IP fragment: capture where packets are whole")
        if not 20 <= header <= total <= len(raw):
            raise Broken("an IP packet of the capture is shorter than it says")
        return Packet(raw[9], raw[12:16], raw[16:20], raw[header:total])
    if version == 6 and len(raw) >= 40:
        total = 40 + (int.from_bytes(raw[4:6], "big") or len(raw) - 40)
        if total > len(raw):
            raise Broken("an IP packet of the capture is shorter than it says")
        return Packet(raw[6], raw[8:24], raw[24:40], raw[40:total])
    raise Broken("a packet of the capture is no IP packet, and its link layer says it is one")
