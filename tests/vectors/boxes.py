"""Boxes: relayed as they are, and everything a relay or a maker could do to one."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from world import IDENTITIES, READER, STUDY, Case, bad, fixed, make_box, ok, pack

from protocols.box import BoxContext
from protocols.messages import SealedBox, Wrap


def box_vectors() -> list[Case]:
    box = make_box()
    here = {"stage": 0, "round": 2, "sender": "site-a", "me": "site-b"}
    cases = [
        ok("first recipient", **here, box=pack(box).hex(), content=b"bank of a".hex()),
        ok("second recipient", **{**here, "me": "site-c"}, box=pack(box).hex(), content=b"bank of a".hex()),
        ok("empty content", **here, box=pack(make_box(content=b"")).hex(), content=""),
    ]

    def add(name: str, error: str, rule: str, changed: SealedBox, blame: str = "coordinator", **place: Any) -> None:
        cases.append(bad(name, error, blame, rule, **{**here, **place}, box=pack(changed).hex()))

    def altered(**fields: Any) -> SealedBox:
        return msgspec.structs.replace(box, **fields)

    signed = "signed by its maker for this study, stage and round"
    add("sender is the coordinator", "UnknownPeer", "a box is a site's", box, sender="coordinator")
    add("sender is nobody", "UnknownPeer", "a box is a site's", box, sender="stranger")
    add("relayed as another site's", "WrongSender", "its maker's name", box, sender="site-c")
    add("renamed", "BadSignature", signed, altered(sender="site-c"), sender="site-c")
    add("replayed in a later round", "BadSignature", signed, box, round=3)
    add("moved to another stage", "BadSignature", signed, box, stage=1)
    add("a recipient dropped", "BadSignature", signed, altered(wraps=box.wraps[:1]))
    add("a recipient added", "BadSignature", signed, altered(wraps=(Wrap("coordinator", bytes(80)), *box.wraps)))
    add("recipient renamed", "BadSignature", signed, altered(wraps=(box.wraps[0], Wrap("site-d", box.wraps[1].key))))
    flip = bytes((box.ciphertext[0] ^ 1,)) + box.ciphertext[1:]
    add("one bit of the ciphertext", "BadSignature", signed, altered(ciphertext=flip))
    add("one bit of a wrapped key", "BadSignature", signed, altered(wraps=(Wrap("site-b", bytes(80)), box.wraps[1])))
    other = make_box(content=b"bank of b")
    add("ciphertext of another box", "BadSignature", signed, altered(ciphertext=other.ciphertext))
    add("keys of another box", "BadSignature", signed, altered(wraps=make_box(round_=3).wraps))
    add("signature of another box", "BadSignature", signed, altered(signature=make_box(round_=3).signature))
    add("signature of zeros", "BadSignature", signed, altered(signature=bytes(64)))

    # Signed by the maker all the same: what is wrong with these is the maker's fault, and proved to be.
    def resigned(**fields: Any) -> SealedBox:
        changed = altered(**fields)
        data = BoxContext(STUDY, 0, 2, "site-a").signed_data(hashlib.sha256(changed.ciphertext).digest(), changed.wraps)
        return msgspec.structs.replace(changed, signature=IDENTITIES["site-a"].sign(b"fedsecure/box/v1", data))

    opens, addressed = "a box opens for each of its recipients", "a box has a key for whoever it is sent to"
    add("no key for me", "WrongRecipient", addressed, resigned(wraps=box.wraps[1:]), "site-a")
    swapped = (Wrap("site-b", box.wraps[1].key), Wrap("site-c", box.wraps[0].key))
    add("keys exchanged by the maker", "CannotDecrypt", opens, resigned(wraps=swapped), "site-a")
    add("ciphertext altered by the maker", "CannotDecrypt", opens, resigned(ciphertext=flip), "site-a")
    low = Wrap("site-b", bytes(80))
    add("encapsulated key of low order", "CannotDecrypt", opens, resigned(wraps=(low, box.wraps[1])), "site-a")
    add("a recipient dropped by the maker", "CannotDecrypt", opens, resigned(wraps=box.wraps[:1]), "site-a")
    info = BoxContext(STUDY, 0, 2, "site-a").key_info("site-b", hashlib.sha256(box.ciphertext).digest())
    wrong = READER.hpke_seal(fixed("ephemeral"), IDENTITIES["site-b"].public.sealing, fixed("not the key"), info)
    add("a wrong content key", "CannotDecrypt", opens, resigned(wraps=(Wrap("site-b", wrong), box.wraps[1])), "site-a")
    return cases
