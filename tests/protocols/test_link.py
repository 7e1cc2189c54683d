"""Two ends of a connection: how sessions begin, change and end, and that whatever is lost comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import (
    BadSignature,
    FaultyPeer,
    Malformed,
    Replayed,
    UnexpectedMessage,
    WrongRecipient,
    WrongRoster,
    WrongSender,
)
from protocols.handshake import SAME_ROSTER, Offered, Party
from protocols.link import RESET, RETRY_S, ROSTER, Initiator, Link, Responder
from protocols.session import CHUNK, WINDOW, Buffers

MAXIMUM = 64 * CHUNK


class Wire:
    """A site's link and the coordinator's, and what has come of them."""

    def __init__(self, parties: dict[str, Party], maximum: int = MAXIMUM) -> None:
        self.site = Initiator(
            parties["north"], "hub", maximum=maximum, queue=1000, room=1000 * CHUNK, buffers=Buffers()
        )
        self.hub = Responder(parties["hub"], "north", maximum=maximum, queue=1000, room=1000 * CHUNK, buffers=Buffers())
        self.now = 100.0
        self.frames: dict[str, list[bytes]] = {"hub": [], "north": []}
        self.errors: list[FaultyPeer] = []

    def take(self, source: Link) -> list[bytes]:
        """What an end would put on the wire now."""
        made = []
        while (packet := source.next_packet(self.now)) is not None:
            made.append(bytes(packet))
        return made

    def take_one(self, source: Link) -> list[bytes]:
        packet = source.next_packet(self.now)
        return [] if packet is None else [bytes(packet)]

    def give_all(self, sink: Link, packets: list[bytes]) -> None:
        for packet in packets:
            self.give(sink, packet)

    def give(self, sink: Link, packet: bytes) -> None:
        try:
            frame = sink.receive(packet)
        except FaultyPeer as error:
            self.errors.append(error)
        else:
            if frame is not None:
                self.frames["hub" if sink is self.hub else "north"].append(frame)

    def settle(self) -> None:
        """Carry packets until neither end has any."""
        while (up := self.take(self.site)) + (down := self.take(self.hub)):
            self.give_all(self.hub, up)
            self.give_all(self.site, down)


@pytest.fixture
def wire(parties: dict[str, Party]) -> Iterator[Wire]:
    made = Wire(parties)
    yield made
    assert made.errors == []  # unless the test has looked at them and taken them away


@pytest.fixture
def joined(wire: Wire) -> Wire:
    wire.settle()
    assert wire.site.established
    assert wire.hub.established
    return wire


def keys_at(link: Link) -> bytes | None:
    return None if link._session is None else link._session.id


def keys_of(wire: Wire) -> bytes:
    assert wire.site._session is not None
    assert wire.hub._session is not None
    assert wire.site._session.id == wire.hub._session.id
    return wire.site._session.id


def test_frames_wait_for_the_session_and_then_go_both_ways(wire: Wire) -> None:
    wire.site.send(b"early")
    wire.hub.send(b"to nobody")
    wire.settle()
    assert wire.frames == {"hub": [b"early"], "north": []}
    wire.hub.send(b"to north")
    wire.settle()
    assert wire.frames["north"] == [b"to north"]
    assert wire.site.idle
    assert wire.hub.idle


def test_what_waits_for_a_site_that_grants_nothing_is_bounded_by_its_bytes(joined: Wire) -> None:
    joined.hub.room = 30 * CHUNK
    granted: list[bytes] = []
    for number in range(50):
        joined.hub.send(bytes((number,)) * (10 * CHUNK))
        granted += joined.take(joined.hub)
    joined.give_all(joined.site, granted)
    joined.settle()
    assert [frame[0] for frame in joined.frames["north"]] == [0, 1, 2, 3]  # one under way, and three that wait


@pytest.mark.parametrize("whose", ["hub", "north"])
def test_a_session_that_has_sealed_all_it_may_gives_way_to_another(
    joined: Wire, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    before = keys_of(joined)
    monkeypatch.setattr("protocols.session._PACKETS", 6)
    source = joined.hub if whose == "north" else joined.site
    frames = [bytes(3 * CHUNK), bytes(4 * CHUNK), b"last"]
    for frame in frames:
        source.send(frame)
    joined.settle()
    assert joined.frames[whose] == frames
    assert keys_of(joined) != before


def test_a_rekey_gives_fresh_keys(joined: Wire) -> None:
    seen = {keys_of(joined)}
    for _ in range(5):
        joined.site.rekey()
        joined.settle()
        seen.add(keys_of(joined))
    assert len(seen) == 6


def test_a_rekey_waits_for_the_frames_on_their_way(joined: Wire) -> None:
    before = keys_of(joined)
    up, down = bytes(3 * WINDOW * CHUNK), bytes(2 * WINDOW * CHUNK)
    joined.site.send(up)
    joined.hub.send(down)
    for packet in joined.take(joined.site):
        joined.give(joined.hub, packet)
    joined.site.rekey()
    assert joined.take(joined.site) == []  # its frame is not through: no offer yet
    joined.settle()
    assert joined.frames == {"hub": [up], "north": [down]}
    assert keys_of(joined) != before


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_packets_frames_and_rekeys_keeps_every_frame_in_order(wire: Wire, seed: int) -> None:
    """Two queues stand for the two directions of a connection; a rekey may come at any point of either."""
    rng = random.Random(seed)
    up: list[bytes] = []
    down: list[bytes] = []
    sent: dict[str, list[bytes]] = {"hub": [], "north": []}
    ids = set()
    wire.settle()
    for step in range(600):
        action = rng.randrange(7)
        if action == 0 and step < 400:
            frame = rng.randbytes(rng.choice([0, 10, 5000])) or bytes(rng.choice([1, 3, 12]) * CHUNK)
            to = rng.choice(["hub", "north"])
            (wire.site if to == "hub" else wire.hub).send(frame)
            sent[to].append(frame)
        elif action == 1 and step < 400:
            wire.site.rekey()
        elif action in (2, 3):
            up += wire.take_one(wire.site)
        elif action in (4, 5):
            down += wire.take_one(wire.hub)
        else:
            wire.give_all(wire.hub, [up.pop(0)] if up else [])
            wire.give_all(wire.site, [down.pop(0)] if down else [])
        ids.add(keys_at(wire.site))
    for _ in range(1000):
        up += wire.take(wire.site)
        down += wire.take(wire.hub)
        if not up and not down:
            break
        wire.give_all(wire.hub, up)
        wire.give_all(wire.site, down)
        up, down = [], []
    assert [len(wire.frames[name]) for name in sent] == [len(sent[name]) for name in sent]
    assert wire.frames == sent
    assert len(ids) > 3


def test_a_frame_half_on_its_way_when_the_connection_breaks_is_sent_again(joined: Wire) -> None:
    frame = bytes(3 * WINDOW * CHUNK)
    joined.site.send(frame)
    for packet in joined.take(joined.site):
        joined.give(joined.hub, packet)
    joined.site.lost()
    joined.hub.lost()
    joined.settle()
    assert joined.frames["hub"] == [frame]


def test_a_site_that_was_restarted_takes_over(joined: Wire, parties: dict[str, Party]) -> None:
    before = keys_of(joined)
    joined.site = Initiator(
        parties["north"]._replace(boot=2), "hub", maximum=MAXIMUM, queue=9, room=MAXIMUM, buffers=Buffers()
    )
    joined.site.send(b"again")
    joined.settle()
    assert joined.frames["hub"] == [b"again"]
    assert keys_of(joined) != before


def test_a_coordinator_that_was_restarted_is_told_to_by_a_reset(joined: Wire, parties: dict[str, Party]) -> None:
    joined.hub = Responder(
        parties["hub"]._replace(boot=2), "north", maximum=MAXIMUM, queue=9, room=MAXIMUM, buffers=Buffers()
    )
    joined.site.send(b"to the old one")
    joined.settle()
    joined.site.send(b"to the new one")
    joined.settle()
    assert joined.frames["hub"] == [b"to the new one"]  # a frame that left whole may be lost: the protocol repeats


def test_of_a_missing_packet_comes_an_error_and_a_new_session(joined: Wire) -> None:
    joined.site.send(b"lost")
    joined.take(joined.site)
    joined.site.send(b"next")
    joined.settle()
    assert [type(error).__name__ for error in joined.errors] == ["Incomplete"]
    joined.errors.clear()
    joined.site.send(b"and on")
    joined.settle()
    assert joined.frames["hub"] == [b"and on"]


def test_an_oversize_frame_is_refused_once_and_not_tried_again(parties: dict[str, Party]) -> None:
    wire = Wire(parties, maximum=4 * CHUNK)
    wire.settle()
    wire.site.send(bytes(40 * CHUNK))
    wire.site.send(b"next")
    wire.settle()
    wire.settle()
    assert [type(error).__name__ for error in wire.errors] == ["Oversize"]
    assert wire.frames["hub"] == [b"next"]


def test_a_frame_that_the_site_refuses_is_not_tried_again(parties: dict[str, Party]) -> None:
    wire = Wire(parties, maximum=4 * CHUNK)
    wire.settle()
    wire.hub.send(bytes(40 * CHUNK))
    wire.hub.send(b"next")
    for _ in range(20):  # an endless loop would be found here, and not by the test's time limit
        for packet in wire.take(wire.hub):
            wire.give(wire.site, packet)
        for packet in wire.take(wire.site):
            wire.give(wire.hub, packet)
    assert [type(error).__name__ for error in wire.errors] == ["Oversize"]
    assert wire.frames["north"] == [b"next"]


def test_a_session_that_breaks_with_its_first_packet_gives_way_to_a_new_one(joined: Wire) -> None:
    joined.site.rekey()
    joined.give_all(joined.hub, joined.take(joined.site))
    joined.give_all(joined.site, joined.take(joined.hub))
    joined.site.send(b"lost")
    joined.take(joined.site)  # the packet that would prove the new keys, and a frame
    joined.site.send(b"next")
    joined.settle()
    assert [type(error).__name__ for error in joined.errors] == ["Incomplete"]
    joined.errors.clear()
    joined.site.send(b"and on")
    joined.settle()
    assert joined.frames["hub"] == [b"and on"]


def test_an_offer_without_an_answer_is_sent_again_ever_more_seldom(wire: Wire) -> None:
    (first,) = wire.take(wire.site)
    began, times = wire.now, []
    while wire.now < began + 130:
        wire.now += 0.5
        for packet in wire.take(wire.site):
            assert packet == first
            times.append(wire.now - began)
    assert times == [2, 6, 14, 30, 60, 90, 120]


def test_an_offer_that_was_sent_again_is_answered_by_the_same_answer(wire: Wire) -> None:
    (offer,) = wire.take(wire.site)
    wire.give(wire.hub, offer)
    (first,) = wire.take(wire.hub)
    wire.give(wire.hub, offer)
    (second,) = wire.take(wire.hub)
    assert first == second
    wire.give_all(wire.site, [first, second])
    wire.settle()
    wire.give(wire.hub, offer)  # and not at all when its session holds
    assert wire.take(wire.hub) == []
    wire.give(wire.site, first)
    wire.site.send(b"on")
    wire.settle()
    assert wire.frames["hub"] == [b"on"]


@pytest.mark.parametrize("delay", [0.5, 2.5, 20.0])
def test_a_slow_network_is_no_fault_and_no_hindrance(wire: Wire, delay: float) -> None:
    """Each packet takes `delay` seconds; the site has a frame to send, and changes keys."""
    under_way: list[tuple[float, Link, bytes]] = []
    wire.site.send(b"here")
    until = wire.now + 12 * delay
    rekeyed = False
    while wire.now < until:
        wire.now += 0.25
        for source, sink in ((wire.site, wire.hub), (wire.hub, wire.site)):
            under_way += [(wire.now + delay, sink, packet) for packet in wire.take(source)]
        for at, sink, packet in list(under_way):
            if at <= wire.now:
                wire.give(sink, packet)
                under_way.remove((at, sink, packet))
        if wire.frames["hub"] and not rekeyed:
            rekeyed = True
            before = keys_of(wire)
            wire.site.rekey()
            wire.site.send(b"under other keys")
    assert wire.frames["hub"] == [b"here", b"under other keys"]
    assert keys_of(wire) != before


def test_answers_to_offers_that_are_over_are_no_fault(wire: Wire) -> None:
    (first,) = wire.take(wire.site)
    wire.give(wire.hub, first)
    (late,) = wire.take(wire.hub)
    wire.site.lost()
    wire.take(wire.site)
    wire.give(wire.site, late)
    assert not wire.site.established
    wire.hub.lost()
    wire.now += RETRY_S
    wire.settle()
    assert wire.site.established


def test_an_answer_to_an_offer_of_another_is_one(wire: Wire, parties: dict[str, Party]) -> None:
    """Somebody has this site's keys, or the coordinator confuses two."""
    wire.take(wire.site)
    wire.give(wire.hub, Offered(parties["north"]).packet)
    (answer,) = wire.take(wire.hub)
    with pytest.raises(Replayed, match="the offer just made"):
        wire.site.receive(answer)


