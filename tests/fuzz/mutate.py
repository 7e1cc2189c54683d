"""Mutated bytes against everything in both nodes that reads bytes of others: only typed errors, no hang, no growth.

    PYTHONPATH=. python tests/fuzz/mutate.py 200000 [seed]

Valid frames, bodies, boxes and packets of every kind are cut, flipped, joined and repeated at random and read by the
real decoders, as the coordinator and as a site. Anything but a ProtocolError that names its rule is a failure, and so
is a changed input that is taken where a signature or a key should have told, or in a form that is not the one and only;
the input is then printed.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors"))

import sessions
from frames import FROM_COORDINATOR
from world import IDENTITIES, MAXIMUM, ROSTER, STUDY, make_box, messages, sealer

from protocols.box import BoxContext, open_box
from protocols.codec import decode, encode
from protocols.envelope import ReplayGuard, open_frame
from protocols.errors import Malformed, ProtocolError
from protocols.handshake import Party, SessionKeys
from protocols.link import Initiator, Responder
from protocols.messages import Kind, SealedBox, kind_of
from protocols.session import Buffers, Session

Target = Callable[[bytes], object]
Way = tuple[int, list[bytes], Target, bool]  # how often, seeds, reader, whether a signature or a key tells every change
GROWTH = 32 << 20  # bytes that the whole run may add after its first tenth
SLOW_S = 2.0  # of processor time, for one input
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xC0, 0xC4, 0xC6, 0xDC, 0xDD, 0xDF)
_BUFFERS = Buffers()


def targets() -> list[Way]:
    """Every way in. What stands behind a signature or a key is also read without it."""
    everything = messages()
    up = {name: message for name, message in everything.items() if name not in FROM_COORDINATOR}
    down = {name: everything[name] for name in FROM_COORDINATOR}
    found: list[Way] = []
    for peer, me, said in (("site-a", "coordinator", up), ("coordinator", "site-b", down)):
        frames = [sealer(peer).seal(me, message) for message in said.values()]
        found.append((2, frames, _frame_reader(peer, me), True))
        for kind in sorted({kind_of(message) for message in said.values()}):
            bodies = [encode(message) for message in said.values() if kind_of(message) is kind]
            found.append((20, bodies, _body_reader(kind, peer), False))
    found.append((2, [msgspec.msgpack.encode(make_box())], _read_box, True))
    site = Party("site-a", IDENTITIES["site-a"], ROSTER, STUDY, 3)
    hub = Party("coordinator", IDENTITIES["coordinator"], ROSTER, STUDY, 2)
    shared = {"maximum": MAXIMUM, "queue": 4, "room": MAXIMUM, "buffers": _BUFFERS}
    packets = [sessions.packet(0, bytes(40)), sessions.packet(0, kind=4, size=8), b"\x05" + bytes(8)]
    packets += [sessions.offer_packet(), sessions.answer_packet()]
    found.append((2, packets, lambda raw: Responder(hub, "site-a", **shared).receive(raw), False))
    found.append((2, packets, lambda raw: _offering(Initiator(site, "coordinator", **shared)).receive(raw), False))
    found.append((8, packets[:2], _read_packet, True))
    found.append((8, packets[:2], _read_resealed, False))
    return found


def run(count: int, seed: int = 0) -> Counter[str]:
    """How often each outcome came of `count` inputs. Raises AssertionError for an outcome that is none."""
    rng = random.Random(seed)
    ways = targets()
    weights = [often for often, _, _, _ in ways]
    outcomes: Counter[str] = Counter()
    resident = 0
    for number in range(count):
        if number == count // 10:
            resident = _peak()
        _, seeds, read, told = rng.choices(ways, weights)[0]
        raw = mutated(rng, seeds)
        began = time.process_time()
        try:
            read(raw)
        except ProtocolError as error:
            outcomes[type(error).__name__] += bool(error.peer and error.rule)
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__} of {raw.hex()}") from error
        else:
            unchanged = raw in seeds
            assert unchanged or not told, f"taken although it was changed: {raw.hex()}"
            outcomes["unchanged" if unchanged else "accepted"] += 1
        assert time.process_time() - began < SLOW_S, raw.hex()
    assert _peak() - resident < GROWTH, "memory grows with what is refused"
    return outcomes


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of `seeds`, changed in one to four places."""
    raw = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(8):
            case 0 | 1 if at < len(raw):
                raw[at] ^= 1 << rng.randrange(8)
            case 2 | 3 if at < len(raw):
                raw[at] = rng.choice(_NUMBERS)
            case 4:
                del raw[at : at + rng.randint(1, 8)]
            case 5:
                raw[at:at] = rng.randbytes(rng.randint(1, 8))
            case 6:
                raw[at:at] = raw[max(0, at - rng.randint(1, 64)) : at]
            case _:
                other = rng.choice(seeds)
                raw[at:] = other[min(at, len(other)) :]
    return bytes(raw)


def _body_reader(kind: Kind, peer: str) -> Target:
    def read(raw: bytes) -> None:
        if encode(decode(kind, raw, peer)) != raw:
            raise RuntimeError("one message in two forms")

    return read


def _frame_reader(peer: str, me: str) -> Target:
    return lambda raw: open_frame(
        raw, peer=peer, me=me, study=STUDY, roster=ROSTER, replay=ReplayGuard(), maximum=MAXIMUM
    )


def _read_box(raw: bytes) -> object:
    try:
        box = msgspec.msgpack.decode(raw, type=SealedBox)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed("site-a", "not a box") from None  # `decode` has refused it before it gets here
    return open_box(box, BoxContext(STUDY, 0, 2, "site-a"), identity=IDENTITIES["site-b"], me="site-b", roster=ROSTER)


def _session() -> Session:
    keys = SessionKeys(sessions.SESSION, **sessions.KEYS)
    return Session(keys, peer="site-a", to_coordinator=False, maximum=MAXIMUM, buffers=_BUFFERS)


def _read_packet(raw: bytes) -> object:
    return _session().receive(raw)


def _read_resealed(raw: bytes) -> object:
    """As a member could do it, who has the key: header and content mutated before they are sealed."""
    size, index, content = int.from_bytes(raw[17:25], "big"), int.from_bytes(raw[25:29], "big"), raw[29:80]
    counter = int.from_bytes(raw[9:17], "big") % (1 << 63)
    kind = raw[0] if raw else 0
    return _session().receive(sessions.packet(counter, content, kind=kind, size=size, index=index))


def _offering(link: Initiator) -> Initiator:
    link.next_packet(0.0)
    return link


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    inputs = int(sys.argv[1])
    start = time.monotonic()
    told = run(inputs, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    rate = inputs / (time.monotonic() - start)
    sys.stdout.write(f"{inputs} inputs, {rate:,.0f} a second: {dict(told.most_common())}\n")
