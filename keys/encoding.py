"""How values become the bytes that are signed, hashed or bound: no two different inputs give the same bytes."""

from __future__ import annotations

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def prefixed(*parts: bytes) -> bytes:
    """Every part preceded by its length in 4 bytes, big-endian, so that ("ab", "c") is not ("a", "bc")."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def u64(number: int) -> bytes:
    """8 bytes, big-endian. Raises OverflowError outside 0..2^64-1."""
    return number.to_bytes(8, "big")


def z85(raw: bytes) -> str:
    """ZeroMQ's text form of a key (RFC 32/Z85): every 4 bytes become 5 characters. `len(raw)` is a multiple of 4."""
    if len(raw) % 4:
        raise ValueError("Z85 encodes multiples of 4 bytes")
    text: list[str] = []
    for start in range(0, len(raw), 4):
        value = int.from_bytes(raw[start : start + 4], "big")
        text.extend(_Z85[value // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return "".join(text)
