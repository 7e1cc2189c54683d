"""Sealing: how a message becomes a frame, and content a box. Only the gate and the adversary may import this."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys import hpke
from keys.identity import Identity, PublicIdentity
from protocols.box import BOX_LABEL, NONCE, BoxContext
from protocols.codec import encode
from protocols.envelope import FRAME_LABEL, Header, header_bytes, join
from protocols.messages import CONTENT_KEY_SIZE, Message, SealedBox, Wrap, kind_of

BOOTS = 2**31
FRAMES_PER_BOOT = 2**32


class Sealer:
    """One member's pen in one study. Numbers rise with every frame; `boot` must rise with every start of the node."""

    def __init__(
        self, identity: Identity, name: str, study: bytes, boot: int, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        """`entropy` is for tests, which pass a tape; production wiring leaves it out."""
        if not 0 <= boot < BOOTS:
            raise ValueError(f"boot is 0 to {BOOTS - 1}")
        self._identity = identity
        self._name = name
        self._study = study
        self._boot = boot
        self._entropy = entropy
        self._counter = itertools.count(1)

    def seal(self, recipient: str, message: Message) -> bytes:
        """A signed frame with the next number. Raises ValueError if the message is out of bounds.

        To repeat a message, seal it again: the receiver refuses a number that it has passed.
        """
        body = encode(message)
        header = Header(
            version=1,
            kind=kind_of(message),
            study=self._study,
            sender=self._name,
            recipient=recipient,
            seq=self._next_seq(),
            length=len(body),
            digest=hashlib.sha256(body).digest(),
        )
        raw = header_bytes(header)
        return join(raw, self._identity.sign(FRAME_LABEL, raw), body)

    def box(self, recipients: Mapping[str, PublicIdentity], plaintext: bytes, stage: int, round: int) -> SealedBox:  # noqa: A002  the method's word
        """Content for several members. Fresh key, never the same box twice: keep it to repeat it.

        Raises ValueError without recipients.
        """
        if not recipients:
            raise ValueError("a box has at least one recipient")
        context = BoxContext(self._study, stage, round, self._name)
        content_key = self._entropy(CONTENT_KEY_SIZE)
        ciphertext = AESGCM(content_key).encrypt(NONCE, plaintext, context.associated_data(recipients))
        digest = hashlib.sha256(ciphertext).digest()
        wraps = tuple(
            Wrap(name, hpke.seal(recipients[name].sealing, content_key, context.key_info(name, digest)))
            for name in sorted(recipients)
        )
        signature = self._identity.sign(BOX_LABEL, context.signed_data(digest, wraps))
        return SealedBox(self._name, ciphertext, wraps, signature)

    def _next_seq(self) -> int:
        counter = next(self._counter)
        if counter >= FRAMES_PER_BOOT:
            raise RuntimeError("this start of the node has sealed all the frames it may; restart it")
        return self._boot << 32 | counter

    def __repr__(self) -> str:
        return f"Sealer({self._name})"
