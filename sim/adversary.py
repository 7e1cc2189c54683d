"""Who does not keep to the protocol: members with keys, members without, strangers; each abuse as they would do it.

It writes frames by hand: no sealer says what no honest node says.

    on the wire     by a member whose line and keys are its own (an insider), in a running federation
    at the door     by a stranger to the roster, against the real socket
    on paper        by whoever hands an operator a roster
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import msgspec

from fedsecure.greeting import GREETINGS, Verdict
from fedsecure.node.introductions import GREET_EVERY_S
from fedsecure.node.log import Log
from fedsecure.node.membership import now
from fedsecure.node.wiring import COORDINATOR
from fedsecure.plan import frame_limit
from fedsecure.progress import Refused
from keys import amend
from keys.edition import LIFETIME, NOTHING, Edition, Member, Reason
from keys.errors import KeysError
from keys.identity import Identity
from keys.roster import Roster
from keys.trust import Pin, Trust
from protocols.codec import encode
from protocols.envelope import FRAME_LABEL, Header, header_bytes, join
from protocols.errors import ProtocolError, UnknownPeer
from protocols.handshake import Party
from protocols.messages import CloseReason, Hello, Message, RoundDone, StudyClosed, WeightUpdate, kind_of
from protocols.transport.doorkeeper import STRANGER
from protocols.transport.zmq_curve import CurveClient, CurveServer
from sim.arena import Arena
from sim.faults import TappedClient, TappedLine


@dataclass(frozen=True, slots=True)
class Row:
    """One abuse and what came of it. log: the structured log's line, empty where the peer is no member."""

    abuse: str
    by: str
    refused_by: str
    error: str
    log: str


class Insider:
    """A member that also says what it likes: on its own line, with its own keys, or with others that it claims."""

    def __init__(
        self, arena: Arena, name: str, identity: Identity, line: TappedClient | TappedLine, to: str = COORDINATOR
    ) -> None:
        """to: who is at the other end of its line."""
        self.name, self.identity, self.line, self.to = name, identity, line, to
        self.study = arena.study
        at = arena.shells[COORDINATOR].standing()
        self.position = at.stage, at.round
        self._used = 0

    def last(self, kind: bytes) -> bytes:
        """The last frame of a kind that the insider's honest half has sent."""
        return next(frame for frame in reversed(self.line.sent) if frame[2:40].find(kind) > 0)

    def greeted(self) -> bytes:
        """Its last greeting."""
        return next(frame for frame in reversed(self.line.sent) if GREETINGS.is_one(frame))

    def frame(
        self, message: Message, *, sender: str | None = None, identity: Identity | None = None,
        study: bytes | None = None, recipient: str | None = None, body: bytes | None = None,
    ) -> bytes:  # fmt: skip
        """A frame that holds but for what is said here; its number is above all that were used."""
        body = encode(message) if body is None else body
        said = max(_seq(frame) for frame in self.line.sent if not GREETINGS.is_one(frame))
        self._used = max(said, self._used) + 1
        header = Header(
            1, kind_of(message), study or self.study.digest(), sender or self.name, recipient or self.to, self._used,
            len(body), hashlib.sha256(body).digest(),
        )  # fmt: skip
        raw = header_bytes(header)
        return join(raw, (identity or self.identity).sign(FRAME_LABEL, raw), body)

    def header(self, **changes: object) -> bytes:
        """A frame whose signed header has other fields than the protocol's, and no body."""
        fields = {
            "version": 1, "kind": "control", "study": self.study.digest(), "sender": self.name,
            "recipient": self.to, "seq": 1 << 62, "length": 0, "digest": bytes(32),
        }  # fmt: skip
        raw = msgspec.msgpack.encode(list((fields | changes).values()))
        return join(raw, self.identity.sign(FRAME_LABEL, raw), b"")

    def greeting(self, **changes: object) -> bytes:
        """Its honest half's last greeting with other fields."""
        honest = GREETINGS.open(self.greeted(), peer=self.name, me=self.to, public=self.identity.public)
        return GREETINGS.write(msgspec.structs.replace(honest, **changes), self.identity)


def _seq(frame: bytes) -> int:
    header = msgspec.msgpack.decode(frame[2 : 2 + int.from_bytes(frame[:2], "big")])
    return int(header[5])


Abuse = Callable[[Insider, str], bytes | list[bytes]]  # insider, another site -> what it sends
FLOOD: Final = 20  # frames of one that says the same over and over: far more than a pace (fedsecure.node.pace) allows


def _flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


