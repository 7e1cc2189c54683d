from __future__ import annotations

import threading

from protocols.errors import Malformed
from protocols.transport.mailbox import Mailbox


def test_it_is_full_by_count_or_by_size() -> None:
    box: Mailbox[str] = Mailbox(3, 100)
    box.put("a", 60)
    assert not box.full
    box.put("b", 60)
    assert box.full
    assert box.take(0) == (["a", "b"], True)
    assert not box.full
    for item in "abc":
        assert not box.full
        box.put(item, 0)
    assert box.full
    box.take(0)
    assert box.take(0) == ([], False)
    box.put("d", 1)
    assert box.take(0) == (["d"], False)


def test_that_it_became_full_while_somebody_waited_is_said() -> None:
    box: Mailbox[str] = Mailbox(1, 100)
    late = threading.Timer(0.1, box.put, ["a", 1])
    late.start()
    assert box.take(5) == (["a"], True)
    late.join()


def test_of_a_flood_of_refusals_the_last_are_kept() -> None:
    box: Mailbox[str] = Mailbox(1, 1)
    for number in range(1000):
        box.refuse(Malformed("north", str(number)))
    errors = box.refusals()
    assert len(errors) < 100
    assert str(errors[-1]) == "north: 999"
    assert box.refusals() == []
