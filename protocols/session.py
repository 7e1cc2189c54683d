"""A session: frames cut into chunks of 1 MiB, each encrypted, sent only as far as the receiver has granted.

    packet = header (29 bytes) || AES-256-GCM ciphertext and tag (16 bytes)
    header = type (1) || session (8) || counter (8) || size (8) || index (4), integers big-endian

The header is the associated data, the counter the nonce. Each direction has a key and a counter of its own, and no gap
is let pass: an altered, cut, repeated, exchanged or missing packet ends in an error and never in a frame.
A pure state machine: no sockets, no clock, no randomness. Packets go out of and content comes into buffers that all
sessions of an endpoint share, so that a frame costs no memory beside itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import CannotDecrypt, FaultyPeer, Incomplete, Malformed, Oversize, Replayed, UnexpectedMessage
from protocols.handshake import SessionKeys

CHUNK_TYPE: Final = 3  # first byte of a packet
CREDIT_TYPE: Final = 4
CHUNK: Final = 1 << 20  # bytes of a frame in one packet; only a frame's last chunk has fewer
WINDOW: Final = 8  # chunks that may be on their way beyond those received
HEADER: Final = Struct(">B8sQQI")  # type, session, counter, size, index
TAG: Final = 16
MAXIMUM_PACKET: Final = HEADER.size + CHUNK + TAG
_PACKETS: Final = 2**32  # of one direction under one key: NIST SP 800-38D, 8.3


@dataclass(frozen=True, slots=True, repr=False)
class Buffers:
    """Room for one packet on its way out and one chunk on its way in. For use from one thread at a time."""

    packet: bytearray = field(default_factory=lambda: bytearray(MAXIMUM_PACKET))
    chunk: bytearray = field(default_factory=lambda: bytearray(CHUNK))


class Session:
    """One end's view of both directions. `broken` once the peer was seen to break the order: begin a new session."""

    def __init__(self, keys: SessionKeys, *, peer: str, to_coordinator: bool, maximum: int, buffers: Buffers) -> None:
        """to_coordinator: whether this end is the site; maximum: bytes of a frame taken in."""
        out, inward = (keys.to_coordinator, keys.to_site) if to_coordinator else (keys.to_site, keys.to_coordinator)
        self.id = keys.id
        self.broken = False
        self._peer = peer
        self._maximum = maximum
        self._buffers = buffers
        self._seal, self._open = AESGCM(out), AESGCM(inward)
        # Out: packets and chunks sealed, chunks that the peer allows, and the frame that is being cut.
        self._sealed, self._sent, self._limit = 0, 0, WINDOW
        self._frame: bytes | None = None
        self._index = 0
        # In: packets and chunks opened, chunks allowed, what is granted and not told yet, and the frame in the making.
        self._opened, self._received, self._granted = 0, 0, WINDOW
        self._owes_credit = False
        self._arriving: BytesIO | None = None
        self._size = 0
        self._next = 0

    # --- out ---

    @property
    def unfinished(self) -> bytes | None:
        """The frame that is being cut into chunks: the peer cannot have it yet."""
        return self._frame

    @property
    def spent(self) -> bool:
        """Whether it has sealed all the packets that it may: a new session has to take its place."""
        return self._sealed >= _PACKETS

    @property
    def quiet(self) -> bool:
        """Whether nothing waits to be sealed but what `begin` would bring."""
        return self._frame is None and not self._owes_credit

    def begin(self, frame: bytes) -> None:
        """Hand over the next frame. Raises RuntimeError if the one before is not through."""
        if self._frame is not None:
            raise RuntimeError("one frame after the other")
        self._frame, self._index = frame, 0

    def confirm(self) -> None:
        """Have the next packet prove to the peer that this end has the keys."""
        self._owes_credit = True

    def next_packet(self) -> memoryview | None:
        """The next packet, good until the next call on any session with these buffers; None if there is none now."""
        if self.broken or self.spent:
            return None
        if self._owes_credit:
            self._owes_credit = False
            return self._packet(CREDIT_TYPE, self._granted, 0, memoryview(b""))
        if self._frame is None or self._sent >= self._limit:
            return None
        start = self._index * CHUNK
        packet = self._packet(CHUNK_TYPE, len(self._frame), self._index, memoryview(self._frame)[start : start + CHUNK])
        self._sent += 1
        self._index += 1
        if start + CHUNK >= len(self._frame):
            self._frame = None
        return packet

    def _packet(self, kind: int, size: int, index: int, content: memoryview) -> memoryview:
        end = HEADER.size + len(content) + TAG
        packet = memoryview(self._buffers.packet)[:end]
        HEADER.pack_into(packet, 0, kind, self.id, self._sealed, size, index)
        header = bytes(packet[: HEADER.size])
        self._seal.encrypt_into(_nonce(self._sealed), content, header, packet[HEADER.size :])
        self._sealed += 1
        return packet

    # --- in ---

    def receive(self, packet: bytes | memoryview) -> bytes | None:
        """Take one packet of this session; returns the frame that it completes.

        Raises a FaultyPeer: Oversize, Malformed, Replayed or CannotDecrypt for a packet of whoever, which changes
        nothing; Incomplete, Oversize, Malformed or UnexpectedMessage for one that the peer did seal, which breaks the
        session.
        """
        if self.broken:
            raise UnexpectedMessage(self._peer, "nothing follows in a session that has ended")
        if len(packet) > MAXIMUM_PACKET:
            raise Oversize(self._peer, f"a packet has at most {MAXIMUM_PACKET} bytes")
        if len(packet) < HEADER.size + TAG:
            raise Malformed(self._peer, "the bytes are not a packet of a session")
        kind, session, counter, size, index = HEADER.unpack_from(packet)
        if session != self.id or kind not in (CHUNK_TYPE, CREDIT_TYPE):
            raise Malformed(self._peer, "the bytes are not a packet of this session")
        if counter < self._opened:
            raise Replayed(self._peer, "a packet's counter is above that of the packet before it")
        content = memoryview(self._buffers.chunk)[: len(packet) - HEADER.size - TAG]
        view = memoryview(packet)
        try:
            self._open.decrypt_into(_nonce(counter), view[HEADER.size :], bytes(view[: HEADER.size]), content)
        except InvalidTag:
            raise CannotDecrypt(self._peer, "a packet is sealed under the keys of its session") from None
        try:
            if counter != self._opened:
                raise Incomplete(self._peer, "no packet of a session is left out")
            self._opened += 1
            if kind == CHUNK_TYPE:
                return self._chunk(size, index, content)
            self._credit(size, index, content)
        except FaultyPeer:
            self.broken = True
            self._arriving = self._frame = None
            raise
        return None

    def _chunk(self, size: int, index: int, content: memoryview) -> bytes | None:
        if self._received >= self._granted:
            raise UnexpectedMessage(self._peer, "no chunk is sent that was not granted")
        if index == 0 and self._arriving is None:
            if size > self._maximum:
                raise Oversize(self._peer, f"a frame has at most {self._maximum} bytes here")
            self._arriving, self._size, self._next = BytesIO(), size, 0
        if self._arriving is None or index != self._next or size != self._size:
            raise Incomplete(self._peer, "the chunks of a frame come in order and all of them")
        if len(content) != min(CHUNK, size - index * CHUNK):
            raise Malformed(self._peer, "a chunk has 1 MiB, or the rest of its frame")
        self._received += 1
        if self._granted - self._received <= WINDOW // 2:
            self._granted = self._received + WINDOW
            self._owes_credit = True
        # Grows with what has come and not with what was announced, and gives up its bytes without a copy.
        self._arriving.write(content)
        self._next += 1
        if self._next * CHUNK < size:
            return None
        frame, self._arriving = self._arriving.getvalue(), None
        return frame

    def _credit(self, limit: int, index: int, content: memoryview) -> None:
        if index or content:
            raise Malformed(self._peer, "a credit has no content")
        if not self._limit <= limit <= self._sent + WINDOW:
            raise UnexpectedMessage(self._peer, "a credit rises, to at most the window beyond what was sent")
        self._limit = limit

    def __repr__(self) -> str:
        return f"Session({self.id.hex()}, {self._peer})"


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")
