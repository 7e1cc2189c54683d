"""A second reader of transparency logs, that follows protocols/tlog/SPEC.md and nothing else; see `reader`.

It verifies proofs as the RFC defines trees, by recursion from the root, and not by the algorithm that it gives.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FLOWS = {
    "control": {
        "hello", "round-done", "leave", "want-target", "ask-targets", "study-closed", "greeting", "inquiry", "begin",
        "verdicts",
    },
    "release": {
        "weight-update", "feature-bank", "prototype-sum", "metric-report", "target-update", "distance-report",
        "masked-input", "digests",
    },
    "share": {
        "advertise-keys", "share-keys", "consistency-check", "unmask-shares", "result-agreement", "keyset",
        "relay-shares", "survivors", "unmask-request", "agreed-result", "log-head", "log-heads",
        "log-witness", "key-share",
    },
    "publish": {"round-open", "bank-relay", "target-model", "secagg-open", "sum-result"},
}  # fmt: skip
REASONS = {"schema", "cap", "content", "budget"}


class Refused(Exception):
    """The bytes break a rule of SPEC.md."""


def need(condition: object, rule: str) -> None:
    if not condition:
        raise Refused(rule)


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


class Fields:
    """The MessagePack forms that a log has, each in its shortest."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def take(self, size: int) -> bytes:
        need(size <= len(self.raw), "truncated")
        taken, self.raw = self.raw[:size], self.raw[size:]
        return taken

    def first(self) -> int:
        return self.take(1)[0]

    def long(self, form: int, widths: dict[int, int], inline: int) -> int:
        """A number whose form says its width in bytes; up to `inline` it would stand in the form itself."""
        need(form in widths, "form")
        width = widths[form]
        value = int.from_bytes(self.take(width), "big")
        shorter = max((256**other - 1 for other in widths.values() if other < width), default=inline)
        need(value > shorter, "not the shortest form")
        return value

    def array(self) -> int:
        form = self.first()
        return form & 0x0F if form >> 4 == 9 else self.long(form, {0xDC: 2, 0xDD: 4}, 15)

    def number(self, bits: int) -> int:
        form = self.first()
        value = form if form < 0x80 else self.long(form, {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}, 0x7F)
        need(value < 1 << bits, "number")
        return value

    def text(self) -> str:
        form = self.first()
        size = form & 0x1F if form >> 5 == 5 else self.long(form, {0xD9: 1}, 31)
        return self.take(size).decode("ascii", "replace")

    def name(self) -> str:
        name = self.text()
        need(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name), "name")
        return name

    def number_or_none(self) -> None:
        if self.raw[:1] == b"\xff":  # -1
            self.take(1)
        else:
            self.number(63)

    def shapes(self) -> None:
        arrays = self.array()
        need(arrays <= 4096, "shapes")
        for _ in range(arrays):
            rank = self.array()
            need(rank <= 8, "shapes")
            for _ in range(rank):
                self.number(31)

    def binary(self, size: int) -> bytes:
        need(self.take(2) == bytes((0xC4, size)), "length")
        return self.take(size)

    def end(self) -> None:
        need(not self.raw, "bytes left over")


class Leaf(NamedTuple):
    commitment: bytes
    hash: bytes


def read_leaf(raw: bytes, index: int) -> Leaf:
    fields = Fields(raw)
    count, tag = fields.array(), fields.text()
    need(tag in ("sent", "received", "refused"), "tag")
    need(count == {"sent": 16, "received": 11, "refused": 15}[tag], "fields")
    need(fields.number(63) == 1, "version")
    seq, kind = fields.number(63), fields.text()
    fields.name()
    flow = fields.text()
    need(kind in FLOWS, "kind")
    need(flow in FLOWS[kind] or (not flow and tag == "refused"), "flow")
    fields.number(31)
    fields.number(31)
    if tag != "received":
        fields.shapes()
    fields.number(63)
    if tag == "refused":
        reason = fields.text()
        need(reason in REASONS and (flow or reason == "schema"), "reason")
    else:
        fields.binary(32)
    commitment = b"" if tag == "received" else fields.binary(32)
    if tag != "refused":
        fields.binary(0 if fields.raw[1:2] == b"\0" else 32)
    if tag != "received":
        fields.number_or_none()
        fields.binary(32)
        fields.binary(32)
    fields.end()
    need(seq == index, "index")
    return Leaf(commitment, sha256(b"\x00", raw))


def commit(nonce: bytes, plaintext: bytes) -> bytes:
    return sha256(prefixed(b"fedsecure/leaf/commitment/v1"), nonce, plaintext)


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


def half(size: int) -> int:
    k = 1
    while 2 * k < size:
        k *= 2
    return k


