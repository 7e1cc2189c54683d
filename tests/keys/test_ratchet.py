from __future__ import annotations

import os

import pytest

from keys.errors import CannotOpen
from keys.ratchet import Ratchet

START = Ratchet(bytes(range(32)))


def test_a_step_opens_what_it_sealed_and_nothing_else() -> None:
    sealed = START.seal(b"secret", b"round 1", os.urandom)
    assert START.open(sealed, b"round 1") == b"secret"
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for ratchet, raw, context in (
        (START.advance(), sealed, b"round 1"),
        (START, sealed, b"round 2"),
        (START, flipped, b"round 1"),
        (START, sealed[:10], b"round 1"),
        (START, b"", b"round 1"),
        (Ratchet(START.key, 1), sealed, b"round 1"),
    ):
        with pytest.raises(CannotOpen):
            ratchet.open(raw, context)


def test_the_same_twice_is_sealed_differently() -> None:
    assert START.seal(b"secret", b"", os.urandom) != START.seal(b"secret", b"", os.urandom)


def test_steps_are_different_and_count() -> None:
    steps = [START]
    for _ in range(50):
        steps.append(steps[-1].advance())
    assert len({step.key for step in steps}) == 51
    assert steps[-1].step == 50
    assert Ratchet.begin(os.urandom) != Ratchet.begin(os.urandom)


def test_a_ratchet_prints_no_key() -> None:
    assert repr(START) == "Ratchet(step=0)"
