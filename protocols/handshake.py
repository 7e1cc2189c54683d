"""How two members agree on the keys of a session: one offer, one answer, and a first packet that proves both.

X25519 and ML-KEM-768 (FIPS 203) ephemerals, signed with Ed25519 by who made them. Keys come out of HKDF (RFC 5869) over
both shared secrets, salted with a hash of both packets, so that a key belongs to one pair of members, study, roster and
pair of boot numbers, and stays secret while either problem is hard. The ephemerals are forgotten with the handshake:
whoever obtains a member's long-term keys later reads nothing of what was said before.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from keys.encoding import prefixed
from keys.errors import InvalidSignature
from keys.identity import SIGNATURE_SIZE, Identity
from keys.roster import Roster
from protocols.codec import exactly
from protocols.errors import (
    BadSignature,
    Malformed,
    Replayed,
    WrongRecipient,
    WrongRoster,
    WrongSender,
)
from protocols.fields import Digest, Name

OFFER: Final = b"\x01"  # first byte of a packet
ANSWER: Final = b"\x02"

OFFER_LABEL: Final = b"fedsecure/session/offer/v1"
ANSWER_LABEL: Final = b"fedsecure/session/answer/v1"
TRANSCRIPT_LABEL: Final = b"fedsecure/session/transcript/v1"
KEY_LABEL: Final = b"fedsecure/session/key/v1"
ID_LABEL: Final = b"fedsecure/session/id/v1"

SAME_ROSTER: Final = "both ends act on the same roster: run `fedsecure roster verify` where it is the older"

ID_SIZE: Final = 8
KEY_SIZE: Final = 32
NO_SESSION: Final = bytes(ID_SIZE)
_KEM_PUBLIC: Final = 1184
_KEM_CIPHERTEXT: Final = 1088

SessionId: TypeAlias = Annotated[bytes, Meta(min_length=ID_SIZE, max_length=ID_SIZE)]
_Point: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Boot: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Party(NamedTuple):
    """Who a node is towards the others, and whom and what it believes. `boot` rises with every start of the node."""

    name: str
    identity: Identity
    roster: Roster
    study: bytes  # the study's digest
    boot: int


def moved(party: Party, roster: Roster) -> Party:
    """`party` under another roster. Raises ValueError if that has other keys for it, or another coordinator."""
    if roster.members.get(party.name) != party.identity.public or roster.coordinator != party.roster.coordinator:
        raise ValueError("the node's identity or its coordinator is not the one of this roster")
    return party._replace(roster=roster)


class Offer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A site's. Everything that the session is bound to stands here."""

    version: Literal[1]
    study: Digest
    roster: Digest
    sender: Name
    recipient: Name
    boot: _Boot
    previous: SessionId  # the session to be replaced; zeros if the site has none
    exchange: _Point  # X25519, public
    encapsulation: Annotated[bytes, Meta(min_length=_KEM_PUBLIC, max_length=_KEM_PUBLIC)]  # ML-KEM-768, public


