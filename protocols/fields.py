"""The fields that messages are made of, each with its bounds, and the one way a struct is encoded.

Structs are checked when they are decoded and when they are encoded (`protocols.codec`), not when they are made.
Their `repr` is their name: fields hold model updates and ciphertext.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

from keys.encoding import NAME_PATTERN
from keys.identity import SIGNATURE_SIZE

FLOAT_SIZE = 4
MAXIMUM_MEMBERS = 1024

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Count = Annotated[int, Meta(ge=0, lt=2**31)]  # of stages, rounds, boots
CountOrNone = Annotated[int, Meta(ge=-1, lt=2**31)]  # -1: before the first
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]  # SHA-256
Signature = Annotated[bytes, Meta(min_length=SIGNATURE_SIZE, max_length=SIGNATURE_SIZE)]


class Wire(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Encoded as an array of its fields in order; a message has its tag in front."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def require_floats(raw: bytes) -> None:
    """Raises ValueError unless `raw` is whole float32 values."""
    if len(raw) % FLOAT_SIZE:
        raise ValueError("not a whole number of float32 values")


def require_ascending(values: Sequence[str] | Sequence[int]) -> None:
    """Raises ValueError unless each is greater than the one before: sorted, and none twice."""
    if any(not first < second for first, second in pairwise(values)):  # type: ignore[operator]  # all str or all int
        raise ValueError("not in ascending order, each once")
