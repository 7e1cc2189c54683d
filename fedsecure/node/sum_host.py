"""The coordinator's part of a secure sum: the steps of protocols/secagg/server.py, and what they need on disk.

    sums/<n>                      the running sum: how it began, each answer that counts, each step that was closed
    sums-past/<stage>-<place>     what came of those before: what sites are shown that were no part of one

A restart plays `sums/` again: the steps are pure, so that they end where they stood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fedsecure.node.events import SumDone, SumStands, SumStep
from fedsecure.node.store import Store
from keys.identity import Identity
from keys.roster import Roster
from protocols.codec import decode, encode
from protocols.messages import Kind, Message, SumAnswer, kind_of
from protocols.ring import signed
from protocols.secagg import server, unmasking
from protocols.secagg.messages import (
    AdvertiseKeys,
    AgreedResult,
    ConsistencyCheck,
    Manifest,
    MaskedInput,
    ResultAgreement,
    SecAggOpen,
    ShareKeys,
    SumResult,
    UnmaskShares,
)
from protocols.secagg.server import Advertising, Agreeing, Checking, Masking, Sharing, Unmasking

Integers = npt.NDArray[np.int32]
Finish = Callable[[Manifest, Integers, tuple[str, ...]], bytes]  # keeps the sum; digest of what is published from it
Send = Callable[[str, Message], None]

_STEPS: Final = {
    Advertising: SumStep.KEYS, Sharing: SumStep.SHARES, Masking: SumStep.VECTORS, Checking: SumStep.CHECKS,
    Unmasking: SumStep.ANSWERS, Agreeing: SumStep.AGREEMENT,
}  # fmt: skip
_TAKEN: Final = {
    Advertising: AdvertiseKeys, Sharing: ShareKeys, Masking: MaskedInput, Checking: ConsistencyCheck,
    Unmasking: UnmaskShares, Agreeing: ResultAgreement,
}  # fmt: skip


class _Began(msgspec.Struct, frozen=True, tag="began"):
    manifest: Manifest
    opening: bytes
    sites: tuple[str, ...]


class _Took(msgspec.Struct, frozen=True, tag="took"):
    sender: str
    kind: Kind
    message: bytes


class _Closed(msgspec.Struct, frozen=True, tag="closed"):
    step: str


_Line = _Began | _Took | _Closed
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Line)


class Past(NamedTuple):
    """What a site is shown of a sum that it was no part of."""

    opened: SecAggOpen
    said: SumResult
    agreed: AgreedResult


class SumHost:
    """One sum at a time. What is taken and closed is on disk before anything is sent that follows from it."""

    def __init__(self, identity: Identity, store: Store, send: Send, finish: Finish) -> None:
        """finish(manifest, integers, survivors) may be called again for the same sum, after a restart."""
        self._identity, self._store, self._send, self._finish = identity, store, send, finish
        self._state: Any = None
        self._manifest: Manifest | None = None
        self._opened: SecAggOpen | None = None
        self._said: SumResult | None = None
        self._lines = 0
        self._out: dict[str, tuple[Message, ...]] = {}  # site -> the running step's message, and what it rests on
        self._waiting: set[str] = set()
        self._vectors: dict[str, str] = {}  # site -> line with its masked vector

    # --- what the machine asks for ---

    def begin(self, manifest: Manifest, opening: bytes, sites: tuple[str, ...], roster: Roster) -> SumStands:
        """Open a sum; what is left of another is gone. opening: what the manifest's graph commits to."""
        self._store.forget("sums/*")
        self._lines = 0
        began = _Began(manifest, opening, sites)
        self._begin(began, roster)
        self._write(began)
        for site in sites:
            self.again(site)
        return self._stands(told=True)

    def resume(self, stage: int, round_: int, attempt: int, roster: Roster) -> SumStands | SumDone | None:
        """Go on with the sum that the store holds, if it is this one."""
        names = self._store.names("sums/*")
        if not names:
            return None
        began = _DECODER.decode(self._store.read(names[0]))
        if not isinstance(began, _Began) or _place(began.manifest) != (stage, round_, attempt):
            return None
        self._begin(began, roster)
        answer: SumStands | SumDone = self._stands(told=False)
        for number, name in enumerate(names[1:], 1):
            self._lines = number
            match _DECODER.decode(self._store.read(name)):
                case _Took(sender, kind, message):
                    self._apply(sender, decode(kind, message, sender))
                case _Closed():
                    answer = self._close()
        self._lines = len(names)
        return answer if isinstance(answer, SumDone) else self._stands(told=False)

    def take(self, sender: str, message: SumAnswer) -> SumStands | None:
        """None if it is late or repeated. Raises a FaultyPeer: the sender is not waited for any more."""
        if sender not in self._waiting or not isinstance(message, _TAKEN[type(self._state)]):
            return None
        self._waiting.discard(sender)
        self._apply(sender, message)
        self._write(_Took(sender, kind_of(message), encode(message)))
        return self._stands(told=False)

    def close(self, attempt: int, step: SumStep) -> SumStands | SumDone | None:
        """Close the running step. None if it is another. Raises TooFew and changes nothing; BadShare, CannotDecrypt if
        the sum cannot be opened, for which the peer named is to blame."""
        if self._manifest is None or (self._manifest.attempt, _STEPS[type(self._state)]) != (attempt, step):
            return None
        told = self._close()
        self._write(_Closed(step))
        for site in self._out:
            self._send(site, self._out[site][-1])
        return told

    def stands(self) -> SumStands:
        return self._stands(told=False)

    def again(self, site: str) -> None:
        """What the site was asked, once more, behind what it rests on: a site that was restarted begins there."""
        for message in self._out.get(site, ()):
            self._send(site, message)

    def past(self, stage: int) -> list[Past]:
        """What came of the stage's sums, in their order."""
        found = []
        for name in self._store.names(f"sums-past/{stage}-*"):
            raw = msgspec.msgpack.decode(self._store.read(name), type=tuple[bytes, bytes, bytes])
            found.append(_past(raw))
        return found

    # --- steps ---

    def _begin(self, began: _Began, roster: Roster) -> None:
        self._manifest, self._vectors = began.manifest, {}
        self._state, self._opened = server.open_sum(began.manifest, began.opening, roster, self._identity)
        self._ask(dict.fromkeys(began.sites, (self._opened,)))

    def _ask(self, out: Mapping[str, tuple[Message, ...]]) -> None:
        self._out, self._waiting = dict(out), set(out)

    def _apply(self, sender: str, message: Message) -> None:
        match self._state, message:
            case Advertising() as state, AdvertiseKeys():
                self._state = server.take_keys(state, sender, message)
            case Sharing() as state, ShareKeys():
                self._state = server.take_shares(state, sender, message)
            case Masking() as state, MaskedInput():
                self._state = server.take_vector(state, sender, message)
                self._vectors[sender] = _line(self._lines)
            case Checking() as state, ConsistencyCheck():
                self._state = server.take_check(state, sender, message)
            case Unmasking() as state, UnmaskShares():
                self._state = server.take_unmask(state, sender, message)
            case Agreeing() as state, ResultAgreement():
                self._state = server.take_agreement(state, sender, message)
            case _:
                raise RuntimeError("a sum on disk in another order than it was made in")
        self._waiting.discard(sender)

    def _close(self) -> SumStands | SumDone:
        match self._state:
            case Advertising() as state:
                self._state, keysets = server.close_keys(state)
                self._ask({site: (message,) for site, message in keysets.items()})
            case Sharing() as state:
                self._state, relays = server.close_shares(state)
                self._ask({site: (message,) for site, message in relays.items()})
            case Masking() as state:
                self._state, survivors = server.close_vectors(state)
                self._ask(dict.fromkeys(_names(state, state.survivors), (survivors,)))
            case Checking() as state:
                signed_by = _names(state.masking, state.signatures)
                self._state, request = server.close_checks(state)
                self._ask({site: (self._out[site][0], request) for site in signed_by})
            case Unmasking() as state:
                self._open(state)
            case Agreeing() as state:
                return self._agree(state)
        return self._stands(told=True)

    def _open(self, state: Unmasking) -> None:
        masks, cohort = unmasking.open_masks(state), state.masking.sum.cohort
        survivors = _names(state.masking, state.masking.survivors)
        words = unmasking.sum_vectors(cohort, (self._vector(site) for site in survivors))
        unmasking.remove_masks(cohort, words, masks)
        result = self._finish(cohort.manifest, signed(cohort.ring, words), survivors)
        self._state, self._said = server.publish_result(state, result, self._identity)
        self._ask(dict.fromkeys(_names(state.masking, state.answered), (self._said,)))

    def _agree(self, state: Agreeing) -> SumDone:
        agreed = server.close_agreement(state)
        if self._opened is None or self._said is None:
            raise RuntimeError("a sum without a beginning")
        raw = tuple(encode(message) for message in (self._opened, self._said, agreed))
        manifest = state.sum.cohort.manifest
        self._store.write(_past_file(manifest), msgspec.msgpack.encode(raw))
        told, survivors = (tuple(map(state.sum.name, sorted(ranks))) for ranks in (state.signatures, state.survivors))
        self._out, self._waiting, self._manifest = dict.fromkeys(told, (agreed,)), set(), None
        return SumDone(manifest.attempt, survivors, told)

    def _vector(self, site: str) -> bytes:
        line = _DECODER.decode(self._store.read(self._vectors[site]))
        message = decode(Kind.RELEASE, line.message, site) if isinstance(line, _Took) else None
        if isinstance(message, MaskedInput):
            return message.vector
        raise RuntimeError("a stored vector is not one")

    def _stands(self, *, told: bool) -> SumStands:
        attempt = 0 if self._manifest is None else self._manifest.attempt
        return SumStands(attempt, _STEPS[type(self._state)], tuple(sorted(self._waiting)), told)

    def _write(self, line: _Line) -> None:
        self._store.write(_line(self._lines), _ENCODER.encode(line))
        self._lines += 1


def _line(number: int) -> str:
    return f"sums/{number:06}"


def _past_file(manifest: Manifest) -> str:
    return f"sums-past/{manifest.stage}-{manifest.round:06}-{manifest.attempt}"


def _past(raw: tuple[bytes, bytes, bytes]) -> Past:
    opened, said, agreed = (
        decode(kind, one, "store") for kind, one in zip((Kind.PUBLISH, Kind.PUBLISH, Kind.SHARE), raw, strict=True)
    )
    if isinstance(opened, SecAggOpen) and isinstance(said, SumResult) and isinstance(agreed, AgreedResult):
        return Past(opened, said, agreed)
    raise RuntimeError("what is stored of a sum is not that")


def _place(manifest: Manifest) -> tuple[int, int, int]:
    return manifest.stage, manifest.round, manifest.attempt


def _names(state: Masking, ranks: Iterable[int]) -> tuple[str, ...]:
    return tuple(state.sum.name(rank) for rank in sorted(ranks))
