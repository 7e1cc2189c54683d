"""Short-lived keys that hold while X25519 or ML-KEM-768 (FIPS 203) does: what is recorded today, a quantum computer
may read otherwise.

Both keys come from one seed of 32 bytes, so that whoever is given the seed has all of them (secure aggregation shares
mask seeds out). Sealing is HPKE (RFC 9180), base mode, with X-Wing (ML-KEM-768 and X25519, 0x647a), HKDF-SHA256 and
AES-256-GCM.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from keys.errors import CannotOpen
from keys.kdf import derive

SEED_SIZE: Final = 32
PUBLIC_SIZE: Final = 1184 + 32  # ML-KEM-768, then X25519
OVERHEAD: Final = 1088 + 32 + 16  # encapsulations in the same order, and the tag behind the ciphertext

_KEM_SIZE: Final = 1184
_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class HybridKey:
    """A private key of both kinds. Raises ValueError unless `seed` has 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise ValueError(f"a seed has {SEED_SIZE} bytes")
        self._kem = MLKEM768PrivateKey.from_seed_bytes(derive(seed, b"fedsecure/hybrid/ml-kem-768/v1", size=64))
        self._dh = X25519PrivateKey.from_private_bytes(derive(seed, b"fedsecure/hybrid/x25519/v1"))
        self.public = self._kem.public_key().public_bytes_raw() + self._dh.public_key().public_bytes_raw()

    def open(self, ciphertext: bytes, info: bytes) -> bytes:
        """Inverse of `seal`. Raises CannotOpen on another key, another `info` or altered bytes."""
        try:
            return _SUITE.decrypt(ciphertext, MLKEM768X25519PrivateKey(self._kem, self._dh), info)
        except (InvalidTag, ValueError):
            raise CannotOpen("not sealed to this key under this context") from None

    def exchange(self, public: bytes) -> bytes:
        """X25519 alone with the other's public key; 32 bytes. Raises ValueError if it is of low order."""
        return self._dh.exchange(X25519PublicKey.from_public_bytes(public[_KEM_SIZE:]))

    def __repr__(self) -> str:
        return "HybridKey(...)"


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Encapsulations, ciphertext and tag for the owner of `public`. Raises ValueError if `public` is no key."""
    return _SUITE.encrypt(plaintext, _public(public), info)


def require_sound(public: bytes) -> None:
    """Raises ValueError unless `public` is a key of both kinds that contributes to what is agreed with it."""
    _public(public)
    # Clamping makes every private key a multiple of the cofactor, so that one private key tells for all.
    X25519PrivateKey.from_private_bytes(bytes(32)).exchange(X25519PublicKey.from_public_bytes(public[_KEM_SIZE:]))


def _public(public: bytes) -> MLKEM768X25519PublicKey:
    if len(public) != PUBLIC_SIZE:
        raise ValueError(f"a hybrid public key has {PUBLIC_SIZE} bytes")
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:_KEM_SIZE]),
        X25519PublicKey.from_public_bytes(public[_KEM_SIZE:]),
    )
