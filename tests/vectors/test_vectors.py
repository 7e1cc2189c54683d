"""The implementation against the frozen vectors, and the frozen vectors against the script that writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import keys.errors
import protocols.errors
from keys import keystore
from keys.edition import Edition
from keys.encoding import parse_time
from keys.enrolment import Invitation, JoinRequest, Register
from keys.identity import Identity, PublicIdentity
from keys.passphrase import Passphrase
from keys.roster import Roster
from keys.rotation import RotationRequest
from keys.trust import Trust
from protocols.box import BoxContext, open_box
from protocols.codec import decode, encode
from protocols.envelope import ReplayGuard, open_frame
from protocols.handshake import Offered, Party, SessionKeys, answer, read_offer
from protocols.messages import Kind, SealedBox, kind_of, role_of
from protocols.secagg import client, server, setup
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import Expected, Floors
from protocols.session import Buffers, Session

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]


def vectors(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)["cases"]]


CONTEXT = vectors("frames")["context"]
STUDY = bytes.fromhex(CONTEXT["study"])
EDITION = Edition.from_bytes(CONTEXT["roster"].encode())
ROSTER = Roster(EDITION.coordinator, {name: member.public for name, member in EDITION.members.items()})
FLOORS = Floors(known=frozenset(ROSTER.sites), least_known=2, sites=3)
IDENTITIES = {name: Identity(*map(bytes.fromhex, keys)) for name, keys in CONTEXT["private"].items()}


def test_the_script_still_writes_these_files(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, FOLDER / "generate.py", tmp_path], env=environment, cwd=ROOT, check=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}


def test_most_vectors_must_fail() -> None:
    every = [case["expect"] for path in FOLDER.glob("*.json") for case in vectors(path.stem)["cases"]]
    assert sum(expect != "ok" for expect in every) > 0.8 * len(every)


def test_every_way_to_break_the_protocol_has_a_vector() -> None:
    expected = {case["expect"] for path in FOLDER.glob("*.json") for case in vectors(path.stem)["cases"]}
    assert {cls.__name__ for cls in protocols.errors.FaultyPeer.__subclasses__()} <= expected
    assert {cls.__name__ for cls in keys.errors.Refused.__subclasses__()} <= expected


@pytest.mark.parametrize("case", cases("frames"))
def test_frames(case: dict[str, Any]) -> None:
    replay = ReplayGuard(case["last"])

    def run() -> Any:
        frame = bytes.fromhex(case["frame"])
        place = {"peer": case["peer"], "me": case["me"], "study": STUDY, "roster": ROSTER}
        return open_frame(frame, **place, replay=replay, maximum=CONTEXT["maximum"])

    if case["expect"] == "ok":
        opened = run()
        assert opened.sender == case["peer"]
        assert replay.export() == {**case["last"], case["peer"]: opened.seq}
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            run()
        blamed(caught.value, case)
        assert replay.export() == case["last"]  # a refused frame changes nothing


@pytest.mark.parametrize("case", cases("messages"))
def test_messages(case: dict[str, Any]) -> None:
    kind, body = Kind(case["kind"]), bytes.fromhex(case["body"])
    if case["expect"] == "ok":
        message = decode(kind, body, "site-a")
        assert encode(message) == body
        assert kind_of(message) is kind
        assert role_of(message) in ("site", "coordinator")
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            decode(kind, body, "site-a")
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("boxes"))
def test_boxes(case: dict[str, Any]) -> None:
    box = msgspec.msgpack.decode(bytes.fromhex(case["box"]), type=SealedBox)
    context = BoxContext(STUDY, case["stage"], case["round"], case["sender"])

    def run() -> bytes:
        return open_box(box, context, identity=IDENTITIES[case["me"]], me=case["me"], roster=ROSTER)

    if case["expect"] == "ok":
        assert run() == bytes.fromhex(case["content"])
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            run()
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("offers"))
def test_offers(case: dict[str, Any]) -> None:
    packet = bytes.fromhex(case["packet"])
    party = Party(case["me"], IDENTITIES[case["me"]], ROSTER, STUDY, 2)

    def run() -> Any:
        offer = read_offer(packet, peer=case["peer"], party=party, least_boot=case["least_boot"])
        return answer(packet, offer, party)

    if case["expect"] == "ok":
        assert run()[0]
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            run()
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("answers"))
def test_answers(case: dict[str, Any]) -> None:
    exchange, seed = map(bytes.fromhex, case["ephemerals"])
    offered = Offered(Party("site-a", IDENTITIES["site-a"], ROSTER, STUDY, 3), bytes(8), (exchange, seed))
    assert offered.packet.hex() == case["offer"]
    packet = bytes.fromhex(case["packet"])
    if case["expect"] == "ok":
        keys, _ = offered.finish(packet, case["least_boot"])
        assert [key.hex() for key in keys] == [case["session"], case["to_coordinator"], case["to_site"]]
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            offered.finish(packet, case["least_boot"])
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("sessions"))
def test_sessions(case: dict[str, Any]) -> None:
    keys = SessionKeys(*(bytes.fromhex(case[name]) for name in ("session", "to_coordinator", "to_site")))
    session = Session(keys, peer="site-a", to_coordinator=False, maximum=CONTEXT["maximum"], buffers=Buffers())
    *before, last = map(bytes.fromhex, case["packets"])
    arrived = [session.receive(packet) for packet in before]
    if case["expect"] == "ok":
        arrived.append(session.receive(last))
        assert [frame.hex() for frame in arrived if frame is not None] == case["frames"]
    else:
        with pytest.raises(protocols.errors.FaultyPeer) as caught:
            session.receive(last)
        blamed(caught.value, case)


@pytest.mark.parametrize("case", cases("identity"))
def test_identity_files(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_bytes(case["file"].encode())
    path.chmod(0o600)
    secret = (lambda: Passphrase(case["passphrase"])) if "passphrase" in case else None
    if case["expect"] == "ok":
        public = keystore.load(path, secret).public
        assert public.fingerprint == case["fingerprint"]
        assert {"signing": public.signing, "sealing": public.sealing, "channel": public.channel} == {
            use: bytes.fromhex(key) for use, key in case["public"].items()
        }
    else:
        with pytest.raises(keys.errors.IdentityError, match=case["rule"]):
            keystore.load(path, secret)


@pytest.mark.parametrize("case", cases("signatures"))
def test_signatures(case: dict[str, Any]) -> None:
    label, data, signature = (bytes.fromhex(case[field]) for field in ("label", "data", "signature"))
    member = ROSTER.members[case["signer"]]
    if case["expect"] == "ok":
        member.verify(label, data, signature)
        assert IDENTITIES[case["signer"]].sign(label, data) == signature  # Ed25519 is deterministic
    else:
        with pytest.raises(keys.errors.InvalidSignature):
            member.verify(label, data, signature)


@pytest.mark.parametrize("case", cases("public"))
def test_public_keys(case: dict[str, Any]) -> None:
    if case["expect"] == "ok":
        public = PublicIdentity.from_text(case["text"])
        assert public.text == case["text"]
        assert public.fingerprint == case["fingerprint"]
        assert [key.hex() for key in (*public.keys, public.quantum) if key] == case["keys"]
    else:
        with pytest.raises(ValueError, match=case["rule"]):
            PublicIdentity.from_text(case["text"])


@pytest.mark.parametrize("case", cases("endorsements"))
def test_endorsements(case: dict[str, Any]) -> None:
    label, data, endorsement = (bytes.fromhex(case[field]) for field in ("label", "data", "endorsement"))
    public = PublicIdentity.from_text(case["public"])
    if case["expect"] == "ok":
        public.verify_endorsement(label, data, endorsement)
    else:
        with pytest.raises(keys.errors.InvalidSignature):
            public.verify_endorsement(label, data, endorsement)


@pytest.mark.parametrize("case", cases("roster"))
def test_rosters(case: dict[str, Any]) -> None:
    raw = case["file"].encode()
    with refused(case):
        edition = Edition.from_bytes(raw)
        assert edition.to_bytes() == raw
        assert edition.digest.hex() == case.get("digest", edition.digest.hex())


@pytest.mark.parametrize("case", cases("rotation"))
def test_rotations(case: dict[str, Any]) -> None:
    with refused(case):
        assert RotationRequest.from_bytes(case["file"].encode()).to_bytes() == case["file"].encode()


@pytest.mark.parametrize("case", cases("trust"))
def test_acceptance(case: dict[str, Any]) -> None:
    before = Trust.from_bytes(case["trust"].encode())
    edition = Edition.from_bytes(case["file"].encode())
    with refused(case):
        after = before.accept(edition, parse_time(case["now"]))
        assert after.to_bytes() == case["after"].encode()
        assert Trust.from_bytes(after.to_bytes()) == after
    assert before.to_bytes() == case["trust"].encode()  # whatever came of it


@pytest.mark.parametrize("case", cases("invitation"))
def test_invitations(case: dict[str, Any]) -> None:
    with refused(case):
        assert Invitation.from_bytes(case["file"].encode()).to_bytes() == case["file"].encode()


@pytest.mark.parametrize("case", cases("join"))
def test_requests_to_join(case: dict[str, Any]) -> None:
    register = Register.from_bytes(case["register"].encode())
    with refused(case):
        request = JoinRequest.from_bytes(case["file"].encode())
        assert register.redeem(request, parse_time(case["now"])).to_bytes() == case["after"].encode()


class Sum:
    """The frozen sum, played up to some step: `sites` and `hub` stand before it."""

    def __init__(self) -> None:
        self.context = vectors("secagg")["context"]
        self.entropy = {name: iter(bytes.fromhex(raw)) for name, raw in self.context["entropy"].items()}
        self.sites: dict[str, Any] = {}
        self.ledgers = dict.fromkeys(self.context["vectors"], Ledger())
        opened = self.message("to", "open", "site-a")
        opening = bytes.fromhex(self.context["opening"])
        self.hub: Any = server.open_sum(opened.manifest, opening, ROSTER, IDENTITIES["coordinator"])[0]
        self.manifest = opened.manifest

    def message(self, whose: str, step: str, site: str, splice: tuple[int, int, str] = (0, 0, "")) -> Any:
        kind, body = self.context[whose][f"{step} {site}"].split(" ")
        raw, (start, end, inserted) = bytes.fromhex(body), splice
        return decode(Kind(kind), raw[:start] + bytes.fromhex(inserted) + raw[end:], "peer")

    def play(self, until: str) -> None:
        closing: dict[str, Any] = {
            "open": server.close_keys, "share": server.close_shares, "mask": server.close_vectors,
            "check": server.close_checks,
        }  # fmt: skip
        for step in ("open", "share", "mask", "check", "unmask", "hear", "confirm"):
            if step == until:
                return
            for name in self.sites or self.ledgers:
                self.sites[name], answer = self.at(step, name, self.message("to", step, name))
                frozen = self.message("by", step, name)
                if step != "share":  # which holds what HPKE draws inside the library
                    assert answer == frozen
                self.hub = self.take(step, name, frozen)
            if step == "unmask":
                result = self.message("to", "hear", "site-a").result
                self.hub, told = server.publish_result(self.hub, result, IDENTITIES["coordinator"])
                assert told == self.message("to", "hear", "site-a")
            elif step in closing:
                self.hub, told = closing[step](self.hub)
                following = {"open": "share", "share": "mask", "mask": "check", "check": "unmask"}[step]
                for name in self.sites:
                    expected = told[name] if isinstance(told, dict) else told
                    assert expected == self.message("to", following, name)

    def at(self, step: str, name: str, message: Any) -> tuple[Any, Any]:
        """A site's step: its next state, and its answer."""
        state, identity = self.sites.get(name), IDENTITIES[name]
        if state is not None:
            state = replace(state)  # states are used once, and there are many cases

        def entropy(size: int) -> bytes:
            return bytes(next(self.entropy[name]) for _ in range(size))

        match step:
            case "open":
                own = {f: getattr(self.manifest, f) for f in Expected.__slots__ if f not in ("initial", "weights")}
                weights = {member.site: member.weight for member in self.manifest.cohort}
                expected = Expected(**own, initial=self.manifest.model, weights=weights)
                place: Any = {
                    "expected": expected,
                    "floors": FLOORS,
                    "roster": ROSTER,
                    "me": name,
                }
                opened, self.ledgers[name] = client.open_sum(message, self.ledgers[name], **place)
                return client.advertise_keys(opened, identity, entropy)
            case "share":
                return setup.share_keys(state, message, identity, entropy)
            case "mask":
                burned, self.ledgers[name] = client.burn(setup.accept_shares(state, message), self.ledgers[name])
                vector = np.array(self.context["vectors"][name], np.int64)
                return client.mask_input(burned, lambda _, words: np.copyto(words, vector.astype(words.dtype)))
            case "check":
                signing, self.ledgers[name] = client.sign(client.hear_survivors(state, message), self.ledgers[name])
                return client.sign_survivors(signing, identity)
            case "unmask":
                agreed = client.verify_agreement(state, message)
                answering, self.ledgers[name] = client.answer(agreed, self.ledgers[name])
                return client.unmask(answering)
            case "hear":
                return client.hear_result(state, message, identity)
            case _:
                initial = self.manifest.model
                self.ledgers[name] = client.confirm_result(state, message, self.ledgers[name], initial)
                return state, None

    def take(self, step: str, name: str, message: Any) -> Any:
        steps: dict[str, Any] = {
            "open": server.take_keys, "share": server.take_shares, "mask": server.take_vector,
            "check": server.take_check, "unmask": server.take_unmask, "hear": server.take_agreement,
        }  # fmt: skip
        return steps[step](self.hub, name, message)


