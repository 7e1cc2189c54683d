"""Frames: what `open_frame` accepts, and the many it must not."""

from __future__ import annotations

import hashlib
from typing import Any

from world import IDENTITIES, MAXIMUM, STUDY, Case, bad, fixed, make_box, messages, ok, pack, sealer

from protocols.codec import encode
from protocols.envelope import FRAME_LABEL
from protocols.messages import BankRelay, FeatureBank, Hello, SealedBox, Wrap

FROM_COORDINATOR = (
    "study-closed", "round-open", "bank-relay", "round-open-target", "round-open-prototypes",
    "round-open-values", "target-model", "ask-targets", "log-heads",
)  # fmt: skip


def frame_of(body: bytes, *, signer: str = "site-a", label: bytes = FRAME_LABEL, **changed: Any) -> bytes:
    """A frame from site-a to the coordinator whose header fields can be set to anything before it is signed."""
    header = {
        "version": 1,
        "kind": "control",
        "study": STUDY,
        "sender": "site-a",
        "recipient": "coordinator",
        "seq": 1 << 32 | 1,
        "length": len(body),
        "digest": hashlib.sha256(body).digest(),
    }
    header.update(changed)
    raw = header.pop("raw", None) or pack(list(header.values()))
    return len(raw).to_bytes(2, "big") + raw + IDENTITIES[signer].sign(label, raw) + body


