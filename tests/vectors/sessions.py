"""Handshakes and sessions: what two nodes agree on, and the packets that they then do not take."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from world import IDENTITIES, ROSTER, STUDY, Case, bad, fixed, ok, pack

from protocols.handshake import ANSWER_LABEL, OFFER_LABEL, Offered, Party

EPHEMERALS = fixed("exchange", "site-a"), fixed("kem", 1) + fixed("kem", 2)
# One encapsulation to the ML-KEM key of these ephemerals. It is random, and the library takes no seed for it.
SECRET, CIPHERTEXT = map(bytes.fromhex, Path(__file__).with_name("ml-kem-768.hex").read_text("utf-8").split())
EXCHANGE = X25519PrivateKey.from_private_bytes(fixed("exchange", "coordinator"))
SESSION = fixed("session")[:8]
KEYS = {"to_coordinator": fixed("key", "up"), "to_site": fixed("key", "down")}


def offer_packet(*, signer: str = "site-a", label: bytes = OFFER_LABEL, **changed: Any) -> bytes:
    """An offer from site-a, fields of which can be set to anything before it is signed."""
    party = Party("site-a", IDENTITIES["site-a"], ROSTER, STUDY, 3)
    offered = Offered(party, bytes(8), EPHEMERALS)
    exchange, encapsulation = (
        offered._exchange.public_key().public_bytes_raw(),
        offered._decapsulation.public_key().public_bytes_raw(),
    )
    fields = {
        "version": 1,
        "study": STUDY,
        "roster": ROSTER.digest,
        "sender": "site-a",
        "recipient": "coordinator",
        "boot": 3,
        "previous": bytes(8),
        "exchange": exchange,
        "encapsulation": encapsulation,
    }
    raw = pack(list((fields | changed).values()))
    return b"\x01" + IDENTITIES[signer].sign(label, raw) + raw


def offer_vectors() -> list[Case]:
    good = offer_packet()
    at = {"peer": "site-a", "me": "coordinator", "least_boot": 0}
    cases = [
        ok("valid", **at, packet=good.hex()),
        ok("boot as before", **{**at, "least_boot": 3}, packet=good.hex()),
        ok("names a session to replace", **at, packet=offer_packet(previous=SESSION).hex()),
        ok("another study", **at, packet=offer_packet(study=fixed("other")).hex()),
    ]

    def add(name: str, error: str, rule: str, packet: bytes, **place: Any) -> None:
        where = at | place
        cases.append(bad(name, error, where["peer"], rule, **where, packet=packet.hex()))

    shape, signed = "not a version 1 offer", "signed by who takes part in it"
    add("another roster", "WrongRoster", "same roster", offer_packet(roster=fixed("other")))
    add("another's", "WrongSender", "delivered by its sender", good, peer="site-b")
    add("renamed to its carrier", "BadSignature", signed, offer_packet(sender="site-b"), peer="site-b")
    add("for another coordinator", "WrongRecipient", "delivered to its recipient", offer_packet(recipient="site-c"))
    add("signed by another", "BadSignature", signed, offer_packet(signer="site-b"))
    add("signed under another label", "BadSignature", signed, offer_packet(label=ANSWER_LABEL))
    add("one bit of the signature", "BadSignature", signed, good[:1] + bytes((good[1] ^ 1,)) + good[2:])
    add("of an earlier start", "Replayed", "boot number never falls", good, least_boot=4)
    add("version 0", "Malformed", shape, offer_packet(version=0))
    add("version 2", "Malformed", shape, offer_packet(version=2))
    add("no post-quantum key", "Malformed", shape, offer_packet(encapsulation=b""))
    add("no X25519 key", "Malformed", shape, offer_packet(exchange=b""))
    add("a boot number that is negative", "Malformed", shape, offer_packet(boot=-1))
    add("a session name too short", "Malformed", shape, offer_packet(previous=bytes(7)))
    add("cut", "Malformed", shape, good[:-1])
    add("a byte left over", "Malformed", shape, good + b"\0")
    add("nothing but its type", "Malformed", shape, b"\x01")
    add("X25519 key of low order", "Malformed", "sound ephemeral keys", offer_packet(exchange=bytes(32)))
    add("ML-KEM key out of range", "Malformed", "sound ephemeral keys", offer_packet(encapsulation=b"\xff" * 1184))
    return cases


def answer_packet(*, signer: str = "coordinator", label: bytes = ANSWER_LABEL, **changed: Any) -> bytes:
    fields = {
        "version": 1,
        "offer": hashlib.sha256(offer_packet()).digest(),
        "boot": 2,
        "exchange": EXCHANGE.public_key().public_bytes_raw(),
        "ciphertext": CIPHERTEXT,
    }
    raw = pack(list((fields | changed).values()))
    return b"\x02" + IDENTITIES[signer].sign(label, raw) + raw


def answer_vectors() -> list[Case]:
    good = answer_packet()
    party = Party("site-a", IDENTITIES["site-a"], ROSTER, STUDY, 3)
    keys, _ = Offered(party, bytes(8), EPHEMERALS).finish(good)
    at = {"offer": offer_packet().hex(), "ephemerals": [key.hex() for key in EPHEMERALS], "least_boot": 0}
    cases = [
        ok(
            "valid", **at, packet=good.hex(), session=keys.id.hex(),
            to_coordinator=keys.to_coordinator.hex(), to_site=keys.to_site.hex(),
        )
    ]  # fmt: skip

    def add(name: str, error: str, rule: str, packet: bytes, **place: Any) -> None:
        cases.append(bad(name, error, "coordinator", rule, **(at | place), packet=packet.hex()))

    shape, signed = "not a version 1 answer", "signed by who takes part in it"
    add("to another offer", "Replayed", "to the offer just made", answer_packet(offer=fixed("other")))
    add("of an earlier start", "Replayed", "boot number never falls", good, least_boot=3)
    add("signed by a site", "BadSignature", signed, answer_packet(signer="site-b"))
    add("signed under another label", "BadSignature", signed, answer_packet(label=OFFER_LABEL))
    add("version 2", "Malformed", shape, answer_packet(version=2))
    add("no post-quantum ciphertext", "Malformed", shape, answer_packet(ciphertext=b""))
    add("cut", "BadSignature", signed, good[:-1])
    add("a byte left over", "BadSignature", signed, good + b"\0")
    add("X25519 key of low order", "Malformed", "sound ephemeral keys", answer_packet(exchange=bytes(32)))
    return cases


def packet(
    counter: int, content: bytes = b"", *, kind: int = 3, size: int | None = None, index: int = 0,
    key: str = "to_coordinator", session: bytes = SESSION,
) -> bytes:  # fmt: skip
    header = bytes((kind,)) + session + counter.to_bytes(8, "big")
    header += (len(content) if size is None else size).to_bytes(8, "big") + index.to_bytes(4, "big")
    return header + AESGCM(KEYS[key]).encrypt(counter.to_bytes(12, "big"), content, header)


def session_vectors() -> list[Case]:
    first, second, credit = packet(0, b"first"), packet(1, b"second"), packet(2, kind=4, size=8)
    keys = {"session": SESSION.hex(), **{name: key.hex() for name, key in KEYS.items()}}

    def ended(name: str, *packets: bytes, frames: tuple[bytes, ...]) -> Case:
        return ok(name, **keys, packets=[p.hex() for p in packets], frames=[frame.hex() for frame in frames])

    cases = [
        ended("one frame", first, frames=(b"first",)),
        ended("frames and a credit", first, second, credit, frames=(b"first", b"second")),
        ended("an empty frame", packet(0), frames=(b"",)),
    ]

    def add(name: str, error: str, rule: str, *packets: bytes) -> None:
        """All but the last are taken."""
        cases.append(bad(name, error, "site-a", rule, **keys, packets=[p.hex() for p in packets]))

    opens, order, whole = (
        "sealed under the keys of its session",
        "no packet of a session is left out",
        "in order and all",
    )
    add("repeated", "Replayed", "counter is above", first, first)
    add("repeated later", "Replayed", "counter is above", first, second, first)
    add("first left out", "Incomplete", order, second)
    add("one left out", "Incomplete", order, first, packet(2, b"third"))
    add("reflected to its maker", "CannotDecrypt", opens, packet(0, b"first", key="to_site"))
    add("of another session", "Malformed", "not a packet of this session", packet(0, b"first", session=bytes(8)))
    add("of an unknown type", "Malformed", "not a packet of this session", packet(0, b"first", kind=6))
    for what, at in {"type": 0, "counter": 16, "size": 24, "index": 28, "content": 30, "tag": -1}.items():
        flipped = bytearray(first)
        flipped[at] ^= 7 if what == "type" else 1  # a chunk called a credit
        add(f"one bit of the {what}", "CannotDecrypt", opens, bytes(flipped))
    add("cut", "CannotDecrypt", opens, first[:-1])
    add("cut to its header", "Malformed", "not a packet of a session", first[:29])
    add("a byte more", "CannotDecrypt", opens, first + b"\0")
    add("header of the next on its content", "CannotDecrypt", opens, second[:29] + first[29:])
    add("begins in the middle", "Incomplete", whole, packet(0, b"x", size=(1 << 20) + 1, index=1))
    add("announces more than is taken", "Oversize", "at most 4096 bytes", packet(0, b"x", size=4097))
    add("a chunk shorter than announced", "Malformed", "rest of its frame", packet(0, b"x", size=2))
    add("a chunk longer than announced", "Malformed", "rest of its frame", packet(0, b"xyz", size=2))
    add("a credit with content", "Malformed", "a credit has no content", packet(0, b"x", kind=4, size=8))
    add("a credit that falls", "UnexpectedMessage", "a credit rises", packet(0, kind=4, size=7))
    add("a credit beyond the window", "UnexpectedMessage", "a credit rises", packet(0, kind=4, size=9))
    return cases
