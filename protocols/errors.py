"""Errors by blame. All of them are about what a peer sent; a wrong argument of ours is a ValueError.

    ProtocolError
    └── FaultyPeer              `peer` broke `rule`
        ├── UnknownPeer         is not in the roster, or is oneself
        ├── Oversize            sent more than the receiver takes
        ├── Malformed           sent bytes that are not exactly one valid encoding
        ├── WrongStudy          speaks of another study
        ├── WrongSender         put another's name where its own belongs
        ├── WrongRecipient      sent something to one it was not made for
        ├── BadSignature        sent something its claimed author did not sign
        ├── BadDigest           sent a body that is not the one its header announces
        ├── Replayed            sent something that was received before
        ├── UnexpectedMessage   sent what its role, stage or round does not allow
        └── CannotDecrypt       sealed something so that its recipient cannot open it

Blame is only as good as the transport: `peer` is the name it authenticated. What a relay passes on without checking is
the relay's fault, until a signature proves the author's.
The text is the peer and the rule, never content: what a peer sent could be a secret, or written to mislead a log.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A received frame or box broke the protocol. Nothing of it was used and no state has changed."""

    def __init__(self, peer: str, rule: str) -> None:
        super().__init__(f"{peer}: {rule}")
        self.peer = peer
        self.rule = rule


class FaultyPeer(ProtocolError):
    """`peer` broke `rule`."""


class UnknownPeer(FaultyPeer):
    """Not a member of the roster, or the receiver itself."""


class Oversize(FaultyPeer):
    """Larger than the receiver takes; refused before anything is decoded."""


class Malformed(FaultyPeer):
    """Not exactly one canonical encoding of one valid message."""


class WrongStudy(FaultyPeer):
    """Another study's: the peer holds another study file, or replays from an earlier study."""


class WrongSender(FaultyPeer):
    """The author named is not the peer that delivered it. Accepting it would let one site speak as another."""


class WrongRecipient(FaultyPeer):
    """Made for somebody else. Accepting it would let a frame to one member be reflected to another."""


class BadSignature(FaultyPeer):
    """The author named did not sign this in this place."""


class BadDigest(FaultyPeer):
    """The body is not the one that the signed header announces."""


class Replayed(FaultyPeer):
    """Its number is not above the last one received."""


class Incomplete(FaultyPeer):
    """A packet or a chunk of a frame is missing, or out of its order: the session ends and a new one begins."""


class WrongRoster(FaultyPeer):
    """Acts on another roster: one of the two has not accepted the newest."""


class UnexpectedMessage(FaultyPeer):
    """A valid message that this peer may not send, or not here."""


class CannotDecrypt(FaultyPeer):
    """A signed box, or a packet of a session, that does not open."""
