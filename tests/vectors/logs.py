"""Transparency logs: leaves, proofs, heads and checkpoints, and what witnesses and carriers could do to them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from world import IDENTITIES, STUDY, Case, bad, fixed, ok, pack

from keys.encoding import prefixed
from protocols.tlog.merkle import EMPTY, Proof, consistency_proof, inclusion_proof, leaf_hash, root_of

HEAD_LABEL, WITNESS_LABEL = b"fedsecure/checkpoint/v1", b"fedsecure/checkpoint/witness/v1"
LEAVES = tuple(leaf_hash(fixed("leaf", index)) for index in range(8))
FORKED = (*LEAVES[:3], leaf_hash(b"another"), *LEAVES[4:])
SENT: dict[str, Any] = {
    "tag": "sent", "version": 1, "seq": 5, "kind": "release", "peer": "coordinator", "flow": "weight-update",
    "stage": 0, "round": 3, "shapes": [[3], [16, 1, 3, 3, 3]], "size": 1740, "ciphertext": fixed("ciphertext"),
    "commitment": hashlib.sha256(prefixed(b"fedsecure/leaf/commitment/v1") + fixed("nonce") + b"update").digest(),
    "model": fixed("model"), "budget": 1_250_000, "policy": fixed("policy"), "code": fixed("code"),
}  # fmt: skip
REFUSED = {name: value for name, value in SENT.items() if name not in ("ciphertext", "model")} | {
    "tag": "refused", "reason": "cap",
}  # fmt: skip
GIVEN = ("shapes", "commitment", "budget", "policy", "code")  # what only its sender can say of a message
RECEIVED = {name: value for name, value in SENT.items() if name not in GIVEN} | {"tag": "received", "peer": "site-b"}
ORDER = ("tag", "version", "seq", "kind", "peer", "flow", "stage", "round", "shapes", "size", "ciphertext", "reason")
FIELDS = (*ORDER, "commitment", "model", "budget", "policy", "code")


def leaf(of: dict[str, Any], **changed: Any) -> bytes:
    values = of | changed
    return pack([values[name] for name in FIELDS if name in values])


def leaf_vectors() -> list[Case]:
    at = {"peer": "site-a", "index": 5}
    opened = {"nonce": fixed("nonce").hex(), "plaintext": b"update".hex()}
    cases = [
        ok("sent", **at, leaf=leaf(SENT).hex(), hash=leaf_hash(leaf(SENT)).hex(), **opened),
        ok("refused", **at, leaf=leaf(REFUSED).hex(), hash=leaf_hash(leaf(REFUSED)).hex(), **opened),
    ]
    received = leaf(RECEIVED)
    cases.append(ok("received", **at, leaf=received.hex(), hash=leaf_hash(received).hex()))
    for name, raw in {
        "a greeting, of no model": leaf(SENT, kind="control", flow="greeting", model=b""),
        "digests of the doctor's": leaf(SENT, kind="release", flow="digests"),
        "no array, no budget": leaf(SENT, shapes=[], budget=-1),
        "of no known type": leaf(REFUSED, flow="", reason="schema"),
    }.items():
        cases.append(ok(name, **at, leaf=raw.hex(), hash=leaf_hash(raw).hex(), **opened))

    def add(name: str, raw: bytes, rule: str = "not a version 1 leaf", **place: Any) -> None:
        cases.append(bad(name, "Malformed", "site-a", rule, **(at | place), leaf=raw.hex()))

    add("at another place", leaf(SENT), "its place in the log", index=4)
    add("version 2", leaf(SENT, version=2))
    add("a third tag", leaf(SENT, tag="lost"))
    add("free text for a flow", leaf(SENT, flow="patient 17"))
    add("a flow of another kind", leaf(SENT, kind="control"))
    add("a flow of keys", leaf(SENT, kind="share"))
    add("an unknown kind", leaf(SENT, kind="debug"))
    add("sent, of no known type", leaf(SENT, flow=""))
    add("refused for its size, of no known type", leaf(REFUSED, flow=""))
    add("refused for free text", leaf(REFUSED, reason="because"))
    add("a peer that is no name", leaf(SENT, peer="Site A"))
    add("a negative size", leaf(SENT, size=-1))
    add("a size that is a float", leaf(SENT, size=1740.0))
    add("a size of 2^63", leaf(SENT, size=2**63))
    add("a negative dimension", leaf(SENT, shapes=[[-1]]))
    add("an array of rank 9", leaf(SENT, shapes=[[1] * 9]))
    add("a budget of nil", leaf(SENT, budget=None))
    add("a budget below none", leaf(SENT, budget=-2))
    add("an infinite budget", leaf(SENT, budget=float("inf")))
    add("a digest too short", leaf(SENT, ciphertext=bytes(31)))
    add("a commitment too long", leaf(SENT, commitment=bytes(33)))
    add("no policy", leaf(SENT, policy=b""))
    add("a model's digest cut", leaf(SENT, model=bytes(31)))
    add("a round below 0", leaf(SENT, round=-1))
    add("a stage of 2^31", leaf(SENT, stage=2**31))
    add("a greeting as a release", leaf(SENT, flow="greeting"))
    add("received, of no known type", leaf(RECEIVED, flow=""))
    add("received, with a commitment", leaf(RECEIVED, commitment=bytes(32)))
    add("received, of half a model", leaf(RECEIVED, model=bytes(16)))
    add("a field more", b"\xdc\x00\x11" + leaf(SENT)[3:] + b"\xa1x")
    add("cut", leaf(SENT)[:-1])
    add("a byte left over", leaf(SENT) + b"\0")
    add("empty", b"")
    add("a number in a longer form", leaf(SENT).replace(b"\x01\x05", b"\x01\xcc\x05"), "canonical")
    return cases


def proof_vectors() -> list[Case]:
    inside = inclusion_proof(LEAVES[:7], 4)
    grown = consistency_proof(LEAVES[:7], 6)
    part: dict[str, Any] = {"leaf": LEAVES[4], "index": 4, "size": 7, "root": root_of(LEAVES[:7]), "proof": inside}
    whole: dict[str, Any] = {
        "size": 6, "root": root_of(LEAVES[:6]), "later_size": 7, "later_root": root_of(LEAVES[:7]), "proof": grown,
    }  # fmt: skip
    empty = {"size": 0, "root": EMPTY, "proof": ()}
    perfect = {"size": 4, "root": root_of(LEAVES[:4]), "proof": consistency_proof(LEAVES[:7], 4)}

    def shown(of: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
        values = of | changed
        text = {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}
        return {"of": "leaf" if of is part else "tree", **text, "proof": [each.hex() for each in values["proof"]]}

    cases = [
        ok("leaf 4 of 7", **shown(part, {})),
        ok("leaf 0 of 1", **shown(part, {"index": 0, "size": 1, "root": LEAVES[4], "proof": ()})),
        ok("6 to 7", **shown(whole, {})),
        ok("a perfect tree to 7", **shown(whole, perfect)),
        ok("nothing to 7", **shown(whole, empty)),
        ok("7 to itself", **shown(whole, {"size": 7, "root": whole["later_root"], "proof": ()})),
    ]

    def add(name: str, rule: str, of: dict[str, Any], **changed: Any) -> None:
        cases.append(bad(name, "InvalidProof", "nobody", rule, **shown(of, changed)))

    other = "gives another root"
    add("another leaf", other, part, leaf=LEAVES[5])
    add("another place", other, part, index=5)
    add("a place where proofs are shorter", "too long", part, index=6)
    add("no such place", "not below the size", part, index=7)
    add("before the first", "not below the size", part, index=-1)
    add("in the empty tree", "not below the size", part, index=0, size=0, root=EMPTY, proof=())
    add("another size", "too short", part, size=9)
    add("a smaller size", "too long", part, size=5)
    add("another root", other, part, root=root_of(LEAVES))
    add("siblings exchanged", other, part, proof=(inside[1], inside[0], inside[2]))
    add("a sibling missing", "too short", part, proof=inside[:-1])
    add("a sibling more", "too long", part, proof=(*inside, LEAVES[0]))
    add("a sibling that is no hash", "made of hashes", part, proof=(inside[0][:-1], *inside[1:]))
    left, right = root_of(LEAVES[:2]), root_of(LEAVES[2:4])
    add("a node shown as a leaf", other, part, leaf=leaf_hash(left + right), index=0, size=2, proof=(right,))
    add("history rewritten", other, whole, later_root=root_of(FORKED[:7]), proof=consistency_proof(FORKED[:7], 6))
    add("an earlier root that never was", other, whole, root=root_of(FORKED[:6]))
    add("another earlier size", "too short", whole, size=5)
    add("backwards", "the smaller one", whole, size=7, later_size=6)
    add("no proof", "too short", whole, proof=())
    add("a hash missing", "too short", whole, proof=grown[:-1])
    add("a hash more", "too long", whole, proof=(*grown, LEAVES[0]))
    add("a hash that is none", "made of hashes", whole, proof=(b"", *grown[1:]))
    add("a perfect tree, no proof", "too short", whole, **(perfect | {"proof": ()}))
    add("the empty tree has another root", "does not fit", whole, **(empty | {"root": bytes(32)}))
    add("from nothing, with a proof", "does not fit", whole, **(empty | {"proof": (LEAVES[0],)}))
    add("one size, two roots", "does not fit", whole, size=7)
    add("empty twice, of another root", "does not fit", whole, **empty, later_size=0, later_root=bytes(32))
    return cases


def head(round_: int = 3, size: int = 6, leaves: Sequence[bytes] = LEAVES, **changed: Any) -> list[Any]:
    values = {"version": 1, "study": STUDY, "member": "site-a", "round": round_, "size": size}
    values |= {"root": root_of(leaves[:size]), "ledger": fixed("ledger", round_), "seen": 9, "view": fixed("view")}
    return list((values | changed).values())


def signed(of: list[Any], signer: str = "site-a", label: bytes = HEAD_LABEL) -> bytes:
    """The encoding of a signed head."""
    return b"\x92" + pack(of) + pack(IDENTITIES[signer].sign(label, pack(of)))


def countersignature(of: bytes, member: str, signer: str | None = None, label: bytes = WITNESS_LABEL) -> list[Any]:
    return [member, IDENTITIES[signer or member].sign(label, prefixed(member.encode(), of))]


def checkpoint(of: bytes, *countersignatures: list[Any]) -> bytes:
    return b"\x92" + of + pack(list(countersignatures))


def head_vectors() -> list[Case]:
    """What a witness that has seen `last` does with `head` and `proof`."""
    last, new = signed(head()), signed(head(4, 7))
    grown = consistency_proof(LEAVES[:7], 6)

    def case(last: bytes | None, raw: bytes, proof: Proof, peer: str) -> dict[str, Any]:
        place = {"peer": peer, "me": "site-b", "last": last.hex() if last else None}
        return {**place, "head": raw.hex(), "proof": [each.hex() for each in proof]}

    def vouched(name: str, last: bytes | None, raw: bytes, proof: Proof = (), peer: str = "site-a") -> Case:
        return ok(name, **case(last, raw, proof, peer), countersignature=countersignature(raw, "site-b")[1].hex())

    cases = [
        vouched("the log grew", last, new, grown),
        vouched("the log grew, told by another", last, new, grown, "site-c"),
        vouched("the first head seen", None, new),
        vouched("the same head again", last, last),
        vouched("nothing was sent in a round", last, signed(head(4))),
        vouched("an empty log", None, signed(head(0, 0))),
        vouched("a site that has seen no head", None, signed(head(seen=0, view=bytes(32)))),
        vouched("the coordinator's log", None, signed(head(member="coordinator"), "coordinator"), (), "coordinator"),
    ]

    def add(
        name: str, error: str, rule: str, raw: bytes, *, proof: Proof = (), last: bytes | None = last,
        peer: str = "site-a", blame: str = "",
    ) -> None:  # fmt: skip
        cases.append(bad(name, error, blame or peer, rule, **case(last, raw, proof, peer)))

    shape, author = "not a version 1 signed head", "signed by its member"
    add("of another study", "WrongStudy", "digest of the study", signed(head(study=fixed("other"))), peer="site-c")
    add("of nobody", "UnknownPeer", "a log is a member's", signed(head(member="stranger")))
    add("signed by its carrier", "BadSignature", author, signed(head(4, 7), "site-c"), peer="site-c")
    add("signed under another label", "BadSignature", author, signed(head(4, 7), label=WITNESS_LABEL))
    add("one bit of the signature", "BadSignature", author, new[:-1] + bytes((new[-1] ^ 1,)))
    altered = b"\x92" + pack(head(4, 7, FORKED)) + new[-66:]
    add("another root under the signature", "BadSignature", author, altered, peer="site-c")
    add("version 2", "Malformed", shape, signed(head(version=2)))
    add("a round below 0", "Malformed", shape, signed(head(round=-1)))
    add("a size below 0", "Malformed", shape, signed([*head()[:4], -1, *head()[5:]]))
    add("leaves without a root", "Malformed", shape, signed(head(4, 7, root=EMPTY)))
    add("a root without leaves", "Malformed", shape, signed(head(0, 0, root=fixed("root"))))
    add("a ledger's head too short", "Malformed", shape, signed(head(ledger=bytes(31))))
    add("a view of nothing", "Malformed", shape, signed(head(seen=0)))
    add("no view of nine heads", "Malformed", shape, signed(head(view=bytes(32))))
    add("cut", "Malformed", shape, new[:-1])
    add("a byte left over", "Malformed", shape, new + b"\0")
    long = new.replace(b"site-a\x04", b"site-a\xcc\x04")
    add("a number in a longer form", "Malformed", "canonical", long)

    proves = "comes with a proof"
    add("no proof", "BadProof", proves, new)
    add("no proof, told by another", "BadProof", proves, new, peer="site-c")
    add("a proof of another step", "BadProof", proves, new, proof=consistency_proof(LEAVES[:7], 5))
    rewritten, forked = signed(head(4, 7, FORKED)), consistency_proof(FORKED[:7], 6)
    add("history rewritten", "BadProof", proves, rewritten, proof=forked)
    add("a proof where none is needed", "BadProof", proves, signed(head(4)), proof=grown)
    add("the first head, with a proof", "BadProof", proves, new, proof=grown, last=None)
    add("an older head", "Replayed", "not older", last, last=new, peer="site-c")

    one, loses, root = "one head a round", "loses no leaf", "one size has one root"
    add("two roots in one round", "SplitView", one, signed(head(3, 6, FORKED)), peer="site-c", blame="site-a")
    add("two sizes in one round", "SplitView", one, signed(head(3, 7)), peer="site-c", blame="site-a")
    add("two ledgers in one round", "SplitView", one, signed(head(ledger=fixed("other"))))
    add("two views in one round", "SplitView", one, signed(head(seen=8)))
    add("two roots of one size", "SplitView", root, signed(head(4, 6, FORKED)), peer="site-c", blame="site-a")
    add("leaves lost", "Rollback", loses, signed(head(4, 5)), peer="coordinator", blame="site-a")
    add("all leaves lost", "Rollback", loses, signed(head(4, 0)))
    add("more leaves before than after", "Rollback", loses, signed(head(2, 7)), peer="site-c", blame="site-a")
    return cases


def checkpoint_vectors() -> list[Case]:
    of, own = signed(head()), signed(head(member="coordinator"), "coordinator")
    hub, b, c = (countersignature(of, name) for name in ("coordinator", "site-b", "site-c"))
    at = {"peer": "site-c"}
    cases = [
        ok("a witness", **at, checkpoint=checkpoint(of, hub, b).hex()),
        ok("two witnesses", **at, checkpoint=checkpoint(of, hub, b, c).hex()),
        ok("the coordinator's", **at, checkpoint=checkpoint(own, countersignature(own, "site-b")).hex()),
    ]

    def add(name: str, error: str, rule: str, raw: bytes) -> None:
        cases.append(bad(name, error, "site-c", rule, **at, checkpoint=raw.hex()))

    shape, alone = "not a version 1 checkpoint", "the coordinator and another site"
    member, holds = "another member of the roster", "over this signed head"
    add("nobody countersigned", "Unwitnessed", alone, checkpoint(of))
    add("the coordinator alone", "Unwitnessed", alone, checkpoint(of, hub))
    add("sites alone", "Unwitnessed", alone, checkpoint(of, b, c))
    add("its own witness", "UnknownPeer", member, checkpoint(of, hub, countersignature(of, "site-a")))
    stranger = countersignature(of, "site-d", "site-b")
    add("witnessed by nobody", "UnknownPeer", member, checkpoint(of, hub, stranger))
    add("a witness renamed", "BadSignature", holds, checkpoint(of, hub, ["site-c", b[1]]))
    add(
        "signed for another member",
        "BadSignature",
        holds,
        checkpoint(of, hub, countersignature(of, "site-b", "site-c")),
    )
    later = countersignature(signed(head(4, 7)), "site-b")
    add("countersigned another head", "BadSignature", holds, checkpoint(of, hub, later))
    labelled = countersignature(of, "site-b", label=HEAD_LABEL)
    add("countersigned under another label", "BadSignature", holds, checkpoint(of, hub, labelled))
    add("a third that does not hold", "BadSignature", holds, checkpoint(of, hub, b, ["site-c", bytes(64)]))
    add("not signed by its site", "BadSignature", "signed by its member", checkpoint(signed(head(), "site-b"), hub, b))
    add("of another study", "WrongStudy", "digest of the study", checkpoint(signed(head(study=fixed("other"))), hub, b))
    add("the coordinator's, of no witness", "Unwitnessed", alone, checkpoint(own))
    own_witness = countersignature(own, "coordinator")
    add("the coordinator its own witness", "UnknownPeer", member, checkpoint(own, own_witness))
    add("out of order", "Malformed", shape, checkpoint(of, b, hub))
    add("one witness twice", "Malformed", shape, checkpoint(of, hub, b, b))
    add("a signature too short", "Malformed", shape, checkpoint(of, hub, ["site-b", bytes(63)]))
    add("cut", "Malformed", shape, checkpoint(of, hub, b)[:-1])
    add("a byte left over", "Malformed", shape, checkpoint(of, hub, b) + b"\0")
    return cases