ON_THE_WIRE: Final[dict[str, Abuse]] = {
    "wrong key": lambda me, _: me.frame(RoundDone(0, 0), identity=Identity.generate()),
    "impersonation of another site": lambda me, other: me.frame(RoundDone(0, 0), sender=other),
    "impersonation of the coordinator": lambda me, _: me.frame(StudyClosed(CloseReason.ABORTED), sender=COORDINATOR),
    "a coordinator's message": lambda me, _: me.frame(StudyClosed(CloseReason.ABORTED)),
    "a frame made for another": lambda me, other: me.frame(RoundDone(0, 0), recipient=other),
    "replay of a frame": lambda me, _: me.last(b"control"),
    "replay from an earlier round": lambda me, _: me.last(b"release"),
    "replay from an earlier study": lambda me, _: me.frame(RoundDone(0, 0), study=bytes(32)),
    "downgrade of the format": lambda me, _: me.header(version=0),
    "downgrade of the software": lambda me, _: me.greeting(software="0.0.1"),
    "a kind that has no message": lambda me, _: me.header(kind="share"),
    "corruption": lambda me, _: _flipped(me.frame(RoundDone(0, 0))),
    "truncation": lambda me, _: me.frame(RoundDone(0, 0))[:-1],
    "bytes that are no frame": lambda *_: b"\xff" * 100,
    "oversize frame": lambda me, _: bytes(frame_limit(me.study) + 1),
    "oversize greeting": lambda *_: GREETINGS.magic + bytes(GREETINGS.maximum),
    "a folder's older copy": lambda me, _: me.greeting(boot=0),
    "a false claim of an older copy": lambda me, _: me.greeting(verdict=Verdict.RESTORED),
    "an update to another model": lambda me, _: me.frame(WeightUpdate(*me.position, bytes(32), b"")),
    "done without the updates": lambda me, _: me.frame(RoundDone(*me.position)),
    "a round that is not open": lambda me, _: me.frame(WeightUpdate(9, 9, bytes(32), b"")),
    # The last: its honest half is behind these starts until the coordinator is started again.
    "ever new starts, for a model each": lambda me, _: [
        me.frame(Hello(boot, -1, -1, False)) for boot in range(2, 2 + FLOOD)
    ],
}


def on_the_wire(arena: Arena, insider: Insider, abuses: Mapping[str, Abuse] = ON_THE_WIRE) -> Iterator[Row]:
    """Each abuse of an insider; the honest half of it, and all others, go on in between."""
    other = next(member.name for member in arena.study.sites if member.name not in (insider.name, insider.to))
    victim = arena.shells[insider.to]
    for abuse, make in abuses.items():
        raw = make(insider, other)
        arena.now += GREET_EVERY_S  # so that one is not refused for having come too soon after another
        victim.note_again()
        before, logged = len(arena.refused), len(arena.logs[insider.to].getvalue())
        for frame in [raw] if isinstance(raw, bytes) else raw:
            insider.line.inject(frame)
        victim.pump(0.0)
        found = [(node, event) for node, event in arena.refused[before:] if event.peer == insider.name]
        lines = arena.logs[insider.to].getvalue()[logged:].splitlines()
        node, rule = (found[0][0], found[0][1].rule) if found else ("", "")
        line = next((line for line in lines if '"refused"' in line), "")
        yield Row(abuse, f"{insider.name}, a member", node, rule, line)
        # What it claimed may have put its honest half out; that one only greets again.
        insider.line.inject(insider.greeted())
        victim.pump(0.0)


def at_the_door() -> Iterator[Row]:
    """Strangers against the real socket. Nothing of them reaches a decoder."""
    hub, site, revoked, stranger = (Identity.generate() for _ in range(4))
    roster = Roster("hub", {"hub": hub.public, "site": site.public})
    before = Roster("hub", {**roster.members, "revoked": revoked.public})
    honest = Party("site", site, roster, bytes(32), 1)
    claimed = {
        "flood from an unknown peer": (stranger, STRANGER.replace(" ", "-")),
        "revoked key": (revoked, "revoked"),
    }
    server = CurveServer(Party("hub", hub, before, bytes(32), 1), maximum=4096)
    server.accept(roster)
    try:
        for abuse, (identity, name) in claimed.items():
            fake = Roster("hub", {"hub": hub.public, name: identity.public})
            party = Party(name, identity, fake, bytes(32), 1)
            clients = [CurveClient(party, maximum=4096, endpoint=server.endpoint) for _ in range(8)]
            heard, errors = _heard(server, 1.0), server.refusals()
            meanwhile = _honest_after(abuse, honest, server, 64).refused_by
            for client in clients:
                client.close()
            # Whatever came through the door would be refused by another rule than the door's.
            closed = errors and all(isinstance(error, UnknownPeer) for error in errors)
            yield _told(abuse, "the door (ZAP)" if closed and meanwhile and not heard else "", errors)
        with _slow(server.endpoint, 64):
            yield _honest_after("slow-loris, 64 connections", honest, server, 64)
        client = CurveClient(honest, maximum=1 << 20, endpoint=server.endpoint)
        client.send(bytes(1 << 16))
        heard, errors = _heard(server, 1.0), server.refusals()
        client.close()
        yield _told("oversize frame at the door", "the session" if errors and not heard else "", errors)
    finally:
        server.close()


