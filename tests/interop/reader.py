"""A second reader of frames and boxes, that follows the two SPEC.md and nothing else.

It shares no code with the packages it reads: the standard library and primitives of `cryptography`, nothing else (a
test looks at its imports). It is slow and small, and checks whatever SPEC.md says a receiver MUST check about bytes.
Every refusal is a Refused; which rule it was is left to the implementation under test.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from itertools import pairwise
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Refused(Exception):
    """The bytes break a rule of SPEC.md."""


class Member(NamedTuple):
    signing: bytes
    sealing: bytes
    channel: bytes


def need(condition: object, rule: str) -> None:
    if not condition:
        raise Refused(rule)


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def verify(member: Member, label: bytes, data: bytes, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(member.signing).verify(signature, prefixed(label, data))
    except InvalidSignature:
        raise Refused("signature") from None


# MessagePack, and of it only what the messages use: array, str, bin, int, bool, each in its shortest form.


class Unpacker:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, size: int) -> bytes:
        need(self.at + size <= len(self.raw), "truncated")
        self.at += size
        return self.raw[self.at - size : self.at]

    def size(self, width: int, shorter: int) -> int:
        """A length of `width` bytes that did not fit a shorter form, whose largest was `shorter`."""
        value = int.from_bytes(self.take(width), "big")
        need(value > shorter, "not the shortest form")
        return value

    def value(self, depth: int = 0) -> Any:
        need(depth < 6, "deeper than any message")
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if 0x90 <= first < 0xA0:
            return [self.value(depth + 1) for _ in range(first & 0x0F)]
        if 0xA0 <= first < 0xC0:
            return self.take(first & 0x1F).decode("ascii")
        if first in (0xC2, 0xC3):
            return first == 0xC3
        if first in (0xC4, 0xC5, 0xC6):
            width = 1 << (first - 0xC4)
            return self.take(self.size(width, (-1, 0xFF, 0xFFFF)[first - 0xC4]))
        if 0xCC <= first <= 0xCF:
            return self.size(1 << (first - 0xCC), (0x7F, 0xFF, 0xFFFF, 0xFFFFFFFF)[first - 0xCC])
        if first == 0xD9:
            return self.take(self.size(1, 31)).decode("ascii")
        if first in (0xDC, 0xDD):
            width = 2 << (first - 0xDC)
            return [self.value(depth + 1) for _ in range(self.size(width, (15, 0xFFFF)[first - 0xDC]))]
        raise Refused("a form that no message uses")


def unpack(raw: bytes) -> list[Any]:
    unpacker = Unpacker(raw)
    try:
        value = unpacker.value()
    except UnicodeDecodeError:
        raise Refused("text is ASCII") from None
    need(unpacker.at == len(raw), "bytes left over")
    need(isinstance(value, list), "not an array")
    return list(value)


# Fields of messages: each checker takes a decoded value and refuses.


def is_name(value: Any) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_bytes(value: Any, low: int, high: int) -> bool:
    return isinstance(value, bytes) and low <= len(value) <= high


COUNT = 2**31 - 1
ANY = 2**32
FIELDS: dict[str, tuple[str, str, str]] = {  # tag -> kind, role, fields
    "hello": ("control", "site", "boot position position flag"),
    "round-done": ("control", "site", "count count"),
    "leave": ("control", "site", "leave"),
    "study-closed": ("control", "coordinator", "close"),
    "weight-update": ("release", "site", "count count digest floats"),
    "feature-bank": ("release", "site", "count count box"),
    "prototype-sum": ("release", "site", "count count digest floats"),
    "metric-report": ("release", "site", "count count metrics"),
    "round-open": ("publish", "coordinator", "count count digest banks target floats floats floats"),
    "bank-relay": ("publish", "coordinator", "count count name box"),
    "target-update": ("release", "site", "count count digest floats"),
    "distance-report": ("release", "site", "count count float"),
    "target-model": ("publish", "coordinator", "count count digest floats"),
    "want-target": ("control", "site", "count count"),
    "ask-targets": ("control", "coordinator", "count count"),
    "log-head": ("share", "site", "signed-head proof"),
    "log-heads": ("share", "coordinator", "count shown"),
    "log-witness": ("share", "site", "count vouches"),
    "secagg-open": ("publish", "coordinator", "manifest signature"),
    "advertise-keys": ("share", "site", "rank digest hybrid hybrid digest signature"),
    "keyset": ("share", "coordinator", "digest digest key-digests advertisements"),
    "share-keys": ("share", "site", "digest dealt"),
    "relay-shares": ("share", "coordinator", "digest ranks received"),
    "masked-input": ("release", "site", "digest bytes"),
    "survivors": ("share", "coordinator", "digest ranks ranks"),
    "consistency-check": ("share", "site", "digest signature"),
    "unmask-request": ("share", "coordinator", "digest signatures"),
    "unmask-shares": ("share", "site", "digest held held"),
    "sum-result": ("publish", "coordinator", "digest digest signature"),
    "result-agreement": ("share", "site", "digest signature"),
    "agreed-result": ("share", "coordinator", "digest signatures"),
}


def check_field(form: str, value: Any) -> bool:
    checks = {
        "boot": lambda: is_int(value, 0, COUNT),
        "count": lambda: is_int(value, 0, COUNT),
        "position": lambda: is_int(value, -1, COUNT),
        "flag": lambda: isinstance(value, bool),
        "leave": lambda: value in ("vetoed", "failed", "finished"),
        "close": lambda: value in ("finished", "aborted"),
        "digest": lambda: is_bytes(value, 32, 32),
        "floats": lambda: is_bytes(value, 0, ANY) and len(value) % 4 == 0,
        "metrics": lambda: is_bytes(value, 0, 4096) and len(value) % 4 == 0,
        "float": lambda: is_bytes(value, 4, 4),
        "target": lambda: is_target(value),
        "name": lambda: is_name(value),
        "box": lambda: is_box(value),
        "banks": lambda: is_banks(value),
        "bytes": lambda: is_bytes(value, 0, ANY),
        "signature": lambda: is_bytes(value, 64, 64),
        "hybrid": lambda: is_bytes(value, 1216, 1216),
        "rank": lambda: is_int(value, 0, 1023),
        "ranks": lambda: is_rows(value, ["rank"], bare=True),
        "positive": lambda: is_int(value, 1, COUNT),
        "ring": lambda: value in (16, 20, 24, 32),
        "real": lambda: is_bytes(value, 8, 8),
        "share33": lambda: is_bytes(value, 33, 33),
        "manifest": lambda: is_manifest(value),
        "key-digests": lambda: is_rows(value, ["rank", "digest"]),
        "advertisements": lambda: is_advertisements(value),
        "dealt": lambda: is_dealt(value, 1),
        "received": lambda: is_dealt(value, 0),
        "signatures": lambda: is_rows(value, ["rank", "signature"]),
        "held": lambda: is_rows(value, ["rank", "share33"]),
        "signed-head": lambda: is_signed_head(value),
        "proof": lambda: is_list(value, 64, ["digest"], bare=True),
        "countersigned": lambda: is_list(value, 1, ["name", "signature"]),
        "shown": lambda: is_list(value, 64, ["signed-head", "proof", "countersigned"]),
        "vouches": lambda: is_list(value, 64, ["name", "count", "signature"]),
        "size": lambda: is_int(value, 0, 2**63 - 1),
    }
    return bool(checks[form]())


def ascending(names: list[str]) -> bool:
    return all(first < second for first, second in pairwise(names))


def is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and is_name(value[0])
        and is_bytes(value[1], 16, ANY)
        and isinstance(value[2], list)
        and 1 <= len(value[2]) <= 1024
        and all(isinstance(w, list) and len(w) == 2 and is_name(w[0]) and is_bytes(w[1], 80, 80) for w in value[2])
        and ascending([wrap[0] for wrap in value[2]])
        and is_bytes(value[3], 64, 64)
    )


def is_banks(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 1024
        and all(isinstance(b, list) and len(b) == 2 and is_name(b[0]) and is_bytes(b[1], 32, 32) for b in value)
        and ascending([bank[0] for bank in value])
    )


def is_target(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 1
        and all(isinstance(t, list) and len(t) == 3 and is_bytes(t[0], 32, 32) for t in value)
        and all(isinstance(bit, bool) for t in value for bit in t[1:])
    )


def is_list(value: Any, most: int, forms: list[str], bare: bool = False) -> bool:
    """As `is_rows`, in any order."""
    if not isinstance(value, list) or len(value) > most:
        return False
    rows = [[row] if bare else row for row in value]
    return all(isinstance(row, list) and len(row) == len(forms) and all(map(check_field, forms, row)) for row in rows)


def is_signed_head(value: Any) -> bool:
    """protocols/tlog/SPEC.md, Heads."""
    forms = ["digest", "name", "count", "size", "digest", "digest", "count", "digest"]
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], list) and len(value[0]) == 9):
        return False
    version, *fields = value[0]
    good = is_int(version, 1, 1) and all(map(check_field, forms, fields)) and is_bytes(value[1], 64, 64)
    empty, none = hashlib.sha256().digest(), bytes(32)
    return good and (fields[3] == 0) == (fields[4] == empty) and (fields[6] == 0) == (fields[7] == none)


def is_rows(value: Any, forms: list[str], bare: bool = False) -> bool:
    """At most 1024 arrays of these forms, ascending by the first; or, bare, values of the one form."""
    if not isinstance(value, list) or len(value) > 1024:
        return False
    rows = [[row] if bare else row for row in value]
    good = all(isinstance(row, list) and len(row) == len(forms) and all(map(check_field, forms, row)) for row in rows)
    return good and all(first[0] < second[0] for first, second in pairwise(rows))


def is_manifest(value: Any) -> bool:
    forms = ["digest", "count", "count", "count", "digest", "_", "_", "ring", "_", "positive", "count", "count"]
    forms += ["positive", "real", "real", "real", "real", "digest", "digest", "digest", "digest"]
    if not isinstance(value, list) or len(value) != len(forms):
        return False
    inputs, flows, cohort = value[5], value[6], value[8]
    good = all(form == "_" or check_field(form, field) for form, field in zip(forms, value, strict=True))
    good = good and is_rows(inputs, ["name", "digest"]) and is_rows(cohort, ["name", "positive"])
    good = good and isinstance(flows, list) and 1 <= len(flows) <= 16 and len(cohort) >= 1
    good = good and all(is_rows([row], ["name", "positive"]) for row in flows)
    return good and len({row[0] for row in flows}) == len(flows)


def is_advertisements(value: Any) -> bool:
    forms = FIELDS["advertise-keys"][2].split()
    return is_rows(
        [row[1:] if isinstance(row, list) and row[:1] == ["advertise-keys"] else None for row in value]
        if isinstance(value, list)
        else None,
        forms,
    )


def is_dealt(value: Any, by: int) -> bool:
    """Entries ascending by their holder (by = 1) or their dealer (by = 0)."""
    if not isinstance(value, list) or len(value) > 1024:
        return False
    for row in value:
        if not (isinstance(row, list) and len(row) == 7 and is_int(row[0], 0, 1023) and is_int(row[1], 0, 1023)):
            return False
        sealed, offered = (0 if row[0] == row[1] else 1202), (1168 if row[0] < row[1] else 0)
        if not (is_bytes(row[2], sealed, sealed) and is_bytes(row[3], offered, offered)):
            return False
        if not all(map(check_field, ("digest", "digest", "signature"), row[4:])):
            return False
    return all(first[by] < second[by] for first, second in pairwise(value))


def read_message(kind: str, body: bytes) -> tuple[str, list[Any]]:
    """Tag and fields of a body of this kind."""
    value = unpack(body)
    need(value and isinstance(value[0], str) and value[0] in FIELDS, "no such message")
    tag, fields = value[0], value[1:]
    forms = FIELDS[tag][2].split()
    need(FIELDS[tag][0] == kind, "another kind's message")
    need(len(fields) == len(forms) and all(map(check_field, forms, fields)), "a field")
    if tag == "hello":
        need((fields[1] < 0) == (fields[2] < 0) and not (fields[1] < 0 and fields[3]), "before the first round")
    if tag == "round-open":
        need(not fields[6] or (not fields[7] and fields[1] > 0), "values in place of a model, after a round")
        need(fields[6] or hashlib.sha256(fields[7]).digest() == fields[2], "model digest")
    if tag == "target-model":
        need(hashlib.sha256(fields[3]).digest() == fields[2], "target digest")
    if tag == "bank-relay":
        need(fields[2] == fields[3][0], "a box goes under its sender's name")
    return tag, fields


def read_frame(
    frame: bytes, *, peer: str, me: str, study: bytes, roster: Roster, last: dict[str, int], maximum: int
) -> tuple[int, str, list[Any]]:
    """Number, tag and fields. `last` is not changed."""
    need(peer in roster.members and peer != me, "unknown peer")
    role = roster.role(peer)
    need(role != roster.role(me), "two sites")
    need(len(frame) <= maximum, "oversize")
    need(len(frame) >= 2, "truncated")
    size = int.from_bytes(frame[:2], "big")
    need(size <= 256 and len(frame) >= 2 + size + 64, "truncated")
    raw, signature, body = frame[2 : 2 + size], frame[2 + size : 66 + size], frame[66 + size :]
    header = unpack(raw)
    need(len(header) == 8, "header")
    version, kind, its_study, sender, recipient, seq, length, digest = header
    need(is_int(version, 1, 1) and is_int(seq, 1, 2**63 - 1) and is_int(length, 0, 2**63 - 1), "header")
    need(its_study == study, "study")
    need(sender == peer, "sender")
    need(recipient == me, "recipient")
    need(
        kind in {"site": ("release", "control", "share"), "coordinator": ("publish", "control", "share")}[role], "kind"
    )
    verify(roster.members[peer], b"fedsecure/frame/v1", raw, signature)
    need(seq > last.get(peer, 0), "replayed")
    need(len(body) == length and hashlib.sha256(body).digest() == digest, "body digest")
    tag, fields = read_message(kind, body)
    need(FIELDS[tag][1] == role, "role")
    if tag == "feature-bank":
        need(fields[2][0] == peer, "another's box")
    if tag == "bank-relay":
        need(fields[2] in roster.members and roster.role(fields[2]) == "site", "not a site's box")
    return seq, tag, fields


def read_box(
    box: list[Any], *, study: bytes, stage: int, round_: int, sender: str, me: str, secret: bytes, roster: Roster
) -> bytes:
    """The content of a box, as decoded by `unpack`, opened with the private sealing key `secret`."""
    need(is_box(box), "box")
    need(sender in roster.members and roster.role(sender) == "site" and box[0] == sender, "sender")
    ciphertext, wraps, signature = box[1:]
    context = (study, stage.to_bytes(8, "big"), round_.to_bytes(8, "big"), sender.encode())
    digest = hashlib.sha256(ciphertext).digest()
    pairs = [part for name, key in wraps for part in (name.encode(), key)]
    verify(roster.members[sender], b"fedsecure/box/v1", prefixed(*context, digest, *pairs), signature)
    keys = dict(wraps)
    need(me in keys, "not a recipient")
    key = hpke_open(secret, keys[me], prefixed(b"fedsecure/box/key/v1", *context, me.encode(), digest))
    data = prefixed(b"fedsecure/box/content/v1", *context, *(name.encode() for name in keys))
    return gcm_open(key, bytes(12), ciphertext, data)


def gcm_open(key: bytes, nonce: bytes, ciphertext: bytes, data: bytes) -> bytes:
    need(len(key) in (16, 32), "key size")
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, data)
    except InvalidTag:
        raise Refused("tag") from None


# HPKE, RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-GCM. Section numbers are the RFC's.

KEM_SUITE = b"KEM" + (0x0020).to_bytes(2, "big")
AEADS = {16: 0x0001, 32: 0x0002}  # key size -> AEAD id


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:  # 4
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, "sha256")


def labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, size: int) -> bytes:  # 4; size <= 32
    labeled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", "sha256")[:size]


def key_schedule(shared: bytes, enc: bytes, public: bytes, info: bytes, key_size: int) -> tuple[bytes, bytes]:
    """Key and first nonce: 4.1 ExtractAndExpand, then 5.1 KeySchedule of the base mode."""
    prk = labeled_extract(KEM_SUITE, b"", b"eae_prk", shared)
    secret = labeled_expand(KEM_SUITE, prk, b"shared_secret", enc + public, 32)
    suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0001, AEADS[key_size]))
    psk_hash = labeled_extract(suite, b"", b"psk_id_hash", b"")
    context = b"\x00" + psk_hash + labeled_extract(suite, b"", b"info_hash", info)
    prk = labeled_extract(suite, secret, b"secret", b"")
    return labeled_expand(suite, prk, b"key", context, key_size), labeled_expand(suite, prk, b"base_nonce", context, 12)


def hpke_open(secret: bytes, sealed: bytes, info: bytes, *, data: bytes = b"", key_size: int = 32) -> bytes:
    private = X25519PrivateKey.from_private_bytes(secret)
    enc, ciphertext = sealed[:32], sealed[32:]
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    except ValueError:
        raise Refused("encapsulated key") from None
    key, nonce = key_schedule(shared, enc, private.public_key().public_bytes_raw(), info, key_size)
    return gcm_open(key, nonce, ciphertext, data)


def hpke_seal(
    ephemeral: bytes, public: bytes, plaintext: bytes, info: bytes, *, data: bytes = b"", key_size: int = 32
) -> bytes:
    """With a given ephemeral private key: for frozen vectors, where the same bytes must come out again."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    key, nonce = key_schedule(shared, enc, public, info, key_size)
    return enc + AESGCM(key).encrypt(nonce, plaintext, data)


class Roster(NamedTuple):
    """As `roster_reader` reads it, without whatever is not needed to read frames."""

    coordinator: str
    members: dict[str, Member]

    def role(self, name: str) -> str:
        return "coordinator" if name == self.coordinator else "site"