@pytest.fixture(scope="session")
def sums() -> dict[str, Sum]:
    """The sum before each step."""
    played = {step: Sum() for step in ("open", "share", "mask", "check", "unmask", "hear", "confirm")}
    for step, each in played.items():
        each.play(step)
    return played


@pytest.mark.parametrize("case", cases("secagg"))
def test_sums(case: dict[str, Any], sums: dict[str, Sum]) -> None:
    before = sums[case["step"]]
    message = before.message(case["whose"], case["step"], case["site"], case["splice"])

    def run() -> Any:
        if case["whose"] == "by":
            return before.take(case["step"], case["site"], message)
        return before.at(case["step"], case["site"], message)

    kept = ledger = before.ledgers[case["site"]]
    if "ledger" in case:
        before.ledgers[case["site"]] = ledger = Ledger.from_bytes(bytes.fromhex(case["ledger"]))
    if case["expect"] == "ok":
        run()
    else:
        with pytest.raises(protocols.errors.ProtocolError) as caught:
            run()
        blamed(caught.value, case)
        assert before.ledgers[case["site"]] == ledger  # nothing is burned, signed or answered
    before.ledgers[case["site"]] = kept


@contextmanager
def refused(case: dict[str, Any]) -> Iterator[None]:
    """The body goes well, or ends in the case's error: its class, its rule, its culprit."""
    if case["expect"] == "ok":
        yield
        return
    with pytest.raises(keys.errors.Refused) as caught:
        yield
    assert type(caught.value).__name__ == case["expect"], caught.value
    assert case["rule"] in caught.value.rule
    assert caught.value.blame == case["blame"]
    assert str(caught.value) == f"{caught.value.rule} (to blame: {caught.value.blame})"


def blamed(error: protocols.errors.ProtocolError, case: dict[str, Any]) -> None:
    """The right class, the right culprit, the right rule; and a text of these two and nothing else."""
    assert type(error).__name__ == case["expect"], error
    assert error.peer == case["blame"]
    assert case["rule"] in error.rule
    assert str(error) == f"{error.peer}: {error.rule}"
