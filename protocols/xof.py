"""The mask generator: AES-256-CTR keystream, at the speed of AES.

A fresh output buffer costs six times what AES does, so that one buffer is reused for all masks and chunks. The counter
begins at 0: a key masks one vector once (SPEC.md), and is derived for that one use.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

CHUNK: Final = 1 << 20  # bytes: the measured optimum of one keystream call
SLACK: Final = 15  # bytes that `update_into` wants behind the output: a block less one

_ZEROS: Final = memoryview(bytes(CHUNK))


def keystream_buffer(size: int) -> bytearray:
    """A buffer for up to `size` bytes of keystream at a time."""
    return bytearray(size + SLACK)


class Keystream:
    """The bytes AES-256-CTR(key, counter from 0) of zeros, from the first on."""

    def __init__(self, key: bytes) -> None:
        """key: 32 bytes, else ValueError."""
        self._cipher = Cipher(AES256(key), CTR(bytes(16))).encryptor()

    def next_into(self, buffer: bytearray, size: int) -> None:
        """The next `size` bytes, at most CHUNK, into the front of a `keystream_buffer`."""
        self._cipher.update_into(_ZEROS[:size], buffer)

    def __repr__(self) -> str:
        return "Keystream()"
