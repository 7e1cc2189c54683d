"""A second, slow implementation of secure aggregation, that follows protocols/secagg/SPEC.md and nothing else.

Plain Python integers, the standard library, and of `cryptography` AES, AES-GCM, X25519, ML-KEM-768, Ed25519; HKDF, HPKE
with X-Wing, Shamir's shares, the graph and the packing are written out. It imports nothing of the packages it checks.
From what the coordinator saw of a sum it puts the sum together again, or refuses.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

PRIME = 2**256 + 297


class Refused(Exception):
    """What was said breaks a rule of SPEC.md."""


def need(condition: object, rule: str) -> None:
    if not condition:
        raise Refused(rule)


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(prefixed(*parts)).digest()


def derive(secret: bytes, label: bytes, *context: bytes, size: int = 32) -> bytes:
    """HKDF-SHA256, RFC 5869, without salt."""
    key = hmac.digest(bytes(32), secret, "sha256")
    out, block = b"", b""
    for counter in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + prefixed(label, *context) + bytes([counter]), "sha256")
        out += block
    return out[:size]


def verify(public: bytes, label: bytes, data: bytes, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, prefixed(label, data))
    except InvalidSignature:
        raise Refused("signature") from None


# MessagePack, of it what digests are taken over.


def pack(value: Any) -> bytes:
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        for first, width, top in ((None, 1, 0x7F), (0xCC, 1, 0xFF), (0xCD, 2, 0xFFFF), (0xCE, 4, 2**32 - 1)):
            if 0 <= value <= top:
                return (b"" if first is None else bytes([first])) + value.to_bytes(width, "big")
    if isinstance(value, str):
        raw = value.encode("ascii")
        return (bytes([0xA0 + len(raw)]) if len(raw) < 32 else bytes([0xD9, len(raw)])) + raw
    if isinstance(value, bytes):
        for first, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4)):
            if len(value) < 256**width:
                return bytes([first]) + len(value).to_bytes(width, "big") + value
    if isinstance(value, list):
        head = bytes([0x90 + len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
        return head + b"".join(map(pack, value))
    raise Refused("a value that no message holds")


# Vectors.


def words(key: bytes, ring: int, length: int) -> list[int]:
    """The first words of a key's keystream: two bytes each for a ring of 16 bits, four for others."""
    width = 2 if ring == 16 else 4
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor().update(bytes(width * length))
    return [int.from_bytes(stream[at : at + width], "little") for at in range(0, len(stream), width)]


def masked(vector: Sequence[int], ring: int, plus: Sequence[bytes], minus: Sequence[bytes]) -> list[int]:
    out = list(vector)
    for sign, keys in ((1, plus), (-1, minus)):
        for key in keys:
            out = [value + sign * word for value, word in zip(out, words(key, ring, len(out)), strict=True)]
    return [value % 2**ring for value in out]


def pack_vector(vector: Sequence[int], ring: int) -> bytes:
    """One number, the first value in its lowest bits."""
    number = sum((value % 2**ring) << (ring * place) for place, value in enumerate(vector))
    return number.to_bytes((len(vector) * ring + 7) // 8, "little")


def unpack_vector(packed: bytes, ring: int, length: int) -> list[int]:
    need(len(packed) == (length * ring + 7) // 8, "length")
    number = int.from_bytes(packed, "little")
    need(number >> (ring * length) == 0, "filled up with zeros")
    return [(number >> (ring * place)) % 2**ring for place in range(length)]


def signed(vector: Sequence[int], ring: int) -> list[int]:
    return [value - 2**ring if value >= 2 ** (ring - 1) else value for value in vector]


# Shares.


def share(polynomial: Sequence[int], x: int, prime: int = PRIME) -> int:
    return sum(coefficient * x**power for power, coefficient in enumerate(polynomial)) % prime


def combine(shares: Mapping[int, int], prime: int = PRIME) -> int:
    total = 0
    for x, y in shares.items():
        term = y
        for other in shares:
            if other != x:
                term = term * other * pow(other - x, -1, prime) % prime
        total += term
    return total % prime


# Hybrid keys and HPKE (RFC 9180, base mode) with X-Wing, 0x647a. Section numbers are the RFC's.

XWING = b"\\.//^\\"
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x647A, 0x0001, 0x0002))


