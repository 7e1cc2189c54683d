"""Handshakes and sessions of ours, read by the independent reader."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from keys.edition import Edition
from keys.identity import Identity
from keys.roster import Roster
from protocols.handshake import Offered, Party, answer, read_offer
from protocols.session import CHUNK, Buffers, Session

VECTORS = Path(__file__).parents[1] / "vectors"
SPEC = importlib.util.spec_from_file_location("session_reader", Path(__file__).with_name("session_reader.py"))
assert SPEC is not None
assert SPEC.loader is not None
reader = importlib.util.module_from_spec(SPEC)
sys.modules["session_reader"] = reader
SPEC.loader.exec_module(reader)


def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


CONTEXT = vectors("offers")["context"]
EDITION = Edition.from_bytes(CONTEXT["roster"].encode())
ROSTER = Roster(EDITION.coordinator, {name: member.public for name, member in EDITION.members.items()})
STUDY = bytes.fromhex(CONTEXT["study"])


# For which of its own reasons the reader may refuse what our nodes refuse for theirs. It looks at the counter before
# it opens a packet, and so calls one that was altered there by that name.
REASONS = {
    "WrongStudy": {"study"},
    "WrongRoster": {"roster"},
    "WrongSender": {"sender"},
    "WrongRecipient": {"recipient"},
    "BadSignature": {"signature"},
    "Replayed": {"another offer", "boot", "counter"},
    "Incomplete": {"counter", "order"},
    "CannotDecrypt": {"tag", "counter"},
    "Oversize": {"size"},
    "UnexpectedMessage": {"credit"},
    "Malformed": {
        "type", "truncated", "not what stands here", "a boot number", "bytes left over", "unsound ephemeral",
        "session", "length", "chunk", "credit",
    },
}  # fmt: skip


def refuses(expect: str, run: Any) -> Any:
    if expect == "ok":
        return run()
    with pytest.raises(reader.Refused) as caught:
        run()
    assert str(caught.value) in REASONS[expect]
    return None


@pytest.mark.parametrize("case", cases("offers"))
def test_offer_vectors(case: dict[str, Any]) -> None:
    place = {"peer": case["peer"], "me": case["me"], "roster": ROSTER.digest}
    signing = ROSTER.members[case["peer"]].signing
    packet = bytes.fromhex(case["packet"])
    refuses(
        case["expect"],
        lambda: reader.read_offer(packet, **place, signing=signing, least_boot=case["least_boot"]),
    )


@pytest.mark.parametrize("case", cases("answers"))
def test_answer_vectors(case: dict[str, Any]) -> None:
    exchange, seed = map(bytes.fromhex, case["ephemerals"])
    keys = refuses(
        case["expect"],
        lambda: reader.finish(
            bytes.fromhex(case["packet"]),
            offer=bytes.fromhex(case["offer"]),
            exchange=exchange,
            seed=seed,
            signing=ROSTER.members["coordinator"].signing,
            least_boot=case["least_boot"],
        ),
    )
    if keys is not None:
        assert [key.hex() for key in keys] == [case["session"], case["to_coordinator"], case["to_site"]]


@pytest.mark.parametrize("case", cases("sessions"))
def test_session_vectors(case: dict[str, Any]) -> None:
    theirs = reader.Reader(bytes.fromhex(case["session"]), bytes.fromhex(case["to_coordinator"]), CONTEXT["maximum"])
    *before, last = map(bytes.fromhex, case["packets"])
    arrived = [theirs.read(packet) for packet in before]
    arrived.append(refuses(case["expect"], lambda: theirs.read(last)))
    assert [frame.hex() for frame in arrived if frame is not None] == case.get(
        "frames", [f.hex() for f in arrived[:-1] if f]
    )


def test_what_our_nodes_say_to_each_other() -> None:
    """Fresh keys: the reader finds the same ones from the handshake, and reads what is sent under them."""
    identities = {name: Identity.generate() for name in ("hub", "north")}
    roster = Roster("hub", {name: identity.public for name, identity in identities.items()})
    north, hub = (
        Party(name, identities[name], roster, STUDY, boot) for name, boot in (("north", 200), ("hub", 70_000))
    )
    secrets = os.urandom(32), os.urandom(64)
    packet = Offered(north, bytes(8), secrets).packet
    reader.read_offer(
        packet,
        peer="north",
        me="hub",
        roster=roster.digest,
        signing=roster.members["north"].signing,
        least_boot=200,
    )
    reply, ours = answer(packet, read_offer(packet, peer="north", party=hub), hub)
    keys = reader.finish(
        reply,
        offer=packet,
        exchange=secrets[0],
        seed=secrets[1],
        signing=roster.members["hub"].signing,
        least_boot=70_000,
    )
    assert keys == tuple(ours)

    sending = Session(ours, peer="hub", to_coordinator=True, maximum=9, buffers=Buffers())
    theirs = reader.Reader(keys.session, keys.to_coordinator, 4 * CHUNK)
    for frame in [os.urandom(size) for size in (0, 1, 3 * CHUNK + 7)]:
        sending.begin(frame)
        heard = None
        while (made := sending.next_packet()) is not None:
            heard = theirs.read(bytes(made))
        assert heard == frame