def frame_vectors() -> list[Case]:
    all_messages = messages()
    hello = encode(all_messages["hello"])
    good = frame_of(hello)
    at = {"peer": "site-a", "me": "coordinator", "last": {}}
    cases = [
        ok(
            f"valid {name}",
            peer="coordinator" if name in FROM_COORDINATOR else "site-a",
            me="site-b" if name in FROM_COORDINATOR else "coordinator",
            last={},
            frame=sealer("coordinator" if name in FROM_COORDINATOR else "site-a")
            .seal("site-b" if name in FROM_COORDINATOR else "coordinator", message)
            .hex(),
            message=name,
        )
        for name, message in all_messages.items()
    ]
    cases.append(ok("number just above the last", **{**at, "last": {"site-a": 1 << 32}}, frame=good.hex()))
    cases.append(ok("another sender's last number is higher", **{**at, "last": {"site-b": 2**40}}, frame=good.hex()))

    def add(name: str, error: str, rule: str, frame: bytes, **changed: Any) -> None:
        place = {**at, **changed}
        cases.append(bad(name, error, place["peer"], rule, frame=frame.hex(), **place))

    member, two_sites = "another member of the roster", "sites and coordinator write to each other"
    add("peer is not in the roster", "UnknownPeer", member, good, peer="stranger")
    add("peer is the receiver", "UnknownPeer", member, good, peer="coordinator")
    add("from site to site", "UnexpectedMessage", two_sites, frame_of(hello, recipient="site-b"), me="site-b")
    add("one byte over the maximum", "Oversize", "at most 4096 bytes", good + bytes(MAXIMUM + 1 - len(good)))

    shape = "the bytes are not a frame"
    add("empty", "Malformed", shape, b"")
    add("one byte", "Malformed", shape, b"\x00")
    add("cut in the header", "Malformed", shape, good[:40])
    add("cut in the signature", "Malformed", shape, good[: -len(hello) - 1])
    add("header of 257 bytes", "Malformed", shape, frame_of(hello, raw=bytes(257)))
    add(
        "header length counts into the body", "Malformed", "not a version 1 header", b"\x00\xff" + good[2:] + bytes(200)
    )

    header, spelled = "not a version 1 header", "not the canonical encoding of a version 1 header"
    fields: list[Any] = [1, "control", STUDY, "site-a", "coordinator", 1 << 32 | 1, len(hello), bytes(32)]
    add("no header", "Malformed", header, frame_of(hello, raw=b"\x90"))
    add("version 2", "Malformed", header, frame_of(hello, version=2))
    add("version as a boolean", "Malformed", header, frame_of(hello, version=True))
    add("unknown kind", "Malformed", header, frame_of(hello, kind="gossip"))
    add("number 0", "Malformed", header, frame_of(hello, seq=0))
    add("number 2^63", "Malformed", header, frame_of(hello, seq=2**63))
    add("negative length", "Malformed", header, frame_of(hello, length=-1))
    add("short study digest", "Malformed", header, frame_of(hello, study=STUDY[:31]))
    add("sender's name in capitals", "Malformed", header, frame_of(hello, sender="Site-A"))
    add("sender's name with a line feed behind", "Malformed", header, frame_of(hello, sender="site-a\n"))
    add("recipient's name of 33 characters", "Malformed", header, frame_of(hello, recipient="a" * 33))
    add("one field too many", "Malformed", header, frame_of(hello, raw=pack([*fields, 0])))
    add("one field too few", "Malformed", header, frame_of(hello, raw=pack(fields[:-1])))
    add("bytes behind the header", "Malformed", header, frame_of(hello, raw=pack(fields) + b"\x00"))
    add(
        "text that is not UTF-8",
        "Malformed",
        header,
        frame_of(hello, raw=pack(fields).replace(b"site-a", b"site-\xff")),
    )
    add("version in two bytes", "Malformed", spelled, frame_of(hello, raw=b"\x98\xcc\x01" + pack(fields)[2:]))

    add("another study", "WrongStudy", "digest of the study", frame_of(hello, study=fixed("other study")))
    add("speaks as another site", "WrongSender", "delivered by its sender", frame_of(hello, sender="site-b"))
    add("delivered by another site", "WrongSender", "delivered by its sender", good, peer="site-b")
    add("for another member", "WrongRecipient", "to its recipient", frame_of(hello, recipient="site-b"))
    back = {"sender": "coordinator", "recipient": "site-a", "signer": "coordinator"}
    down = {"peer": "coordinator", "me": "site-a"}
    add("reflected", "WrongSender", "delivered by its sender", good, **down)
    rule = "a site does not send the kind publish"
    add("a site sends publish", "UnexpectedMessage", rule, frame_of(hello, kind="publish"))
    rule = "a coordinator does not send the kind release"
    add("the coordinator sends release", "UnexpectedMessage", rule, frame_of(hello, kind="release", **back), **down)

    signed = "signed by its sender"
    flipped = bytearray(good)
    flipped[-len(hello) - 1] ^= 1
    add("one bit of the signature", "BadSignature", signed, bytes(flipped))
    add("number raised after signing", "BadSignature", signed, good.replace(pack(1 << 32 | 1), pack(1 << 32 | 2)))
    add("signed by another site", "BadSignature", signed, frame_of(hello, signer="site-b"))
    add("signed under another label", "BadSignature", signed, frame_of(hello, label=b"fedsecure/box/v1"))
    add("signature of zeros", "BadSignature", signed, good[: -len(hello) - 64] + bytes(64) + hello)

    above = "above that of the frame before"
    add("received before", "Replayed", above, good, last={"site-a": 1 << 32 | 1})
    add("older than the last", "Replayed", above, good, last={"site-a": 2 << 32})

    announced = "length and SHA-256"
    add("body cut", "BadDigest", announced, good[:-1])
    add("byte behind the body", "BadDigest", announced, good + b"\x00")
    add("body exchanged", "BadDigest", announced, good[: -len(hello)] + encode(Hello(3, 0, 2, False)))
    add("announced length is wrong", "BadDigest", announced, frame_of(hello, length=len(hello) + 1))

    add("empty body", "Malformed", "not a control message", frame_of(b""))
    update = encode(all_messages["weight-update"])
    add("release under control", "Malformed", "not a control message", frame_of(update))
    add("control under release", "Malformed", "not a release message", frame_of(hello, kind="release"))
    closed = encode(all_messages["study-closed"])
    add("a site closes the study", "UnexpectedMessage", "a site does not send StudyClosed", frame_of(closed))
    rule = "a coordinator does not send Hello"
    add("the coordinator says hello", "UnexpectedMessage", rule, frame_of(hello, **back), **down)
    asks = encode(all_messages["ask-targets"])
    add("a site asks for targets", "UnexpectedMessage", "a site does not send AskTargets", frame_of(asks))
    shows = encode(all_messages["log-heads"])
    add("a site shows all heads", "UnexpectedMessage", "a site does not send LogHeads", frame_of(shows, kind="share"))
    vouches = encode(all_messages["log-witness"])
    rule = "a coordinator does not send LogWitness"
    add("the coordinator is a witness", "UnexpectedMessage", rule, frame_of(vouches, kind="share", **back), **down)
    wants = encode(all_messages["want-target"])
    rule = "a coordinator does not send WantTarget"
    add("the coordinator wants a target", "UnexpectedMessage", rule, frame_of(wants, **back), **down)
    sent = encode(all_messages["target-model"])
    add("a target network under release", "Malformed", "not a release message", frame_of(sent, kind="release"))
    stolen = encode(FeatureBank(0, 2, make_box("site-b", ("site-a",))))
    add("another site's box", "WrongSender", "boxes of its own", frame_of(stolen, kind="release"))
    foreign = encode(
        BankRelay(0, 2, "coordinator", SealedBox("coordinator", bytes(16), (Wrap("site-a", bytes(80)),), bytes(64)))
    )
    add(
        "a relayed box of the coordinator's",
        "Malformed",
        "a relayed box is a site's",
        frame_of(foreign, kind="publish", **back),
        **down,
    )
    return cases