def _told(abuse: str, refused_by: str, errors: Sequence[ProtocolError]) -> Row:
    """With the line that a node writes of what its transport refused (`Shell.pump`)."""
    if not errors:
        return Row(abuse, "", "", "", "")
    log, last = io.StringIO(), errors[-1]
    Log("hub", log, journald=False).observe(Refused(stage=0, round=0, rule=last.rule, peer=last.peer))
    return Row(abuse, last.peer, refused_by, last.rule, log.getvalue().strip())


def _honest_after(abuse: str, honest: Party, server: CurveServer, size: int) -> Row:
    """While the abuse goes on an honest site is heard."""
    client = CurveClient(honest, maximum=4096, endpoint=server.endpoint)
    client.send(bytes(size))
    heard = _heard(server, 10.0)
    client.close()
    return Row(abuse, "a stranger", "the door (handshake time-out)" if heard else "", "others are heard meanwhile", "")


def _heard(server: CurveServer, seconds: float) -> list[tuple[str, bytes]]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        frames = server.poll(0.1)
        if frames:
            return frames
    return []


@contextlib.contextmanager
def _slow(endpoint: str, connections: int) -> Iterator[None]:
    """Connections that say the first bytes of a greeting, and then nothing."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            line = stack.enter_context(socket.create_connection((host, int(port))))
            line.sendall(b"\xff\0\0")
        yield


def on_paper() -> Iterator[Row]:
    """Rosters that an operator is handed; each is refused by the command that would put it into use."""
    sites = {name: Identity.generate() for name in ("north", "south", "east")}
    hub, moment = Identity.generate(), now()
    members = {"hub": Member("hub", hub.public)} | {name: Member(name, key.public) for name, key in sites.items()}
    first = _signed(Edition(bytes(16), 1, NOTHING, moment, moment + LIFETIME, "hub", members), sites)
    pins = {name: Pin(member.institution, member.public.fingerprint) for name, member in members.items()}
    trust = Trust(bytes(16), "north", 2, pins).accept(first, moment)
    second = _signed(amend.renew(first, moment), sites)
    puppets = {f"puppet-{number}": Identity.generate() for number in range(5)}
    crowd = dict(second.members) | {name: Member(name, key.public) for name, key in puppets.items()}
    packed = replace(second, members=crowd, signatures={})
    few = {name: pins[name] for name in ("hub", "north")}  # a node that has verified nobody else yet
    gone = amend.revoke(first, "east", Reason.COMPROMISED, moment, moment)
    cases: dict[str, Callable[[], object]] = {
        "expired roster": lambda: trust.accept(first, moment + LIFETIME),
        "expired roster, at a node's start": lambda: trust.roster(moment + timedelta(days=91)),
        "rolled-back roster": lambda: trust.accept(second, moment).accept(first, moment),
        "roster of puppets": lambda: trust.accept(_signed(packed, puppets), moment),
        "roster of puppets, the first one": lambda: replace(trust, pins=few, accepted=None).accept(
            _signed(packed, puppets), moment
        ),
        "roster signed by the revoked": lambda: trust.accept(
            _signed(gone, {"east": sites["east"]}), moment
        ),
        "revoked, and says it is not": lambda: trust.accept(
            _signed(gone, {name: sites[name] for name in ("north", "south")}), moment
        ).accept(_signed(replace(second, version=3, signatures={}), sites), moment),
        "two rosters of one version": lambda: trust.accept(
            _signed(replace(first, expires=first.expires - timedelta(days=1), signatures={}), sites), moment
        ),
    }  # fmt: skip
    for abuse, hand_over in cases.items():
        refused, text = "", ""
        try:
            hand_over()
        except KeysError as error:
            refused, text = "every node", str(error)
        yield Row(abuse, "whoever hands it over", refused, text, "the command's own error")


def _signed(edition: Edition, by: dict[str, Identity]) -> Edition:
    for name, identity in by.items():
        edition = edition.signed(name, identity)
    return edition
