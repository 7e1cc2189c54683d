"""Keys from secrets: HKDF (RFC 5869) with SHA-256. Every derived key has a label and binds whatever it is for."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.encoding import prefixed

KEY_SIZE: Final = 32


def derive(secret: bytes, label: bytes, *context: bytes, size: int = KEY_SIZE) -> bytes:
    """`size` bytes for the use `label` in this context. Without salt: `secret` is uniform, or hashed by extraction.

    label, context: each length-prefixed, so that two lists of them never give one key.
    """
    return HKDF(SHA256(), size, None, prefixed(label, *context)).derive(secret)
