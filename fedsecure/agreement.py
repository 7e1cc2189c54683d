"""Do the sites of a study label, scan and sample alike? Asked before it begins, without releasing a statistic.

A key is drawn by one site and sealed to the others; the coordinator relays it and cannot open it. Each site sends the
coordinator an HMAC of each coarse category under that key, and the coordinator says which of them are the same.

    the coordinator learns    which sites are the same in which category, and nothing of the categories: it has no key
    a site learns             the same, from the coordinator; it has the key and sees nobody's HMAC
    both together             could try every category until an HMAC fits: the categories are few and coarse on purpose
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from fedsecure.notes import Notes
from keys import hpke
from keys.encoding import prefixed
from keys.errors import CannotOpen, InvalidSignature
from keys.identity import SIGNATURE_SIZE, Identity
from keys.roster import Roster
from protocols.errors import BadSignature, CannotDecrypt, Malformed, WrongRecipient
from protocols.fields import Digest, Name, Wire

KEY_SIZE: Final = 32
SESSION_SIZE: Final = 16
_MAXIMUM: Final = 64 << 10  # bytes of a note: a line for each of a thousand sites
_KEY_LABEL: Final = b"fedsecure/agreement/key/v1"
_DIGEST_LABEL: Final = b"fedsecure/agreement/digest/v1"

_Session = Annotated[bytes, Meta(min_length=SESSION_SIZE, max_length=SESSION_SIZE)]
_Part = Annotated[bytes, Meta(min_length=8, max_length=8)]
_Version = Annotated[str, Meta(pattern=r"^[0-9a-z.+]{1,32}$")]
_Package = Annotated[str, Meta(pattern=r"^[a-z]{1,16}$")]
_Clock = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Category(StrEnum):
    """What is compared. In this order in `Digests` and `Verdicts`."""

    LABELS = "label map"
    MODALITY = "modality"
    SPACING = "spacing"


class _Note(Wire, frozen=True):
    sender: Name
    recipient: Name


class Inquiry(_Note, frozen=True, tag="inquiry"):
    """Either way: what I hold and run. `parts` as in a greeting; `answers`: `at_ms` of the inquiry that it answers."""

    parts: Annotated[tuple[_Part, ...], Meta(max_length=200)]
    versions: Annotated[tuple[tuple[_Package, _Version], ...], Meta(max_length=16)]
    at_ms: _Clock
    answers: _Clock


class Begin(_Note, frozen=True, tag="begin"):
    """Coordinator: compare. `leads`: the recipient draws the key."""

    session: _Session
    leads: bool


class KeyShare(_Note, frozen=True, tag="key-share"):
    """The key from `author` to `reader`, through the coordinator. `signature` is the author's, over all but itself."""

    session: _Session
    author: Name
    reader: Name
    sealed: Annotated[bytes, Meta(min_length=KEY_SIZE + hpke.OVERHEAD, max_length=KEY_SIZE + hpke.OVERHEAD)]
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class Digests(_Note, frozen=True, tag="digests"):
    """Site: the categories under the key."""

    session: _Session
    digests: Annotated[tuple[Digest, ...], Meta(min_length=len(Category), max_length=len(Category))]


class Verdicts(_Note, frozen=True, tag="verdicts"):
    """Coordinator: for each category, who is the same as whom: sites of one number are."""

    session: _Session
    sites: Annotated[tuple[Name, ...], Meta(max_length=1024)]
    groups: Annotated[tuple[tuple[int, ...], ...], Meta(min_length=len(Category), max_length=len(Category))]


Agreement = Inquiry | Begin | KeyShare | Digests | Verdicts
AGREEMENTS: Final[Notes[Agreement]] = Notes("fedsecure/agreement/v1", Agreement, _MAXIMUM)


def share_key(key: bytes, session: bytes, me: str, identity: Identity, roster: Roster, reader: str) -> KeyShare:
    """The key, sealed to one site and signed, addressed to the coordinator who relays it."""
    sealed = hpke.seal(roster.members[reader].sealing, key, _bound(session, me, reader))
    signature = identity.sign(_KEY_LABEL, prefixed(_bound(session, me, reader), sealed))
    return KeyShare(me, roster.coordinator, session, me, reader, sealed, signature)


def open_key(share: KeyShare, session: bytes, me: str, identity: Identity, roster: Roster) -> bytes:
    """The key. Raises a FaultyPeer: what is not a site's own for this session could be a key that the relay knows."""
    if share.author not in roster.sites or share.session != session:
        raise Malformed(roster.coordinator, "a key is a site's, of the session that is open")
    if share.reader != me:
        raise WrongRecipient(roster.coordinator, "a key is relayed to whom it is sealed to")
    try:
        data = prefixed(_bound(session, share.author, me), share.sealed)
        roster.members[share.author].verify(_KEY_LABEL, data, share.signature)
    except InvalidSignature:
        raise BadSignature(roster.coordinator, "a key is signed by the site that drew it") from None
    try:
        return hpke.open_(identity, share.sealed, _bound(session, share.author, me))
    except CannotOpen:
        raise CannotDecrypt(share.author, "a key opens for whom it is sealed to") from None


def digests(key: bytes, session: bytes, values: Mapping[Category, str]) -> tuple[bytes, ...]:
    """An HMAC-SHA-256 for each category, in order."""
    return tuple(
        hmac.digest(key, prefixed(_DIGEST_LABEL, session, category.encode(), values[category].encode()), hashlib.sha256)
        for category in Category
    )


def grouped(sent: Mapping[str, tuple[bytes, ...]]) -> tuple[tuple[int, ...], ...]:
    """For each category a number for each site, in the order of their names: the same number, the same HMAC."""
    groups = []
    for number in range(len(Category)):
        column = [sent[site][number] for site in sorted(sent)]
        groups.append(tuple(column.index(digest) for digest in column))
    return tuple(groups)


def _bound(session: bytes, author: str, reader: str) -> bytes:
    return prefixed(_KEY_LABEL, session, author.encode(), reader.encode())
