"""Captures and TCP streams: what is whole is read byte for byte, what is not is refused with the reason."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsecure.audit.capture import Broken, packets
from fedsecure.audit.streams import streams

from .packets import ACK, CLIENT, SERVER, SYN, conversation, pcap, pcapng, segment

UP, DOWN = bytes(range(256)) * 9, b"answer" * 500


def read(raw: bytes) -> dict[bool, bytes]:
    found, _ = streams(packets(raw))
    return {one.opened: one.data for one in found}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "write", [pcap, pcapng, lambda p, order: pcap(p, order=order, magic=0xA1B23C4D)], ids=["pcap", "pcapng", "ns"]
)
def test_both_formats_in_both_byte_orders(write: object, order: str) -> None:
    assert read(write(conversation(UP, DOWN), order=order)) == {True: UP, False: DOWN}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("link", "head"),
    [
        (1, bytes(12) + b"\x08\x00"),
        (1, bytes(12) + b"\x81\x00\x00\x07\x08\x00"),
        (0, b"\x02\0\0\0"),
        (113, bytes(14) + b"\x08\x00"),
        (276, b"\x08\x00" + bytes(18)),
    ],
    ids=["ethernet", "vlan", "null", "cooked", "cooked 2"],
)
def test_link_layers(link: int, head: bytes) -> None:
    assert read(pcap([head + one for one in conversation(UP)], link=link))[True] == UP


def test_what_is_no_ip_carries_nothing() -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    assert streams(packets(pcap([arp], link=1))) == ((), {})


def test_other_protocols_are_counted() -> None:
    udp = bytearray(segment(CLIENT, SERVER, 0, 0))
    udp[9] = 17
    assert streams(packets(pcap([bytes(udp)])))[1] == {17: 20}


@given(st.integers(0, 2**32), st.integers(1, 700))
def test_order_repeats_and_overlaps_change_nothing(seed: int, cut: int) -> None:
    chance = random.Random(seed)
    opening, said = conversation(UP, cut=cut)[:2], conversation(UP, cut=cut)[2:]
    said += chance.sample(said, len(said) // 2) + conversation(UP, cut=cut + 13)[2:]
    chance.shuffle(said)
    assert read(pcap(opening + said)) == {True: UP}


def test_a_second_connection_of_the_same_ports_is_another_stream() -> None:
    again = [segment(CLIENT, SERVER, 7_000_000, SYN), segment(CLIENT, SERVER, 7_000_001, ACK, b"again")]
    found, _ = streams(packets(pcap(conversation(UP) + again)))
    assert [one.data for one in found] == [UP, b"again"]


WHOLE = pcap(conversation(UP))
NG = pcapng(conversation(UP))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "neither pcap nor pcapng"),
        (b"\x89PNG" + WHOLE[4:], "neither pcap nor pcapng"),
        (WHOLE[:20], "neither pcap nor pcapng"),
        (WHOLE[:-1], "breaks off within a packet"),
        (WHOLE + b"\0" * 5, "breaks off within a packet's header"),
        (WHOLE[:36] + struct.pack("<I", 41) + WHOLE[40:], "cut short"),
        (pcap(conversation(UP), link=147), "link type 147"),
        (NG[:-2], "no length that holds"),
        (NG[:-4] + b"\0\0\0\0", "two lengths"),
        (NG[:8] + b"\0\0\0\0" + NG[12:], "no byte order"),
        (NG + NG[:6], "breaks off within a block"),
        (NG[:28] + NG[48:], "an interface that it does not describe"),
        (pcap([b"\x95" + conversation(UP)[0][1:]]), "no IP packet"),
        (pcap([conversation(UP)[0][:30]]), "shorter than it says"),
        (pcap([conversation(UP)[0][:6] + b"\x20\0" + conversation(UP)[0][8:]]), "IP fragment"),
        (pcap(conversation(UP)[1:]), "lacks the beginning"),
        (pcap([one for n, one in enumerate(conversation(UP)) if n != 3]), "lacks 1000 bytes"),
        (pcap([*conversation(UP), segment(CLIENT, SERVER, 150, ACK, b"other")]), "differently"),
        (pcap([*conversation(UP), segment(CLIENT, SERVER, 1100, ACK, b"other")]), "differently"),
        (pcap([segment(CLIENT, SERVER, 0, SYN)[:32] + b"\xf0" + segment(CLIENT, SERVER, 0, SYN)[33:]]), "its header"),
    ],
)
def test_what_is_broken_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        read(raw)


@given(st.integers(0, len(NG) - 1), st.integers(1, 255))
def test_a_changed_byte_never_ends_in_another_error(at: int, flip: int) -> None:
    for raw in (NG, WHOLE):
        if at < len(raw):
            changed = raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
            with contextlib.suppress(Broken):
                read(changed)
