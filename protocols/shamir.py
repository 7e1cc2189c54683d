"""Shamir's secret sharing (CACM 1979) over a prime field, with plain integers.

The prime is the smallest above 2^256: a secret of 32 bytes is a field element as it is. A share of a secret is the
value of a random polynomial of degree t - 1 at the holder's point; any t of them give the polynomial's value at 0,
fewer are independent of it. Tests pass small primes, in which every case can be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

PRIME: Final = 2**256 + 297
SECRET_SIZE: Final = 32
SHARE_SIZE: Final = 33
_EXCESS: Final = 16  # bytes more than the field has, so that a draw modulo the prime is uniform but for 2^-128


def split(
    secret: int, points: Iterable[int], threshold: int, entropy: Callable[[int], bytes], prime: int = PRIME
) -> dict[int, int]:
    """One share for each point. Raises ValueError if points repeat, are 0 modulo the prime, or too few."""
    at = _distinct(points, prime)
    if not 1 <= threshold <= len(at):
        raise ValueError("a threshold is from 1 to the number of shares")
    if not 0 <= secret < prime:
        raise ValueError("a secret is an element of the field")
    size = (prime.bit_length() + 7) // 8 + _EXCESS
    polynomial = [secret] + [int.from_bytes(entropy(size), "big") % prime for _ in range(threshold - 1)]
    return {x: _value(polynomial, x, prime) for x in at}


def combine(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """The value at 0 of the polynomial through all of `shares` (Lagrange). Whether it is the secret, `combine` cannot
    tell: the caller compares it with what the secret's owner committed to."""
    total = 0
    points = _distinct(shares, prime)
    for x in points:
        numerator, denominator = 1, 1
        for other in points:
            if other != x:
                numerator = numerator * other % prime
                denominator = denominator * (other - x) % prime
        total += shares[x] * numerator * pow(denominator, -1, prime)
    return total % prime


def share_bytes(share: int) -> bytes:
    """33 bytes, big-endian."""
    return share.to_bytes(SHARE_SIZE, "big")


def parse_share(raw: bytes) -> int:
    """Inverse of `share_bytes`. Raises ValueError on another length or a value outside the field."""
    share = int.from_bytes(raw, "big")
    if len(raw) != SHARE_SIZE or share >= PRIME:
        raise ValueError("a share is an element of the field in 33 bytes")
    return share


def secret_bytes(secret: int) -> bytes:
    """32 bytes. Raises ValueError for one of the 297 elements that are no secret: shares of nobody's secret."""
    if not 0 <= secret < 2**256:
        raise ValueError("not a secret of 32 bytes")
    return secret.to_bytes(SECRET_SIZE, "big")


def _value(polynomial: list[int], x: int, prime: int) -> int:
    result = 0
    for coefficient in reversed(polynomial):  # Horner
        result = (result * x + coefficient) % prime
    return result


def _distinct(points: Iterable[int], prime: int) -> list[int]:
    at = list(points)
    reduced = {x % prime for x in at}
    if len(reduced) != len(at) or 0 in reduced:
        raise ValueError("points are different and not 0: a share at 0 is the secret")
    return at
