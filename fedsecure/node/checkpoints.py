"""A node's part in the checkpoints of all logs (protocols/tlog/SPEC.md): its own heads, and those it is shown.

    site          signs a head when a round is done, keeps the one list of heads that the coordinator shows all sites,
                  and vouches for those that it is the witness of
    coordinator   checks and countersigns every site's head, keeps the list, adds a head of its own to each round

What is signed or believed is on disk first. A log that lost a leaf, two logs of one member and two lists of heads are
refused under the name of whoever signed them; the heads that show it stay in the node's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from fedsecure.audit.testimony import rosters_of
from fedsecure.config import Study
from fedsecure.node.membership import load_trust
from fedsecure.node.store import Store
from fedsecure.plan import number_of, schedule
from keys.identity import Identity
from keys.roster import Roster
from protocols.codec import decode, encode, exactly
from protocols.errors import FaultyPeer, Inconsistent, Malformed, UnexpectedMessage
from protocols.messages import Kind, Logging, Message
from protocols.tlog.checkpoint import (
    check_countersignature,
    check_head,
    compare_views,
    countersign,
    follow,
    sign_head,
    viewed,
    witness_of,
)
from protocols.tlog.errors import BadProof, SplitView
from protocols.tlog.merkle import Proof, leaf_hash
from protocols.tlog.messages import (
    MOST_HEADS,
    NO_LEDGER,
    NO_VIEW,
    Countersignature,
    Head,
    LogHead,
    LogHeads,
    LogWitness,
    Shown,
    SignedHead,
    Vouch,
)
from protocols.tlog.tree import Tree

CONTRADICTIONS: Final = "contradictions"  # folder with pairs of heads that one member cannot have signed in good faith
_SHOWN: Final = msgspec.msgpack.Decoder(Shown)
_ENCODER: Final = msgspec.msgpack.Encoder()

SHOWN_NOTHING: Final = -1  # to a site that joined anew: heads that it could not check stand before it in the list
Say = Callable[[str, Message], None]
Fault = Callable[[FaultyPeer], None]
Check = partial[None]  # that lacks a roster


class Checkpoints:
    """`say(member, message)` sends. `fault` is told of whoever cannot go on: a site that is to leave the study or, at
    a site, that it must not go on itself. `position`: (stage, round) that the node is in."""

    def __init__(
        self, name: str, study: Study, identity: Identity, roster: Roster, store: Store, *, say: Say, fault: Fault,
        position: Callable[[], tuple[int, int]],
    ) -> None:  # fmt: skip
        self._name, self._study, self._identity, self._roster, self._store = name, study, identity, roster, store
        self._digest = study.digest()
        self._say, self._fault, self._position = say, fault, position
        self._tree = Tree()
        self._views = [NO_VIEW]
        self._last: dict[str, SignedHead] = {}  # of each member
        self._numbers: dict[str, int] = {}  # and where that stands in the list
        self._every: dict[tuple[str, int], SignedHead] = {}  # of each member and round
        for raw in store.heads():
            self._believe(exactly(_SHOWN, raw, name, "a head that is kept").signed)
        self._own = {number: self._signed(raw) for number, raw in store.own().items()}
        held = store.get("heads-held")
        self._held: dict[str, int] = msgspec.json.decode(held, type=dict[str, int]) if held else {}

    def follow(self, roster: Roster) -> None:
        """Act on another roster from now on."""
        self._roster = roster

    def renewed(self, site: str) -> None:
        """The coordinator learns that a site joined anew, with new keys, a new folder and a new log."""
        self._hold(site, SHOWN_NOTHING)

    # --- a site's own log ---

    def round_done(self, stage: int, round_: int) -> None:
        """Sign this site's log as it is and send the head; of a round that was done before, the head of then."""
        number = number_of(self._study, stage, round_)
        if number not in self._own:
            self._sign(number)
        self._say(self._roster.coordinator, self._own[number])

    # --- the coordinator's list ---

    def round_opens(self, stage: int, round_: int) -> None:
        """Add a head of the coordinator's own log, once a round."""
        number = number_of(self._study, stage, round_)
        if number not in self._own:
            self._sign(number)
        if (last := self._last.get(self._name)) is None or last.head.round < number:
            own = self._own[number]
            self._keep(Shown(own.signed, own.proof, ()))

    def show(self, site: str) -> None:
        """Send a site the heads that it does not say to hold."""
        first = self._held.get(site, 0)
        if first == SHOWN_NOTHING:
            return
        kept = [exactly(_SHOWN, raw, self._name, "a head that is kept") for raw in self._store.heads(first)]
        for start in range(0, len(kept), MOST_HEADS):
            self._say(site, LogHeads(first + start, tuple(kept[start : start + MOST_HEADS])))

    # --- what comes ---

    def take(self, sender: str, message: Logging) -> None:
        """A message of the log came, and is on record. Whatever is wrong with it goes to `fault`."""
        try:
            match message:
                case LogHead():
                    self._countersigned(sender, message)
                case LogHeads():
                    self._shown(sender, message)
                case LogWitness():
                    self._vouched(sender, message)
        except SplitView as error:
            evidence = b"".join(len(each).to_bytes(4, "big") + each for each in error.evidence)
            self._store.write(f"{CONTRADICTIONS}/{error.peer}-{type(error).__name__.lower()}", evidence)
            self._fault(error)
        except FaultyPeer as error:
            self._fault(error)

    def _countersigned(self, site: str, message: LogHead) -> None:
        new = message.signed
        check_head(new, peer=site, study=self._digest, roster=self._roster)
        if new.head.member != site:
            raise UnexpectedMessage(site, "a site sends the head of its own log")
        number = number_of(self._study, *self._position())
        if new == self._last.get(site) or new.head.round < number:
            return  # of a round that it did again, or that closed without it: its next proof begins before this one
        if new.head.round > number:
            raise UnexpectedMessage(site, "a head is of the round that is open")
        if new.head.seen >= len(self._views) or self._views[new.head.seen] != new.head.view:
            raise Inconsistent(site, "a head names the heads that its site was shown, as they were shown")
        if self._has_not_seen(site, new.head.seen):
            return  # the list was lost on its way: this proof begins at an older head, the next one will not
        try:
            vouch = self._countersign(new, message.proof, site)
        except BadProof:
            if self._held.get(site) != SHOWN_NOTHING:
                raise
            return  # it goes by what it signed, of which something was lost on its way
        self._keep(Shown(new, message.proof, (vouch,)))

    def _shown(self, coordinator: str, message: LogHeads) -> None:
        vouches = []
        for number, shown in enumerate(message.heads, message.first):
            if number > len(self._views) - 1:
                break  # something is missing before it: it comes again
            if number == len(self._views) - 1:
                vouches += self._believed(coordinator, shown)
        self._say(coordinator, LogWitness(len(self._views) - 1, tuple(vouches)))

    def _believed(self, coordinator: str, shown: Shown) -> list[Vouch]:
        new, author, number = shown.signed, shown.signed.head.member, shown.signed.head.round
        self._under_any_keys(partial(check_head, new, peer=coordinator, study=self._digest))
        if (author == coordinator) == bool(shown.countersigned):
            raise Malformed(coordinator, "the coordinator countersigns the heads of all others")
        for each in shown.countersigned:
            if each.member != coordinator:
                raise Malformed(coordinator, "the coordinator countersigns the heads of all others")
            self._under_any_keys(partial(check_countersignature, new, each, peer=coordinator))
        compare_views(self._views, new, coordinator=coordinator)
        self._must_be_new(coordinator, new)
        if author == self._name:
            if number not in self._own or self._own[number].signed != new:
                raise Inconsistent(self._name, "a log is signed as it is kept here: this folder is an older copy")
            follow(self._last.get(author), new, shown.proof, peer=coordinator)
            self._keep(shown)
            return []
        given = self._countersign(new, shown.proof, coordinator)
        if witness_of(author, number, self._roster.sites) != self._name:
            self._keep(shown)
            return []
        self._keep(shown, (author, number, self._name, given.signature))
        return [Vouch(author, number, given.signature)]

    def _must_be_new(self, coordinator: str, new: SignedHead) -> None:
        """One head of a member and a round, in the order of the study's rounds: else a list could be made to grow."""
        last, rounds = self._last.get(new.head.member), number_of(self._study, len(schedule(self._study)), 0)
        if new.head.round > rounds:  # the coordinator signs one more when the study is over
            raise Malformed(coordinator, "a head of the list is of a round of the study")
        if last is not None and (new.head == last.head or new.head.round < last.head.round):
            raise Malformed(coordinator, "the list has one head of a member and a round")

    def _countersign(self, new: SignedHead, proof: Proof, peer: str) -> Countersignature:
        """What this node says of a head that follows; whether it says it is the caller's. Raises as `follow`."""
        last = self._last.get(new.head.member)
        try:
            return countersign(self._identity, self._name, last, new, proof, peer=peer)
        except FaultyPeer:
            if last is None or self._is_of_present_keys(last):
                raise
        return countersign(self._identity, self._name, None, new, proof, peer=peer)  # it joined anew: with a new log

    def _under_any_keys(self, check: Check) -> None:
        """A head of the list may be from before its member changed keys. Raises what `check` does of present ones."""
        try:
            check(roster=self._roster)
        except FaultyPeer:
            if not any(_passes(check, roster) for roster in self._former()):
                raise

    def _former(self) -> list[Roster]:
        edition = load_trust(self._store.folder).accepted
        return [] if edition is None else rosters_of([edition])

    def _has_not_seen(self, site: str, seen: int) -> bool:
        """Whether its own last head stands behind the first `seen` of the list."""
        last = self._last.get(site)
        shown = self._held.get(site) != SHOWN_NOTHING
        return shown and last is not None and self._numbers[site] >= seen and self._is_of_present_keys(last)

    def _is_of_present_keys(self, last: SignedHead) -> bool:
        return _passes(partial(check_head, last, peer=last.head.member, study=self._digest), self._roster)

    def _vouched(self, site: str, message: LogWitness) -> None:
        if message.seen >= len(self._views):
            raise Inconsistent(site, "a site holds no more heads than it was shown")
        for author, number, signature in ((one.author, one.round, one.signature) for one in message.vouches):
            signed = self._every.get((author, number))
            if signed is None:
                raise Inconsistent(site, "a witness vouches for a head that it was shown")
            given = Countersignature(site, signature)
            check_countersignature(signed, given, peer=site, roster=self._roster)
            self._store.keep_vouch(author, number, site, signature)
        if self._held.get(site) != SHOWN_NOTHING:
            self._hold(site, max(message.seen, self._held.get(site, 0)))

    def _hold(self, site: str, heads: int) -> None:
        self._held[site] = heads
        self._store.put(**{"heads-held": msgspec.json.encode(self._held)})

    # --- shared parts ---

    def _sign(self, number: int) -> None:
        for leaf in self._store.leaves_from(len(self._tree)):
            self._tree.append(leaf_hash(leaf))
        seen = len(self._views) - 1
        # What the other end may not have taken cannot be what it checks from: at a site, the last head shown to it.
        if self._name in self._last:
            before = self._last[self._name].head.size
        elif seen:  # none of this site's is in the list: what it signed went with rounds that were over without it
            before = 0
        else:  # a site that is shown no list goes by what it signed itself
            before = max((own.signed.head.size for own in self._own.values()), default=0)
        head = Head(
            1, self._digest, self._name, number, len(self._tree), self._tree.root(), NO_LEDGER, seen, self._views[seen]
        )
        own = LogHead(sign_head(self._identity, head), self._tree.consistency(before))
        self._store.keep_own(number, encode(own))
        self._own[number] = own

    def _signed(self, raw: bytes) -> LogHead:
        message = decode(Kind.SHARE, raw, self._name)
        if isinstance(message, LogHead):
            return message
        raise RuntimeError("a head that was kept is none")

    def _keep(self, shown: Shown, vouch: tuple[str, int, str, bytes] | None = None) -> None:
        """One more head of the list, on disk before anything is said of it."""
        self._store.keep_head(len(self._views) - 1, _ENCODER.encode(shown), vouch)
        self._believe(shown.signed)

    def _believe(self, signed: SignedHead) -> None:
        self._last[signed.head.member] = signed
        self._numbers[signed.head.member] = len(self._views) - 1
        self._every[signed.head.member, signed.head.round] = signed
        self._views.append(viewed(self._views[-1], signed))


def _passes(check: Check, roster: Roster) -> bool:
    try:
        check(roster=roster)
    except FaultyPeer:
        return False
    return True
