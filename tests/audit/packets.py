"""Captures for tests: written by hand, and taken on the loopback by a raw socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

CLIENT, SERVER = ("127.0.0.1", 40000), ("127.0.0.1", 5555)
SYN, ACK = 2, 16


def segment(source: tuple[str, int], target: tuple[str, int], number: int, flags: int, payload: bytes = b"") -> bytes:
    """An IPv4 packet with one TCP segment."""
    tcp = struct.pack(">HHIIBBHHH", source[1], target[1], number % 2**32, 0, 5 << 4, flags, 65535, 0, 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    return head + socket.inet_aton(source[0]) + socket.inet_aton(target[0]) + tcp


def pcap(packets: list[bytes], link: int = 101, order: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 1 << 18, link)
    return head + b"".join(struct.pack(order + "IIII", 0, 0, len(one), len(one)) + one for one in packets)


def pcapng(packets: list[bytes], link: int = 101, order: str = "<") -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        size = struct.pack(order + "I", 12 + len(body))
        return struct.pack(order + "I", kind) + size + body + size

    out = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    out += block(1, struct.pack(order + "HHI", link, 0, 0)) + block(4, b"names, which nobody asked for")
    for one in packets:
        out += block(6, struct.pack(order + "IIIII", 0, 0, 0, len(one), len(one)) + one)
    return out


def conversation(up: bytes, down: bytes = b"", cut: int = 1000) -> list[bytes]:
    """A connection of CLIENT to SERVER that says `up` and hears `down`, in segments of `cut` bytes."""
    packets = [segment(CLIENT, SERVER, 99, SYN), segment(SERVER, CLIENT, 2**32 - 5, SYN | ACK)]
    packets += [segment(CLIENT, SERVER, 100 + at, ACK, up[at : at + cut]) for at in range(0, len(up), cut)]
    packets += [segment(SERVER, CLIENT, 2**32 - 4 + at, ACK, down[at : at + cut]) for at in range(0, len(down), cut)]
    return packets


@contextlib.contextmanager
def on_loopback(frames: list[bytes]) -> Iterator[None]:
    """Keep every Ethernet frame of the loopback in `frames`. Raises PermissionError where that is not allowed."""
    outgoing, every = 4, 3  # PACKET_OUTGOING of linux/if_packet.h, ETH_P_ALL: on the loopback each packet comes twice
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(every)) as tap:
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        tap.bind(("lo", 0))
        tap.settimeout(0.2)
        over = threading.Event()

        def listen() -> None:
            while True:
                try:
                    frame, address = tap.recvfrom(1 << 17)
                except TimeoutError:
                    if over.is_set():
                        return
                    continue
                if address[2] != outgoing:
                    frames.append(frame)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