def test_an_offer_whose_session_is_gone_is_made_anew(parties: dict[str, Party]) -> None:
    """The coordinator would answer it after a frame that the site has refused, and never has through."""
    wire = Wire(parties, maximum=4 * CHUNK)
    wire.settle()
    wire.hub.send(bytes(40 * CHUNK))
    refused = wire.take(wire.hub)
    wire.site.rekey()
    wire.give_all(wire.hub, wire.take(wire.site))
    wire.give_all(wire.site, refused)
    wire.hub.send(b"next")
    wire.settle()
    assert [type(error).__name__ for error in wire.errors] == ["Oversize"]
    assert wire.frames["north"] == [b"next"]


def test_a_roster_is_followed_from_the_next_offer_on(wire: Wire, parties: dict[str, Party]) -> None:
    roster = parties["hub"].roster
    larger = Roster("hub", {**roster.members, "west": Identity.generate().public})
    wire.take(wire.site)  # an offer that names the old roster is on its way
    wire.hub.follow(parties["hub"]._replace(roster=larger))
    wire.site.follow(parties["north"]._replace(roster=larger))
    wire.settle()
    assert wire.site.established


def test_a_replayed_offer_changes_nothing_for_the_session_that_holds(wire: Wire) -> None:
    (offer,) = wire.take(wire.site)
    wire.give(wire.hub, offer)
    wire.settle()
    before = keys_of(wire)
    wire.give(wire.hub, offer)
    wire.take(wire.hub)  # whoever replays it gets an answer, and no keys
    wire.site.send(b"still the same")
    wire.settle()
    assert wire.frames["hub"] == [b"still the same"]
    assert keys_of(wire) == before


