"""Bodies of frames: the one encoding of each message, and what is none."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from world import FLOATS, Case, bad, make_box, messages, ok, pack

from protocols.codec import encode
from protocols.messages import kind_of


def message_vectors() -> list[Case]:
    valid = messages()
    cases = [ok(f"valid {name}", kind=str(kind_of(m)), body=encode(m).hex(), message=name) for name, m in valid.items()]

    def add(name: str, kind: str, value: Any, rule: str = "not a {} message") -> None:
        body = value if isinstance(value, bytes) else pack(value)
        cases.append(bad(name, "Malformed", "site-a", rule.format(kind), kind=kind, body=body.hex()))

    digest = hashlib.sha256(FLOATS).digest()
    box = msgspec.msgpack.decode(pack(make_box()))
    sender, ciphertext, wraps, signature = box
    add("hello under share", "share", ["hello", 0, 0, 0, True])
    add("nothing", "control", b"")
    add("not an array", "control", {"hello": 1})
    add("empty array", "control", [])
    add("unknown tag", "control", ["goodbye", 1])
    add("tag as a number", "control", [1, 0, 0])
    add("deeply nested", "control", b"\x91" * 1000)
    add("array of 2^32 - 1 promised", "control", b"\xdd\xff\xff\xff\xff\xa5hello")
    add("bytes of 2^32 - 1 promised", "release", b"\x95\xadweight-update\x00\x02\xc6\xff\xff\xff\xffab")
    add("field missing", "control", ["hello", 0, 0, 0])
    add("field too many", "control", ["hello", 0, 0, 0, True, 0])
    add("bytes left over", "control", pack(["round-done", 0, 0]) + b"\xc0")
    add("boot as a float", "control", ["hello", 0.0, 0, 0, True])
    add("boot as text", "control", ["hello", "0", 0, 0, True])
    add("boot is nil", "control", ["hello", None, 0, 0, True])
    add("boot of 2^31", "control", ["hello", 2**31, 0, 0, True])
    add("boot below 0", "control", ["hello", -1, 0, 0, True])
    add("stage -2", "control", ["hello", 0, -2, -2, False])
    add("round without a stage", "control", ["hello", 0, -1, 0, False])
    add("stage without a round", "control", ["hello", 0, 0, -1, False])
    add("done before the first round", "control", ["hello", 0, -1, -1, True])
    add("round below 0", "control", ["round-done", 0, -1])
    add("free text for a reason", "control", ["leave", "patient moved away"])
    add("site's reason from the coordinator", "control", ["study-closed", "vetoed"])
    add("vector of 13 bytes", "release", ["weight-update", 0, 2, digest, FLOATS + b"\x00"])
    add("vector as an array", "release", ["weight-update", 0, 2, digest, [1.0, -2.0, 0.5]])
    add("model digest of 31 bytes", "release", ["weight-update", 0, 2, digest[:31], FLOATS])
    add("prototypes of 13 bytes", "release", ["prototype-sum", 0, 2, digest, FLOATS + b"\x00"])
    add("prototypes without the model they were made with", "release", ["prototype-sum", 0, 2, FLOATS])
    add("prototypes as an array", "release", ["prototype-sum", 0, 2, digest, [1.0]])
    add("prototypes under publish", "publish", ["prototype-sum", 0, 2, digest, FLOATS])
    add("values of 1025 metrics", "release", ["metric-report", 0, 2, bytes(4 * 1025)])
    add("target vector of 13 bytes", "release", ["target-update", 0, 2, digest, FLOATS + b"\x00"])
    add("target digest of 31 bytes", "release", ["target-update", 0, 2, digest[:31], FLOATS])
    add("two distances", "release", ["distance-report", 0, 2, FLOATS[:8]])
    add("no distance", "release", ["distance-report", 0, 2, b""])
    add("distance as a float", "release", ["distance-report", 0, 2, 1.0])
    add("distance under control", "control", ["distance-report", 0, 2, FLOATS[:4]])
    add("a reason for wanting a target", "control", ["want-target", 0, 3, "lost"])
    add("targets asked of one site by name", "control", ["ask-targets", 0, 2, "site-a"])
    add("target digest of another target", "publish", ["target-model", 0, 3, digest, bytes(12)])
    add("round before this target", "publish", ["round-open", 0, 3, digest, [], FLOATS])
    add("round before prototypes", "publish", ["round-open", 0, 3, digest, [], [], FLOATS])
    add(
        "round with prototypes of 13 bytes",
        "publish",
        ["round-open", 0, 3, digest, [], [], FLOATS + b"\x00", b"", FLOATS],
    )
    add("round with no prototypes as nil", "publish", ["round-open", 0, 3, digest, [], [], None, b"", FLOATS])
    for name, banks in (
        ("banks out of order", [["site-b", digest], ["site-a", digest]]),
        ("one bank twice", [["site-a", digest], ["site-a", digest]]),
        ("1025 banks", [[f"s{n:04}", digest] for n in range(1025)]),
    ):
        add(name, "publish", ["round-open", 0, 3, digest, banks, [], b"", b"", FLOATS])
    add("model digest of another model", "publish", ["round-open", 0, 3, digest, [], [], b"", b"", bytes(12)])
    add("round before sparse updates", "publish", ["round-open", 0, 3, digest, [], [], b"", FLOATS])
    add("round with values and a model", "publish", ["round-open", 0, 3, digest, [], [], b"", FLOATS, FLOATS])
    add("round with values of 13 bytes", "publish", ["round-open", 0, 3, digest, [], [], b"", FLOATS + b"\x00", b""])
    add("first round with values", "publish", ["round-open", 0, 0, digest, [], [], b"", FLOATS, b""])
    target = [digest, False, True]
    for name, targets in (
        ("two targets", [target, target]),
        ("target without its bits", [target[:1]]),
        ("target's bit as a number", [[digest, 0, True]]),
        ("target digest cut", [[digest[:31], False, True]]),
        ("target as nil", None),
    ):
        add(name, "publish", ["round-open", 0, 3, digest, [], targets, b"", b"", FLOATS])
    add("box under another name", "publish", ["bank-relay", 0, 2, "site-b", box])
    add("box without recipients", "release", ["feature-bank", 0, 2, [sender, ciphertext, [], signature]])
    add(
        "box with one recipient twice",
        "release",
        ["feature-bank", 0, 2, [sender, ciphertext, [wraps[0]] * 2, signature]],
    )
    add("recipients out of order", "release", ["feature-bank", 0, 2, [sender, ciphertext, wraps[::-1], signature]])
    add(
        "wrapped key of 79 bytes",
        "release",
        ["feature-bank", 0, 2, [sender, ciphertext, [["site-b", bytes(79)]], signature]],
    )
    add("ciphertext shorter than its tag", "release", ["feature-bank", 0, 2, [sender, bytes(15), wraps, signature]])
    add("signature of 63 bytes", "release", ["feature-bank", 0, 2, [sender, ciphertext, wraps, signature[:63]]])
    add(
        "recipient is a path", "release", ["feature-bank", 0, 2, [sender, ciphertext, [["../b", bytes(80)]], signature]]
    )
    _, signed, proof = msgspec.msgpack.decode(encode(valid["log-head"]))
    fields, by = signed
    tag, first, (shown, _) = msgspec.msgpack.decode(encode(valid["log-heads"]))
    _, seen, (vouch,) = msgspec.msgpack.decode(encode(valid["log-witness"]))
    add("a head without a signature", "share", ["log-head", [fields], proof])
    add("a head of version 2", "share", ["log-head", [[2, *fields[1:]], by], proof])
    add("a head with free text", "share", ["log-head", [[*fields, "patient 17"], by], proof])
    add("leaves without a root in a head", "share", ["log-head", [[*fields[:4], 0, *fields[5:]], by], proof])
    add("a view of no head", "share", ["log-head", [[*fields[:8], digest], by], proof])
    add("a proof of 65 hashes", "share", ["log-head", signed, [digest] * 65])
    add("a proof of something else than hashes", "share", ["log-head", signed, [digest[:31]]])
    add("a head under control", "control", ["log-head", signed, proof])
    add("65 heads", "share", [tag, first, [shown] * 65])
    add("heads from a number below 0", "share", [tag, -1, [shown]])
    add("a head countersigned twice", "share", [tag, first, [[shown[0], [], [["site-a", bytes(64)]] * 2]]])
    add("65 vouches", "share", ["log-witness", seen, [vouch] * 65])
    add("a vouch for no round", "share", ["log-witness", seen, [[vouch[0], vouch[2]]]])
    long = "not the canonical encoding of a {} message"
    hello, done = pack(["hello", 3, 0, 2, True]), pack(["round-done", 0, 2])
    add("number in two bytes", "control", done[:-1] + b"\xcc\x02", long)
    add("number as signed", "control", done[:-1] + b"\xd0\x02", long)
    add("array length in three bytes", "control", b"\xdc\x00\x05" + hello[1:], long)
    add("text length in two bytes", "control", b"\x95\xd9\x05" + hello[2:], long)
    add(
        "bytes length in three bytes",
        "release",
        pack(["metric-report", 1, 0]).replace(b"\x93", b"\x94") + b"\xc5\x00\x00",
        long,
    )
    return cases
