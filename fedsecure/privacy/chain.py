"""What a ledger's rows say, and how each follows from the rows before.

    row i:  head_i = SHA-256("fedsecure/ledger/v1" || head_(i-1) || body_i)        body: JSON of one entry

Entries are `Opened` (a study, its cap and the patients in it), `Charged` (releases), `Withdrawn` (a patient leaves a
study) and `Everyone` (the site's cap over all studies). A meaning that is new is a new class; what is not known does
not parse.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from fedsecure.errors import GateRefused
from fedsecure.privacy.events import Event

_LABEL: Final = b"fedsecure/ledger/v1\0"
FIRST: Final = bytes(32)  # the head of an empty ledger


class LedgerBroken(GateRefused):
    """The ledger is not the one that was written: changed, cut off, or an older copy. No release until it is back."""


class Cap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that may be spent: epsilon at this total delta."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        # Written so that what is not a number is refused as well: compared with it, every cost is within the cap.
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1):
            raise ValueError("a cap is a finite epsilon above 0 at a delta between 0 and 1: write others, or no cap")


class Opened(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A study began. cap None: no guarantee is asked for. cohort: digest of its patients' tokens, sorted."""

    study: str
    cap: Cap | None
    cohort: str
    patients: int


class Charged(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """One message and all that is in it. message: hex digest of its bytes."""

    study: str
    stage: int
    round: int
    message: str
    events: tuple[Event, ...]


class Withdrawn(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """From here on this patient has no part in the study. What was released before stays released."""

    study: str
    token: str


class Everyone(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """From here on, the site's own cap for any one patient over all studies; until another one stands here."""

    cap: Cap


Entry = Opened | Charged | Withdrawn | Everyone
_ENTRIES: Final[msgspec.json.Decoder[Entry]] = msgspec.json.Decoder(Entry)


class Head(NamedTuple):
    """State of a chain: how many rows, and the last one's hash."""

    size: int
    digest: bytes


def encode(entry: Entry) -> bytes:
    """The body of an entry's row. Raises LedgerBroken for what would not be the same entry when it is read again."""
    body = msgspec.json.encode(entry)
    if decode(body) != entry:
        raise LedgerBroken("an entry that would not be read back as it was written: nothing was")
    return body


def decode(body: bytes) -> Entry:
    """Inverse of `encode`. Raises LedgerBroken for a body that is no entry known here."""
    try:
        return _ENTRIES.decode(body)
    except msgspec.MsgspecError:
        raise LedgerBroken("a row of the ledger is no entry that is known") from None


def after(head: Head, body: bytes) -> Head:
    """The head of a chain with one more row."""
    return Head(head.size + 1, hashlib.sha256(_LABEL + head.digest + body).digest())


def token_of(patient: str) -> str:
    """A patient in the ledger: the hash of an id that is opaque already (keyed by a secret of the site)."""
    return hashlib.sha256(b"fedsecure/ledger/patient/v1\0" + patient.encode()).hexdigest()


def cohort_of(tokens: Sequence[str]) -> str:
    """Digest of a study's patients, by their sorted tokens."""
    return hashlib.sha256(b"fedsecure/ledger/cohort/v1\0" + "".join(tokens).encode()).hexdigest()
