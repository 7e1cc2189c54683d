"""Sealing to one member: HPKE, RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.

Base mode says nothing about who sealed; whoever needs that signs around it (`protocols.seal` does).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from keys.errors import CannotOpen
from keys.identity import Identity

OVERHEAD = 48  # bytes: 32 of the encapsulated key before the ciphertext, 16 of its tag

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def seal(recipient: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encapsulated key and ciphertext for the owner of the public sealing key `recipient`. `info` binds the context."""
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(recipient), info)


def open_(identity: Identity, ciphertext: bytes, info: bytes) -> bytes:
    """Inverse of `seal`. Raises CannotOpen on another identity, another `info` or altered bytes."""
    try:
        return _SUITE.decrypt(ciphertext, identity.sealing_key, info)
    except (InvalidTag, ValueError):
        raise CannotOpen("not sealed to this identity under this context") from None