def test_an_offer_of_an_earlier_start_is_refused(joined: Wire, parties: dict[str, Party]) -> None:
    for boot, error in ((5, None), (4, Replayed)):
        offer = Offered(parties["north"]._replace(boot=boot)).packet
        if error is None:
            joined.hub.receive(offer)
        else:
            with pytest.raises(error, match="north: a node's boot number never falls"):
                joined.hub.receive(offer)


def test_offers_of_others_are_refused(joined: Wire, parties: dict[str, Party], identities: dict[str, Identity]) -> None:
    north, roster = parties["north"], parties["north"].roster
    west = Roster("hub", {**roster.members, "west": Identity.generate().public})
    south_as_hub = Roster("south", {name: roster.members[name] for name in ("north", "south")})
    for party, error in (
        (north._replace(roster=west), WrongRoster),
        (parties["south"], WrongSender),
        (north._replace(identity=identities["south"]), BadSignature),
        (north._replace(roster=south_as_hub), WrongRecipient),
    ):
        with pytest.raises(error) as caught:
            joined.hub.receive(Offered(party).packet)
        assert caught.value.peer == "north"
    assert joined.hub.established


def test_a_site_with_another_roster_is_told_so(wire: Wire, parties: dict[str, Party]) -> None:
    members = parties["north"].roster.members
    wire.site.follow(parties["north"]._replace(roster=Roster("hub", {**members, "west": Identity.generate().public})))
    wire.settle()
    assert [(error.peer, error.rule) for error in wire.errors] == [("north", SAME_ROSTER), ("hub", SAME_ROSTER)]
    assert not wire.site.established
    wire.errors.clear()
    wire.site.follow(parties["north"])  # it has accepted the other one
    wire.now += RETRY_S
    wire.settle()
    assert wire.errors == []
    assert wire.site.established
    wire.give(wire.site, ROSTER + parties["hub"].roster.digest)  # said before that, and late
    assert wire.errors == []


