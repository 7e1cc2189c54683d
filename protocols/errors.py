"""Errors by blame. All of them are about what a peer sent; a wrong argument of ours is a ValueError.

    ProtocolError
    ├── TooFew                  nobody's fault: fewer sites are left than a sum needs
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
        ├── CannotDecrypt       sealed something so that its recipient cannot open it
        ├── BelowFloor          asks for less than this site takes part in
        ├── Inconsistent        says one thing here and another elsewhere
        ├── BadShare            passed on a share, or dealt one, that is not what its dealer committed to
        └── Spent               asks for what was given before, and is given once

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


class BelowFloor(FaultyPeer):
    """Fewer sites, a lower threshold or more rounds than the site's own settings allow."""


class Inconsistent(FaultyPeer):
    """What it says does not agree with what it, or others in whose name it speaks, said elsewhere."""


class BadShare(FaultyPeer):
    """A share, or a secret put together from shares, that its dealer's commitment does not fit."""


class Spent(FaultyPeer):
    """A keyset masks one vector, and the updates to one model are opened once. Again would be a difference of sums."""


class TooFew(ProtocolError):
    """Fewer than `least` sites are left at `step`: the sum is not made, nothing of it is opened, nobody is to blame."""

    def __init__(self, step: str, left: int, least: int) -> None:
        super().__init__("nobody", f"{step} needs {least} sites, {left} are left")
        self.step, self.left, self.least = step, left, least