def read_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], root: bytes) -> None:
    need(0 <= index < size, "index")
    need(all(len(part) == 32 for part in proof), "hash")

    def rebuilt(index: int, size: int, proof: list[bytes]) -> bytes:
        if size == 1:
            need(not proof, "proof")
            return leaf
        need(proof, "proof")
        k = half(size)
        if index < k:
            return node(rebuilt(index, k, proof[:-1]), proof[-1])
        return node(proof[-1], rebuilt(index - k, size - k, proof[:-1]))

    need(rebuilt(index, size, proof) == root, "root")


def read_consistency(size: int, root: bytes, later_size: int, later_root: bytes, proof: list[bytes]) -> None:
    need(0 <= size <= later_size, "size")
    need(all(len(part) == 32 for part in proof), "hash")
    empty = sha256()
    need((size or root == empty) and (later_size or later_root == empty), "root")
    if not size:
        need(not proof, "proof")
        return

    def rebuilt(size: int, later_size: int, proof: list[bytes], whole: bool) -> tuple[bytes, bytes]:
        """Roots of the earlier and the later tree, as far as they are under this node."""
        if size == later_size:
            need(len(proof) == (not whole), "proof")
            known = root if whole else proof[0]
            return known, known
        need(proof, "proof")
        k = half(later_size)
        if size <= k:
            old, new = rebuilt(size, k, proof[:-1], whole)
            return old, node(new, proof[-1])
        old, new = rebuilt(size - k, later_size - k, proof[:-1], False)
        return node(proof[-1], old), node(proof[-1], new)

    need(rebuilt(size, later_size, proof, True) == (root, later_root), "root")


class Head(NamedTuple):
    member: str
    round: int
    size: int
    root: bytes
    ledger: bytes
    seen: tuple[int, bytes]
    raw: bytes  # with its signature


class Reader:
    """Knows the study and everybody's signing keys; the coordinator's name is `hub`."""

    def __init__(self, study: bytes, hub: str, signing: dict[str, bytes]) -> None:
        self.study, self.hub, self.signing = study, hub, signing

    def verify(self, name: str, label: bytes, data: bytes, signature: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(self.signing[name]).verify(signature, prefixed(label, data))
        except InvalidSignature:
            raise Refused("signature") from None

    def _head(self, fields: Fields) -> tuple[Head, Any]:
        """The head, and what is left to check once it is known that no byte is left over."""
        whole = fields.raw
        need(fields.array() == 2, "fields")
        start = fields.raw
        need(fields.array() == 9 and fields.number(63) == 1, "version")
        study, member = fields.binary(32), fields.name()
        round_, size, root, ledger = fields.number(31), fields.number(63), fields.binary(32), fields.binary(32)
        seen = fields.number(31), fields.binary(32)
        signed = start[: len(start) - len(fields.raw)]
        signature = fields.binary(64)
        need((size == 0) == (root == sha256()), "empty")
        need((seen[0] == 0) == (seen[1] == bytes(32)), "view")

        def check() -> None:
            need(study == self.study, "study")
            need(member in self.signing, "member")
            self.verify(member, b"fedsecure/checkpoint/v1", signed, signature)

        return Head(member, round_, size, root, ledger, seen, whole[: len(whole) - len(fields.raw)]), check

    def head(self, raw: bytes) -> Head:
        fields = Fields(raw)
        head, check = self._head(fields)
        fields.end()
        check()
        return head

    def follow(self, last: Head | None, new: Head, proof: list[bytes]) -> bytes:
        """What a witness countersigns, before its own name."""
        if last is not None:
            earlier, later = sorted((last, new), key=lambda head: head.round)
            need(earlier.round != later.round or earlier == later, "two heads in a round")
            need(earlier.size <= later.size, "rollback")
            need(earlier.size != later.size or earlier.root == later.root, "two roots")
            need(last.round <= new.round, "older")
        try:
            size, root = (last.size, last.root) if last else (0, sha256())
            read_consistency(size, root, new.size, new.root, proof)
        except Refused:
            raise Refused("inconsistent") from None
        return new.raw

    def countersigned(self, member: str, raw: bytes, signature: bytes) -> None:
        self.verify(member, b"fedsecure/checkpoint/witness/v1", prefixed(member.encode(), raw), signature)

    def checkpoint(self, raw: bytes) -> tuple[Head, list[str]]:
        fields = Fields(raw)
        need(fields.array() == 2, "fields")
        head, check = self._head(fields)
        count = fields.array()
        given: list[tuple[str, bytes]] = []
        for _ in range(count):
            need(fields.array() == 2, "fields")
            given.append((fields.name(), fields.binary(64)))
        fields.end()
        members = [name for name, _ in given]
        need(members == sorted(set(members)), "order")
        check()
        for member, signature in given:
            need(member in self.signing and member != head.member, "member")
            self.countersigned(member, head.raw, signature)
        need({self.hub} <= {head.member, *members} and set(members) - {self.hub}, "unwitnessed")
        return head, members