def test_nodes_of_two_studies_make_a_session_to_say_so(wire: Wire, parties: dict[str, Party]) -> None:
    wire.site.follow(parties["north"]._replace(study=bytes(32)))
    wire.site.send(b"a greeting")
    wire.settle()
    assert wire.frames["hub"] == [b"a greeting"]


def test_an_answer_of_another_is_refused(
    wire: Wire, parties: dict[str, Party], identities: dict[str, Identity]
) -> None:
    (offer,) = wire.take(wire.site)
    impostor = Responder(
        parties["hub"]._replace(identity=identities["south"]),
        "north",
        maximum=MAXIMUM,
        queue=9,
        room=MAXIMUM,
        buffers=Buffers(),
    )
    impostor.receive(offer)
    with pytest.raises(BadSignature) as caught:
        wire.site.receive(bytes(impostor.next_packet(0) or b""))
    assert caught.value.peer == "hub"
    assert not wire.site.established


def test_whatever_is_no_packet_of_the_other_role_is_refused(joined: Wire, parties: dict[str, Party]) -> None:
    offer = Offered(parties["north"]).packet
    for link, packet, error in (
        (joined.hub, b"", UnexpectedMessage),
        (joined.hub, b"\x02answer", UnexpectedMessage),
        (joined.hub, RESET + bytes(8), UnexpectedMessage),
        (joined.hub, b"\x01", Malformed),
        (joined.hub, offer[:-1], Malformed),
        (joined.hub, offer + b"x", Malformed),
        (joined.site, offer, UnexpectedMessage),
        (joined.site, b"\x02unasked", Malformed),
        (joined.site, RESET + bytes(7), Malformed),
        (joined.site, b"\xff", UnexpectedMessage),
    ):
        with pytest.raises(error):
            link.receive(packet)
    joined.site.receive(RESET + bytes(8))  # of a session that is over: nothing
    joined.site.send(b"on")
    joined.settle()
    assert joined.frames["hub"] == [b"on"]


def test_an_unsound_ephemeral_key_is_refused(wire: Wire, parties: dict[str, Party]) -> None:
    import msgspec

    from protocols.handshake import OFFER, OFFER_LABEL, Offer

    raw = Offered(parties["north"]).packet[65:]
    offer = msgspec.msgpack.decode(raw, type=Offer)
    for fields in ({"exchange": bytes(32)}, {"encapsulation": b"\xff" * 1184}):
        altered = msgspec.msgpack.encode(msgspec.structs.replace(offer, **fields))
        packet = OFFER + parties["north"].identity.sign(OFFER_LABEL, altered) + altered
        with pytest.raises(Malformed, match="sound ephemeral keys"):
            wire.hub.receive(packet)


def test_no_downgrade(wire: Wire) -> None:
    """There is one version and one suite: an offer with another is not one, and nothing can be left out of it."""
    (offer,) = wire.take(wire.site)
    for altered in (offer.replace(b"\x99\x01", b"\x99\x00", 1), offer.replace(b"\x99\x01", b"\x98\x01", 1)):
        assert altered != offer
        with pytest.raises(Malformed):
            wire.hub.receive(altered)
