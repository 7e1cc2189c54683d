"""Secrets at rest that a later thief cannot read: every round has a key of its own, and old keys are gone.

    key of round i + 1 = HKDF(key of round i)        one way: the key of a round says nothing about those before it

The caller stores the ratchet anew after every `advance`, over the old one. What a backup still holds of an earlier
round's secrets is then sealed under a key that no longer exists, unless the backup holds that round's ratchet as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys.encoding import prefixed, u64
from keys.errors import CannotOpen
from keys.kdf import KEY_SIZE, derive

_NONCE: Final = 12
_NEXT: Final = b"fedsecure/ratchet/next/v1"
_SEAL: Final = b"fedsecure/ratchet/seal/v1"


@dataclass(frozen=True, repr=False)
class Ratchet:
    """key: 32 bytes; step: how often it advanced."""

    key: bytes
    step: int = 0

    @classmethod
    def begin(cls, entropy: Callable[[int], bytes]) -> Self:
        return cls(entropy(KEY_SIZE))

    def advance(self) -> Ratchet:
        """The next round's. Store it in place of this one before the round begins."""
        return Ratchet(derive(self.key, _NEXT, u64(self.step)), self.step + 1)

    def seal(self, plaintext: bytes, context: bytes, entropy: Callable[[int], bytes]) -> bytes:
        """AES-256-GCM under this step's key with a fresh nonce in front. `context` names what it is."""
        nonce = entropy(_NONCE)
        return nonce + AESGCM(self._sealing).encrypt(nonce, plaintext, prefixed(_SEAL, u64(self.step), context))

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Inverse of `seal`. Raises CannotOpen at another step, for another context, or if altered."""
        data = prefixed(_SEAL, u64(self.step), context)
        try:
            return AESGCM(self._sealing).decrypt(sealed[:_NONCE], sealed[_NONCE:], data)
        except (InvalidTag, ValueError):
            raise CannotOpen("not sealed at this step of the ratchet, or altered") from None

    @property
    def _sealing(self) -> bytes:
        return derive(self.key, _SEAL, u64(self.step))

    def __repr__(self) -> str:
        return f"Ratchet(step={self.step})"