class Answer(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The coordinator's, to one offer and no other."""

    version: Literal[1]
    offer: Digest  # SHA-256 of the packet
    boot: _Boot
    exchange: _Point
    ciphertext: Annotated[bytes, Meta(min_length=_KEM_CIPHERTEXT, max_length=_KEM_CIPHERTEXT)]


class SessionKeys(NamedTuple):
    """AES-256-GCM keys, one for each direction, and the session's public name."""

    id: bytes
    to_coordinator: bytes
    to_site: bytes

    def __repr__(self) -> str:
        return f"SessionKeys({self.id.hex()})"


_ENCODER: Final = Encoder()
_OFFERS: Final = Decoder(Offer)
_ANSWERS: Final = Decoder(Answer)


class Offered:
    """An offer that waits for its answer. Holds the ephemeral private keys; forget it and they are gone."""

    def __init__(
        self, party: Party, previous: bytes = NO_SESSION, ephemerals: tuple[bytes, bytes] | None = None
    ) -> None:
        """`ephemerals` is for tests: raw X25519 key and ML-KEM seed, which otherwise come from the operating system."""
        self._party = party
        self.previous = previous
        if ephemerals is None:
            self._exchange, self._decapsulation = X25519PrivateKey.generate(), MLKEM768PrivateKey.generate()
        else:
            self._exchange = X25519PrivateKey.from_private_bytes(ephemerals[0])
            self._decapsulation = MLKEM768PrivateKey.from_seed_bytes(ephemerals[1])
        offer = Offer(
            1,
            party.study,
            party.roster.digest,
            party.name,
            party.roster.coordinator,
            party.boot,
            previous,
            self._exchange.public_key().public_bytes_raw(),
            self._decapsulation.public_key().public_bytes_raw(),
        )
        self.packet = _signed(OFFER, OFFER_LABEL, party.identity, _ENCODER.encode(offer))
        self.digest = hashlib.sha256(self.packet).digest()

    def finish(self, packet: bytes, least_boot: int = 0) -> tuple[SessionKeys, int]:
        """Keys of the session that the coordinator's answer makes, and its boot number.

        Raises Malformed, Replayed (another offer's answer, or an earlier start's) or BadSignature, all of which blame
        the coordinator.
        """
        peer = self._party.roster.coordinator
        raw = _verified(packet, ANSWER_LABEL, self._party.roster, peer)
        answer = exactly(_ANSWERS, raw, peer, "a version 1 answer")
        if answer.offer != self.digest:
            raise Replayed(peer, "an answer is to the offer just made")
        if answer.boot < least_boot:
            raise Replayed(peer, "a node's boot number never falls")
        try:
            shared = self._exchange.exchange(X25519PublicKey.from_public_bytes(answer.exchange))
            shared += self._decapsulation.decapsulate(answer.ciphertext)
        except ValueError:
            raise Malformed(peer, "an answer holds sound ephemeral keys") from None
        return _derive(shared, self.packet, packet), answer.boot


def answered_by(packet: bytes, peer: str) -> bytes:
    """The digest of the offer that an answer says it is to; its signature is not looked at. Raises Malformed."""
    return exactly(_ANSWERS, packet[1 + SIGNATURE_SIZE :], peer, "a version 1 answer").offer


def read_offer(packet: bytes, *, peer: str, party: Party, least_boot: int = 0) -> Offer:
    """Check everything about an offer from `peer`, to be answered by `answer`, but for the study.

    Two nodes of different studies make a session, to which both digests are bound: in it they tell each other in which
    settings they differ. Every frame names its study, and is refused by the nodes of another.

    Raises a FaultyPeer that blames `peer`: Malformed, WrongRoster, WrongSender, WrongRecipient, BadSignature, or
    Replayed for a boot number below `least_boot`.
    """
    raw = packet[1 + SIGNATURE_SIZE :]
    offer = exactly(_OFFERS, raw, peer, "a version 1 offer")
    if offer.sender != peer:
        raise WrongSender(peer, "an offer is delivered by its sender")
    if offer.recipient != party.name:
        raise WrongRecipient(peer, "an offer is delivered to its recipient")
    _verified(packet, OFFER_LABEL, party.roster, peer)
    if offer.roster != party.roster.digest:
        raise WrongRoster(peer, SAME_ROSTER)
    if offer.boot < least_boot:
        raise Replayed(peer, "a node's boot number never falls")
    return offer


def answer(packet: bytes, offer: Offer, party: Party) -> tuple[bytes, SessionKeys]:
    """The answer's packet and the keys of the session it makes. Raises Malformed if the offer's keys are unsound."""
    exchange = X25519PrivateKey.generate()
    try:
        shared = exchange.exchange(X25519PublicKey.from_public_bytes(offer.exchange))
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(offer.encapsulation).encapsulate()
    except ValueError:
        raise Malformed(offer.sender, "an offer holds sound ephemeral keys") from None
    made = Answer(1, hashlib.sha256(packet).digest(), party.boot, exchange.public_key().public_bytes_raw(), ciphertext)
    reply = _signed(ANSWER, ANSWER_LABEL, party.identity, _ENCODER.encode(made))
    return reply, _derive(shared + secret, packet, reply)


def _signed(kind: bytes, label: bytes, identity: Identity, raw: bytes) -> bytes:
    return kind + identity.sign(label, raw) + raw


def _verified(packet: bytes, label: bytes, roster: Roster, peer: str) -> bytes:
    """What `peer` signed. Raises BadSignature."""
    signature, raw = packet[1 : 1 + SIGNATURE_SIZE], packet[1 + SIGNATURE_SIZE :]
    try:
        roster.members[peer].verify(label, raw, signature)
    except InvalidSignature:
        raise BadSignature(peer, "a handshake is signed by who takes part in it") from None
    return raw


def _derive(shared: bytes, offer: bytes, reply: bytes) -> SessionKeys:
    transcript = hashlib.sha256(prefixed(TRANSCRIPT_LABEL, offer, reply)).digest()

    def expand(size: int, *info: bytes) -> bytes:
        return HKDF(SHA256(), size, salt=transcript, info=prefixed(*info)).derive(shared)

    return SessionKeys(
        expand(ID_SIZE, ID_LABEL),
        expand(KEY_SIZE, KEY_LABEL, b"to-coordinator"),
        expand(KEY_SIZE, KEY_LABEL, b"to-site"),
    )