def hybrid(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    return (
        MLKEM768PrivateKey.from_seed_bytes(derive(seed, b"fedsecure/hybrid/ml-kem-768/v1", size=64)),
        X25519PrivateKey.from_private_bytes(derive(seed, b"fedsecure/hybrid/x25519/v1")),
    )


def public(seed: bytes) -> bytes:
    kem, dh = hybrid(seed)
    return kem.public_key().public_bytes_raw() + dh.public_key().public_bytes_raw()


def exchange(seed: bytes, other: bytes) -> bytes:
    return hybrid(seed)[1].exchange(X25519PublicKey.from_public_bytes(other[1184:]))


def xwing(kem_secret: bytes, dh_secret: bytes, dh_sent: bytes, dh_public: bytes) -> bytes:
    """The combiner: SHA3-256."""
    return hashlib.sha3_256(kem_secret + dh_secret + dh_sent + dh_public + XWING).digest()


def expand(prk: bytes, label: bytes, info: bytes, size: int) -> bytes:  # 4, LabeledExpand; size <= 32
    return hmac.digest(prk, size.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + info + b"\x01", "sha256")[:size]


def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:  # 4, LabeledExtract
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + SUITE + label + ikm, "sha256")


def schedule(shared: bytes, info: bytes) -> tuple[bytes, bytes]:  # 5.1, base mode
    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)


