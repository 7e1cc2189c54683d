from __future__ import annotations

import hashlib
import itertools

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keys.identity import Identity
from keys.roster import Roster
from protocols.box import NONCE, BoxContext, box_digest, open_box, verify_box
from protocols.errors import BadSignature, FaultyPeer, WrongRecipient
from protocols.messages import Hello, SealedBox
from protocols.seal import Sealer

STUDY = bytes(range(32))
IDENTITIES = {name: Identity.generate() for name in ("hub", "east", "north", "south")}
ROSTER = Roster("hub", {name: identity.public for name, identity in IDENTITIES.items()})
OTHERS = {name: ROSTER.members[name] for name in ("south", "east")}
HERE = BoxContext(STUDY, 0, 2, "north")


def sealer(boot: int = 0) -> Sealer:
    return Sealer(IDENTITIES["north"], "north", STUDY, boot)


def opened(box: SealedBox, me: str = "south", context: BoxContext = HERE) -> bytes:
    return open_box(box, context, identity=IDENTITIES[me], me=me, roster=ROSTER)


BOX = sealer().box(OTHERS, b"features", 0, 2)


@given(st.binary(max_size=1000))
def test_every_recipient_opens_the_box(content: bytes) -> None:
    box = sealer().box(OTHERS, content, 0, 2)
    assert [opened(box, me) for me in OTHERS] == [content] * 2
    assert len(box.ciphertext) == len(content) + 16
    assert [wrap.recipient for wrap in box.wraps] == ["east", "south"]


def test_the_relay_and_the_maker_do_not_open_it() -> None:
    verify_box(BOX, HERE, peer="north", roster=ROSTER)  # what the relay can do
    for me in ("hub", "north"):
        with pytest.raises(WrongRecipient):
            opened(BOX, me)


def test_a_recipient_cannot_pass_its_key_on_as_anothers() -> None:
    """South's key, even relabelled and signed by north, opens nothing for east: HPKE binds the recipient."""
    wraps = tuple(msgspec.structs.replace(BOX.wraps[1], recipient=name) for name in ("east", "south"))
    data = HERE.signed_data(hashlib.sha256(BOX.ciphertext).digest(), wraps)
    signature = IDENTITIES["north"].sign(b"fedsecure/box/v1", data)
    with pytest.raises(FaultyPeer, match="opens for each") as caught:
        opened(msgspec.structs.replace(BOX, wraps=wraps, signature=signature), "east")
    assert caught.value.peer == "north"


RAW = msgspec.msgpack.encode(BOX)


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_no_byte_of_a_box_can_be_changed(place: int, change: int) -> None:
    raw = bytearray(RAW)
    raw[place] ^= change
    try:
        box = msgspec.msgpack.decode(bytes(raw), type=SealedBox)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if msgspec.msgpack.encode(box) == bytes(raw):  # otherwise the codec has refused it
        assert box_digest(box) != box_digest(BOX)
        with pytest.raises(FaultyPeer):
            opened(box)


@pytest.mark.parametrize(
    "context",
    [
        BoxContext(bytes(32), 0, 2, "north"),
        BoxContext(STUDY, 1, 2, "north"),
        BoxContext(STUDY, 0, 3, "north"),
        BoxContext(STUDY, 2, 0, "north"),
    ],
)
def test_a_box_fits_one_place_only(context: BoxContext) -> None:
    with pytest.raises(BadSignature) as caught:
        opened(BOX, context=context)
    assert caught.value.peer == "hub"  # who relayed it here
    with pytest.raises(BadSignature) as caught_too:
        verify_box(BOX, context, peer="north", roster=ROSTER)
    assert caught_too.value.peer == "north"  # who delivered it to the relay


def test_the_context_is_bound_three_times() -> None:
    """Each binding alone tells two contexts apart, so that none of them rests on another."""
    contexts = [
        BoxContext(study, stage, round_, sender)
        for study, stage, round_, sender in itertools.product((STUDY, bytes(32)), (0, 1), (0, 1), ("north", "south"))
    ]
    for binding in (
        lambda c: c.associated_data(["east"]),
        lambda c: c.key_info("east", STUDY),
        lambda c: c.signed_data(STUDY, BOX.wraps),
    ):
        assert len({binding(context) for context in contexts}) == len(contexts)
    assert HERE.associated_data(["a", "b"]) == HERE.associated_data(["b", "a"]) != HERE.associated_data(["ab"])


def test_every_box_has_a_key_of_its_own() -> None:
    """The nonce is constant: two boxes under one key would give away both."""
    drawn = []

    def entropy(size: int) -> bytes:
        drawn.append(bytes((len(drawn),)) * size)
        return drawn[-1]

    taped = Sealer(IDENTITIES["north"], "north", STUDY, 0, entropy=entropy)
    boxes = [taped.box(OTHERS, b"same", 0, 2) for _ in range(2)]
    assert drawn == [bytes(32), b"\x01" * 32]
    data = HERE.associated_data(OTHERS)
    assert [AESGCM(key).decrypt(NONCE, box.ciphertext, data) for key, box in zip(drawn, boxes, strict=True)] == [
        b"same"
    ] * 2
    assert sealer().box(OTHERS, b"same", 0, 2).ciphertext != sealer().box(OTHERS, b"same", 0, 2).ciphertext


def test_a_box_needs_a_recipient() -> None:
    with pytest.raises(ValueError, match="at least one recipient"):
        sealer().box({}, b"x", 0, 0)


@pytest.mark.parametrize("boot", [-1, 2**31])
def test_boots_are_bounded(boot: int) -> None:
    with pytest.raises(ValueError, match="boot"):
        sealer(boot)


def test_numbers_of_one_boot_never_reach_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.seal.FRAMES_PER_BOOT", 3)
    pen = sealer()
    for _ in range(2):
        pen.seal("hub", Hello(0, -1, -1, False))
    with pytest.raises(RuntimeError, match="restart"):
        pen.seal("hub", Hello(0, -1, -1, False))


def test_a_sealer_prints_no_key() -> None:
    assert repr(sealer()) == "Sealer(north)"
