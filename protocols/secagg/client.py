"""A site's steps. Each takes a state and a message and gives the next state and an answer, or raises.

    open_sum  advertise_keys  share_keys  accept_shares  [burn]  mask_input  hear_survivors  [sign]  sign_survivors
    verify_agreement  [answer]  unmask  hear_result  confirm_result    or, for who was not there to the end, catch_up

What stands in brackets is the ledger's (`protocols.secagg.ledger`): the new one is on disk before the step behind it.
After Bonawitz et al., CCS 2017, figure 4 with the steps for an active adversary; SPEC.md says what differs.

Whoever raises takes no further part in this sum: it is a dropout. A FaultyPeer names who is to blame.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Final

from keys.encoding import prefixed
from keys.errors import InvalidSignature
from keys.identity import Identity
from keys.roster import Roster
from protocols.errors import BadSignature, BelowFloor, Inconsistent, TooFew, UnexpectedMessage
from protocols.ring import Masks, Words, pack_into
from protocols.secagg.keyset import advertisement, draw_secrets
from protocols.secagg.ledger import Ledger
from protocols.secagg.manifest import Expected, Floors, check_manifest
from protocols.secagg.messages import (
    AdvertiseKeys,
    AgreedResult,
    ConsistencyCheck,
    Held,
    MaskedInput,
    ResultAgreement,
    SecAggOpen,
    SumResult,
    Survivors,
    UnmaskRequest,
    UnmaskShares,
)
from protocols.secagg.messages import Signed as SignedBy
from protocols.secagg.states import (
    Advertised,
    Agreed,
    Answered,
    Answering,
    Burned,
    Informed,
    Keyed,
    Masked,
    Opened,
    Signed,
    Signing,
    Told,
)

SURVIVORS_LABEL: Final = b"fedsecure/secagg/consistency-check/v1"
RESULT_LABEL: Final = b"fedsecure/secagg/sum-result/v1"
AGREEMENT_LABEL: Final = b"fedsecure/secagg/result-agreement/v1"

Fill = Callable[[int, Words], None]  # (start, words): writes the vector's integers from `start` on into all of `words`


def open_sum(
    message: SecAggOpen, ledger: Ledger, *, expected: Expected, floors: Floors, roster: Roster, me: str
) -> tuple[Opened, Ledger]:
    """Check the manifest. The new ledger is on disk before `advertise_keys`. Raises a FaultyPeer (the coordinator)."""
    cohort = check_manifest(message, expected=expected, floors=floors, roster=roster, me=me)
    opened = ledger.open(message.manifest, cohort.digest, floors, roster.coordinator, expected.initial)
    return Opened(cohort, cohort.rank[me], roster, floors), opened


def advertise_keys(
    state: Opened, identity: Identity, entropy: Callable[[int], bytes] = os.urandom
) -> tuple[Advertised, AdvertiseKeys]:
    """Keys for this sum alone. `entropy` is for tests, which pass a tape; production wiring leaves it out."""
    secrets = draw_secrets(entropy)
    message = advertisement(secrets, state.cohort, state.me, identity)
    return Advertised(state, secrets, message), message


def burn(state: Keyed, ledger: Ledger) -> tuple[Burned, Ledger]:
    """The keyset is used from here on, whatever happens. Raises Spent."""
    opened = state.opened
    return Burned(state), ledger.burn(opened.cohort.digest, state.keyset, opened.coordinator)


def mask_input(state: Burned, fill: Fill) -> tuple[Masked, MaskedInput]:
    """The vector plus all masks, chunk after chunk: the vector is never whole in memory as integers.

    The keys are used up: they mask one vector, which `fill` gives. Raises RuntimeError if they were. Store ledger and
    message before it is sent.
    """
    keyed = state.keyed
    keyed.once.use()
    cohort = keyed.opened.cohort
    ring, masks = cohort.ring, Masks(cohort.ring, keyed.plus, keyed.minus)
    words, packed = ring.words(min(ring.chunk, cohort.length)), ring.packed(cohort.length)
    for start, stop in ring.chunks(cohort.length):
        chunk = words[: stop - start]
        fill(start, chunk)
        masks.apply(chunk)
        pack_into(ring, chunk, packed[ring.packed_size(start) : ring.packed_size(stop)])
    masked = Masked(keyed.opened, keyed.keyset, keyed.sharers, keyed.held)
    return masked, MaskedInput(keyed.keyset, packed.tobytes())


def hear_survivors(state: Masked, message: Survivors) -> Told:
    """Who is in the sum and who dropped out, according to the coordinator. Raises a FaultyPeer, TooFew."""
    coordinator = state.opened.coordinator
    _require_keyset(state.keyset, message.keyset, coordinator)
    survivors, dropped = frozenset(message.survivors), frozenset(message.dropped)
    # Both secrets of a site in both sets would be opened: its vector.
    if survivors & dropped:
        raise Inconsistent(coordinator, "nobody is among the survivors and among the dropped")
    if survivors | dropped != state.sharers:
        raise Inconsistent(coordinator, "survivors and dropped are all who shared keys, and nobody else")
    if state.opened.me not in survivors:
        raise UnexpectedMessage(coordinator, "survivors are told to survivors")
    threshold = state.opened.cohort.manifest.threshold
    if len(survivors) < threshold:
        raise TooFew("ConsistencyCheck", len(survivors), threshold)
    names = state.opened.cohort.names
    if not state.opened.floors.know_enough((names[rank] for rank in survivors), names[state.opened.me]):
        raise BelowFloor(coordinator, "survivors have as many sites that this one verified as it demands")
    return Told(state, survivors, dropped)


def sign(state: Told, ledger: Ledger) -> tuple[Signing, Ledger]:
    """No other survivors are signed for this keyset from here on. Raises Spent."""
    opened = state.masked.opened
    cohort, (noise,) = opened.cohort, struct.unpack("<d", opened.cohort.manifest.noise)
    revoked = frozenset(rank for rank, name in enumerate(cohort.names) if name not in opened.roster.members)
    regroups = opened.floors.regroups if noise > 0 else 0
    return Signing(state), ledger.sign(
        cohort.digest, state.signed_data, state.survivors, opened.coordinator, revoked, regroups
    )


def sign_survivors(state: Signing, identity: Identity) -> tuple[Signed, ConsistencyCheck]:
    signature = identity.sign(SURVIVORS_LABEL, state.told.signed_data)
    return Signed(state.told), ConsistencyCheck(state.told.masked.keyset, signature)


def verify_agreement(state: Signed, message: UnmaskRequest) -> Agreed:
    """At least t survivors were told what this site was told. Raises a FaultyPeer: the coordinator said different
    things, or makes up signatures."""
    told = state.told
    _require_keyset(told.masked.keyset, message.keyset, told.masked.opened.coordinator)
    data = told.signed_data
    _require_signatures(told.masked.opened, told.survivors, message.signatures, SURVIVORS_LABEL, data, "survivors")
    return Agreed(told)


def answer(state: Agreed, ledger: Ledger) -> tuple[Answering, Ledger]:
    """The updates to this model are open from here on. Raises Spent."""
    opened = state.told.masked.opened
    ledger = ledger.answer(opened.cohort.digest, state.told.signed_data, opened.coordinator)
    return Answering(state.told), ledger


def unmask(state: Answering) -> tuple[Answered, UnmaskShares]:
    """Of each dealer exactly one share: the seed's of a survivor, the mask key's of who dropped out.

    The shares are used up. Raises RuntimeError if they were. Store ledger and message before it is sent.
    """
    state.told.masked.once.use()
    told, held = state.told, state.told.masked.held
    seeds = tuple(Held(dealer, held[dealer].seed) for dealer in sorted(held) if dealer in told.survivors)
    keys = tuple(Held(dealer, held[dealer].key) for dealer in sorted(held) if dealer in told.dropped)
    masked = told.masked
    return Answered(masked.opened, masked.keyset, told.survivors), UnmaskShares(masked.keyset, seeds, keys)


def hear_result(state: Answered, message: SumResult, identity: Identity) -> tuple[Informed, ResultAgreement]:
    """What came of the sum, in the coordinator's signature. Raises a FaultyPeer (the coordinator), and RuntimeError if
    a result was signed before."""
    data = _verify_result(state.opened, state.keyset, message)
    state.once.use()
    return Informed(state, message.result), ResultAgreement(state.keyset, identity.sign(AGREEMENT_LABEL, data))


def confirm_result(state: Informed, message: AgreedResult, ledger: Ledger, initial: bytes) -> Ledger:
    """t survivors say that they were told the same: this result, the next round's model. Raises a FaultyPeer (the
    coordinator). initial: as in `Expected`."""
    answered = state.answered
    opened, keyset = answered.opened, answered.keyset
    _require_keyset(keyset, message.keyset, opened.coordinator)
    data = result_data(opened.cohort.digest, keyset, state.result)
    _require_signatures(opened, answered.survivors, message.signatures, AGREEMENT_LABEL, data, "result")
    return ledger.confirm(opened.cohort.manifest, opened.cohort.digest, state.result, opened.coordinator, initial)


def catch_up(
    message: SecAggOpen, said: SumResult, agreed: AgreedResult, ledger: Ledger, *, expected: Expected, floors: Floors,
    roster: Roster, me: str,
) -> Ledger:  # fmt: skip
    """The result of a sum that this site was no part of, or not to its end: without it the next model is not the next.

    All three messages as they were sent to others. expected: of that sum. Raises a FaultyPeer (the coordinator).
    """
    cohort = check_manifest(message, expected=expected, floors=floors, roster=roster, me=me)
    opened = Opened(cohort, cohort.rank[me], roster, floors)
    data = _verify_result(opened, agreed.keyset, said)
    members = frozenset(rank for rank, name in enumerate(cohort.names) if name in roster.members)
    signatures = tuple(entry for entry in agreed.signatures if entry.rank in members)
    _require_signatures(opened, members, signatures, AGREEMENT_LABEL, data, "result")
    return ledger.confirm(message.manifest, cohort.digest, said.result, roster.coordinator, expected.initial)


def _verify_result(opened: Opened, keyset: bytes, message: SumResult) -> bytes:
    """What coordinator and sites sign for it."""
    _require_keyset(keyset, message.keyset, opened.coordinator)
    data = result_data(opened.cohort.digest, keyset, message.result)
    try:
        opened.roster.members[opened.coordinator].verify(RESULT_LABEL, data, message.signature)
    except InvalidSignature:
        raise BadSignature(opened.coordinator, "a result is signed by the coordinator") from None
    return data


def result_data(manifest: bytes, keyset: bytes, result: bytes) -> bytes:
    """What coordinator and sites sign, each under a label of its own."""
    return prefixed(manifest, keyset, result)


def _require_keyset(mine: bytes, named: bytes, coordinator: str) -> None:
    if mine != named:
        raise UnexpectedMessage(coordinator, "a message is of the keyset that the site is in")


def _require_signatures(
    opened: Opened, allowed: frozenset[int], signatures: tuple[SignedBy, ...], label: bytes, data: bytes, what: str
) -> None:
    """At least t different survivors signed `data`. One bad signature condemns all: the coordinator checked them."""
    coordinator, cohort = opened.coordinator, opened.cohort
    for entry in signatures:
        if entry.rank not in allowed:
            raise UnexpectedMessage(coordinator, f"the {what} are signed by survivors")
        try:
            opened.roster.members[cohort.names[entry.rank]].verify(label, data, entry.signature)
        except InvalidSignature:
            raise BadSignature(coordinator, f"all survivors sign the same {what}") from None
    if len(signatures) < cohort.manifest.threshold:
        raise Inconsistent(coordinator, f"at least {cohort.manifest.threshold} survivors sign the same {what}")
