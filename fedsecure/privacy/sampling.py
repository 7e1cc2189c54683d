"""Poisson sampling: each patient takes part in a step with chance q, independently of all others, unseen by anybody.

Amplification by sampling holds for exactly this: a batch of fixed size, a shuffled pass, or a draw that the coordinator
could repeat (the study's seed is public) gives none of it. So the draws come from a secret of the site that nothing
else is derived from, and the size of a batch, which varies, is not released either.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32


class PoissonSampler:
    """Draws of one study at one site. The same step drawn again is the same draw, so that a replayed round is one."""

    def __init__(self, secret: bytes, study: bytes, rate: float) -> None:
        """secret: SECRET_BYTES from the operating system, kept on the site; study: digest of the study; rate: q.

        Raises ValueError if `rate` is no chance.
        """
        if not 0 < rate <= 1:
            raise ValueError("a sampling rate lies above 0 and at most at 1")
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"the sampling secret has {SECRET_BYTES} bytes")
        self._secret, self._study = secret, study
        self.rate = rate
        # Rounded down: the rate that is drawn at is never above the one that is charged.
        self._below = math.floor(rate * 2**64)

    def draw(self, patients: int, stage: int, round_: int, step: int) -> npt.NDArray[np.intp]:
        """Positions, ascending, of those of 0..patients-1 who take part in this step. May be empty."""
        info = b"fedsecure/poisson/v1\0" + self._study + b"".join(n.to_bytes(4, "big") for n in (stage, round_, step))
        key = HKDF(SHA256(), 32, salt=None, info=info).derive(self._secret)
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        words = np.frombuffer(stream.update(bytes(8 * patients)), "<u8")
        if self._below == 2**64:
            return np.arange(patients)
        return np.flatnonzero(words < np.uint64(self._below))

    def __repr__(self) -> str:
        return f"PoissonSampler(rate={self.rate})"
