"""A second reader of handshakes and sessions, that follows SPEC.md and nothing else; see `reader`."""

from __future__ import annotations

import hashlib
import hmac
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK, WINDOW = 1 << 20, 8


class Refused(Exception):
    """The bytes break a rule of SPEC.md."""


def need(condition: object, rule: str) -> None:
    if not condition:
        raise Refused(rule)


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


class Fields:
    """The few MessagePack forms that a handshake has."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def take(self, size: int) -> bytes:
        need(size <= len(self.raw), "truncated")
        taken, self.raw = self.raw[:size], self.raw[size:]
        return taken

    def exact(self, expected: bytes) -> None:
        need(self.take(len(expected)) == expected, "not what stands here")

    def binary(self, size: int) -> bytes:
        self.exact(b"\xc4" + bytes((size,)) if size < 256 else b"\xc5" + size.to_bytes(2, "big"))
        return self.take(size)

    def name(self) -> str:
        first = self.take(1)[0]
        if first == 0xD9:
            self.exact(b"\x20")
            return self.take(32).decode("ascii", "replace")
        need(0xA1 <= first <= 0xBF, "a name")
        return self.take(first - 0xA0).decode("ascii", "replace")

    def boot(self) -> int:
        first = self.take(1)[0]
        if first < 0x80:
            return first
        need(first in (0xCC, 0xCD, 0xCE), "a boot number")
        width = 1 << (first - 0xCC)
        value = int.from_bytes(self.take(width), "big")
        need(value > (0x7F, 0xFF, 0xFFFF)[first - 0xCC] and value < 2**31, "not the shortest form")
        return value

    def end(self) -> None:
        need(not self.raw, "bytes left over")


def fields_of(packet: bytes, kind: bytes) -> Fields:
    need(packet[:1] == kind and len(packet) > 65, "type")
    return Fields(packet[65:])


def verify(packet: bytes, label: bytes, signing: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(signing).verify(packet[1:65], prefixed(label, packet[65:]))
    except InvalidSignature:
        raise Refused("signature") from None


def read_offer(
    packet: bytes, *, peer: str, me: str, roster: bytes, signing: bytes, least_boot: int
) -> tuple[bytes, bytes, bytes]:
    """Session to be replaced, X25519 key, ML-KEM key. `signing` is the peer's key, `roster` the roster's digest."""
    fields = fields_of(packet, b"\x01")
    fields.exact(b"\x99\x01")
    fields.binary(32)  # the study, which is for nodes to compare
    under, sender, recipient = fields.binary(32), fields.name(), fields.name()
    boot = fields.boot()
    previous, exchange, encapsulation = fields.binary(8), fields.binary(32), fields.binary(1184)
    fields.end()
    need(sender == peer, "sender")
    need(recipient == me, "recipient")
    verify(packet, b"fedsecure/session/offer/v1", signing)
    need(under == roster, "roster")
    need(boot >= least_boot, "boot")
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(exchange))
        MLKEM768PublicKey.from_public_bytes(encapsulation)
    except ValueError:
        raise Refused("unsound ephemeral") from None
    return previous, exchange, encapsulation


class Keys(NamedTuple):
    session: bytes
    to_coordinator: bytes
    to_site: bytes


def finish(packet: bytes, *, offer: bytes, exchange: bytes, seed: bytes, signing: bytes, least_boot: int) -> Keys:
    """The session's keys, from the coordinator's answer to `offer` and the offer's private ephemerals."""
    verify(packet, b"fedsecure/session/answer/v1", signing)
    fields = fields_of(packet, b"\x02")
    fields.exact(b"\x95\x01")
    need(fields.binary(32) == hashlib.sha256(offer).digest(), "another offer")
    need(fields.boot() >= least_boot, "boot")
    point, ciphertext = fields.binary(32), fields.binary(1088)
    fields.end()
    try:
        shared = X25519PrivateKey.from_private_bytes(exchange).exchange(X25519PublicKey.from_public_bytes(point))
    except ValueError:
        raise Refused("unsound ephemeral") from None
    shared += MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
    transcript = hashlib.sha256(prefixed(b"fedsecure/session/transcript/v1", offer, packet)).digest()
    secret = hmac.digest(transcript, shared, "sha256")  # HKDF-Extract, RFC 5869

    def expand(size: int, *info: bytes) -> bytes:  # of at most one block
        return hmac.digest(secret, prefixed(*info) + b"\x01", "sha256")[:size]

    label = b"fedsecure/session/key/v1"
    return Keys(
        expand(8, b"fedsecure/session/id/v1"), expand(32, label, b"to-coordinator"), expand(32, label, b"to-site")
    )


class Reader:
    """The receiving half of a session: frames out of packets."""

    def __init__(self, session: bytes, key: bytes, maximum: int) -> None:
        self.session, self.key, self.maximum = session, key, maximum
        self.counter = 0
        self.limit = WINDOW  # what the peer grants us, who send nothing
        self.frame = b""
        self.size = -1

    def read(self, packet: bytes) -> bytes | None:
        header, sealed = packet[:29], packet[29:]
        need(16 <= len(sealed) <= CHUNK + 16, "length")
        kind, session, counter = header[0], header[1:9], int.from_bytes(header[9:17], "big")
        size, index = int.from_bytes(header[17:25], "big"), int.from_bytes(header[25:], "big")
        need(kind in (3, 4) and session == self.session, "session")
        need(counter == self.counter, "counter")
        try:
            content = AESGCM(self.key).decrypt(counter.to_bytes(12, "big"), sealed, header)
        except InvalidTag:
            raise Refused("tag") from None
        self.counter += 1
        if kind == 4:
            need(not content and index == 0 and self.limit <= size <= WINDOW, "credit")
            self.limit = size
            return None
        if index == 0 and self.size < 0:
            need(size <= self.maximum, "size")
            self.size = size
        need(size == self.size and index * CHUNK == len(self.frame), "order")
        need(len(content) == min(CHUNK, size - len(self.frame)), "chunk")
        self.frame += content
        if len(self.frame) < size:
            return None
        frame, self.frame, self.size = self.frame, b"", -1
        return frame