def hpke_open(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    kem, dh = hybrid(seed)
    kem_sent, dh_sent, ciphertext = sealed[:1088], sealed[1088:1120], sealed[1120:]
    shared = xwing(
        kem.decapsulate(kem_sent), dh.exchange(X25519PublicKey.from_public_bytes(dh_sent)), dh_sent,
        dh.public_key().public_bytes_raw(),
    )  # fmt: skip
    key, nonce = schedule(shared, info)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except InvalidTag:
        raise Refused("does not open") from None


def hpke_seal(kem_sent: bytes, kem_secret: bytes, ephemeral: bytes, to: bytes, plaintext: bytes, info: bytes) -> bytes:
    """With a given encapsulation: for frozen vectors, where the same bytes must come out again."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    dh_sent = private.public_key().public_bytes_raw()
    shared = xwing(kem_secret, private.exchange(X25519PublicKey.from_public_bytes(to[1184:])), dh_sent, to[1184:])
    key, nonce = schedule(shared, info)
    return kem_sent + dh_sent + AESGCM(key).encrypt(nonce, plaintext, b"")


# Keys of a sum.

L = b"fedsecure/secagg/"


def manifest_digest(manifest: list[Any]) -> bytes:
    return sha(L + b"manifest/v1", pack(manifest))


def keyset_digest(manifest: bytes, opening: bytes, advertised: Mapping[int, list[Any]]) -> bytes:
    """advertised: rank -> the message as an array, its tag in front."""
    entries = [
        part for r in sorted(advertised) for part in (u64(r), sha(L + b"advertise-keys/digest/v1", pack(advertised[r])))
    ]
    return sha(L + b"keyset/v1", manifest, opening, *entries)


def graph(ranks: Sequence[int], degree: int, keyset: bytes, opening: bytes) -> dict[int, set[int]]:
    if degree == 0 or len(ranks) <= degree + 1:
        return {rank: set(ranks) - {rank} for rank in ranks}
    circle = sorted(ranks, key=lambda rank: sha(L + b"graph/v1", keyset, opening, u64(rank)))
    edges: dict[int, set[int]] = {rank: set() for rank in ranks}
    for place, rank in enumerate(circle):
        for step in range(1, degree // 2 + 1):
            other = circle[(place + step) % len(circle)]
            edges[rank].add(other)
            edges[other].add(rank)
    return edges


def binding(manifest: list[Any], keyset: bytes) -> tuple[bytes, ...]:
    flows = prefixed(*(part for name, length in manifest[6] for part in (name.encode(), u64(length))))
    length = sum(length for _, length in manifest[6])
    return manifest_digest(manifest), flows, u64(manifest[7]), u64(length), u64(manifest[3]), keyset


def name_of(manifest: list[Any], rank: int) -> bytes:
    return manifest[8][rank][0].encode()


def self_key(manifest: list[Any], keyset: bytes, seed: bytes, rank: int) -> bytes:
    return derive(seed, L + b"mask/self/v1", *binding(manifest, keyset), name_of(manifest, rank))


def pair_key(
    manifest: list[Any], keyset: bytes, secret: bytes, rank: int, peer: int, peer_mask: bytes, sealed_offer: bytes
) -> bytes:
    """From the mask secret of `rank`."""
    low, high = sorted((rank, peer))
    place = (keyset, u64(low), u64(high))
    if rank == low:
        offered = derive(secret, L + b"offer/v1", *place)
    else:
        offered = hpke_open(secret, sealed_offer, prefixed(L + b"offer/v1", *place))
    names = name_of(manifest, low), name_of(manifest, high)
    return derive(exchange(secret, peer_mask) + offered, L + b"mask/pair/v1", *binding(manifest, keyset), *names)


def recovered(shares: Mapping[int, bytes], least: int) -> bytes:
    need(len(shares) >= least, "shares")
    used = sorted(shares)[:least]
    value = combine({rank + 1: int.from_bytes(shares[rank], "big") for rank in used})
    need(value < 2**256, "a secret")
    return value.to_bytes(32, "big")


def total(
    manifest: list[Any], opening: bytes, keys: Mapping[int, list[Any]], shares: Mapping[int, list[Any]],
    vectors: Mapping[int, bytes], answers: Mapping[int, list[Any]], signing: Mapping[int, bytes],
) -> list[int]:  # fmt: skip
    """The sum, from messages as arrays with their tags in front, by rank. signing: public Ed25519 keys by rank."""
    digest = manifest_digest(manifest)
    ring, least = manifest[7], manifest[12]
    keyset = keyset_digest(digest, opening, keys)
    edges = graph(sorted(keys), manifest[11], keyset, opening)
    entries: dict[tuple[int, int], list[Any]] = {}
    for rank, message in keys.items():
        verify(signing[rank], L + b"advertise-keys/v1", prefixed(digest, u64(rank), *message[3:6]), message[6])
    for dealer, message in shares.items():
        need(message[1] == keyset, "keyset")
        for entry in message[2]:
            need(entry[0] == dealer and entry[1] in edges[dealer] | {dealer}, "holder")
            data = prefixed(keyset, u64(entry[0]), u64(entry[1]), *entry[2:6])
            verify(signing[dealer], L + b"share-keys/v1", data, entry[6])
            entries[dealer, entry[1]] = entry
    given: dict[tuple[bytes, int], dict[int, bytes]] = {}
    for holder, message in answers.items():
        for which, place, held in ((b"seed", 4, message[2]), (b"key", 5, message[3])):
            for dealer, piece in held:
                committed = sha(L + b"share/commitment/v1", which, keyset, u64(dealer), u64(holder), piece)
                need(entries[dealer, holder][place] == committed, "commitment")
                need((which == b"seed") == (dealer in vectors), "one of two secrets")
                given.setdefault((which, dealer), {})[holder] = piece
    length = sum(length for _, length in manifest[6])
    result = [0] * length
    for packed in vectors.values():
        result = [(a + b) % 2**ring for a, b in zip(result, unpack_vector(packed, ring, length), strict=True)]
    for rank in sorted(shares):
        if rank in vectors:
            seed = recovered(given[b"seed", rank], least)
            need(sha(L + b"seed/commitment/v1", digest, u64(rank), seed) == keys[rank][5], "seed")
            result = masked(result, ring, (), [self_key(manifest, keyset, seed, rank)])
        elif edges[rank] & vectors.keys():
            secret = recovered(given[b"key", rank], least)
            need(public(secret) == keys[rank][3], "mask key")
            for peer in edges[rank] & vectors.keys():
                offer = entries[peer, rank][3]
                key = pair_key(manifest, keyset, secret, rank, peer, keys[peer][3], offer)
                # The survivor added it if the dropout has the higher rank.
                result = masked(result, ring, *(((), [key]) if rank > peer else ([key], ())))
    return signed(result, ring)
