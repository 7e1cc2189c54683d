"""The two ends of `fedsecure doctor` on the wire. Each takes notes and asks for notes; neither knows a socket.

site -> coordinator   Inquiry, every second until it is answered
coordinator -> sites  Inquiry back; once all are there, or who is late was waited for long enough, Begin
first site            draws the key and sends a KeyShare for each other site, which the coordinator relays
every site            Digests; the coordinator answers all of them with Verdicts
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fedsecure.agreement import (
    AGREEMENTS,
    KEY_SIZE,
    SESSION_SIZE,
    Agreement,
    Begin,
    Category,
    Digests,
    Inquiry,
    KeyShare,
    Verdicts,
    digests,
    grouped,
    open_key,
    share_key,
)
from fedsecure.config import Study
from fedsecure.greeting import differing, settings_of
from fedsecure.node.checks import UNSAID, Finding, Level
from fedsecure.node.membership import Own
from protocols.errors import Malformed, ProtocolError

EVERY_S: Final = 1.0
SKEW_S: Final = 60.0  # warned of; ten minutes are refused in a study (keys/SPEC.md, Trust)
Say = Callable[[Agreement], None]
Entropy = Callable[[int], bytes]


class _End(ABC):
    def __init__(self, own: Own, study: Study, versions: Mapping[str, str], say: Say, entropy: Entropy) -> None:
        self._own, self._study, self._versions, self._say, self._entropy = own, study, dict(versions), say, entropy
        self._parts = tuple(settings_of(study).values())
        self.findings: list[Finding] = []
        self.done = False

    def receive(self, peer: str, raw: bytes) -> None:
        """A note came; one that does not hold is a finding."""
        try:
            if peer not in self._own.roster.members or peer == self._own.name:
                return
            note = AGREEMENTS.open(raw, peer=peer, me=self._own.name, public=self._own.roster.members[peer])
            self._take(note)
        except ProtocolError as error:
            self.refused([error])

    def refused(self, errors: Sequence[ProtocolError]) -> None:
        """The transport refused something of a peer: a finding, once for each rule."""
        for error in errors:
            finding = Finding("failed", "peer", str(error))
            if finding not in self.findings:
                self.findings.append(finding)

    @abstractmethod
    def _take(self, note: Agreement) -> None:
        """A note that holds. Raises a FaultyPeer."""

    def _inquiry(self, peer: str, answers: int) -> Inquiry:
        return Inquiry(self._own.name, peer, self._parts, tuple(sorted(self._versions.items())), _now_ms(), answers)

    def _compare(self, note: Inquiry, skew_s: float) -> list[Finding]:
        """What a peer's inquiry says beside this node's own."""
        peer, found = note.sender, []
        names = differing(self._study, note.parts)
        found.append(Finding("failed" if names else "ok", "study", f"{peer}: {', '.join(names) or 'the same'}"))
        late = abs(skew_s) > SKEW_S
        found.append(Finding("warning" if late else "ok", "clock", f"{peer}: {skew_s:+.1f} s from this one"))
        theirs = dict(note.versions)
        other = [f"{name} {theirs.get(name, 'none')} for {mine}" for name, mine in self._versions.items()
                 if theirs.get(name) != mine]  # fmt: skip
        minor = _minor(theirs.get("fedsecure", "")) != _minor(self._versions["fedsecure"])
        level: Level = "failed" if minor else "warning" if other else "ok"
        return [*found, Finding(level, "versions", f"{peer}: {', '.join(other) or 'the same'}")]


class CoordinatorEnd(_End):
    """Waits for the study's sites, and compares those that came when `wait_s` are over."""

    def __init__(
        self, own: Own, study: Study, versions: Mapping[str, str], say: Say, entropy: Entropy, *, wait_s: float
    ) -> None:
        super().__init__(own, study, versions, say, entropy)
        self._sites = sorted(member.name for member in self._study.sites)
        self._wait_s, self._began = wait_s, time.monotonic()
        self._here: dict[str, list[Finding]] = {}
        self._session = b""
        self._sent: dict[str, tuple[bytes, ...]] = {}
        self._comparing: list[str] = []

    def tick(self, now: float) -> None:
        """now: of the monotonic clock."""
        over = now - self._began > self._wait_s
        if not self._session and (len(self._here) == len(self._sites) or (over and len(self._here) > 1)):
            self._begin()
        elif over and not self._session:
            self._finish({})
        elif now - self._began > 2 * self._wait_s:
            self._finish(self._sent)

    def _begin(self) -> None:
        self._session = self._entropy(SESSION_SIZE)
        self._comparing = sorted(self._here)
        for number, site in enumerate(self._comparing):
            self._say(Begin(self._own.name, site, self._session, number == 0))

    def _take(self, note: Agreement) -> None:
        match note:
            case Inquiry(sender=site) if site in self._sites:
                # One way only: what the note took to come is part of it.
                self._here[site] = self._compare(note, note.at_ms / 1000 - time.time())
                self._say(self._inquiry(site, note.at_ms))
            case KeyShare(sender=site, reader=reader) if site == note.author and reader in self._comparing:
                self._say(KeyShare(self._own.name, reader, note.session, site, reader, note.sealed, note.signature))
            case Digests(sender=site, session=session, digests=sent) if session == self._session:
                self._sent[site] = sent
                if sorted(self._sent) == self._comparing:
                    self._finish(self._sent)
            case _:
                pass

    def _finish(self, sent: Mapping[str, tuple[bytes, ...]]) -> None:
        self.done = True
        for site in self._sites:
            self.findings += self._here.get(site, [Finding("failed", "site", f"{site} did not come")])
        if len(sent) < 2:
            self.findings.append(Finding("warning", "sites", "fewer than two answered: nothing was compared"))
            return
        sites, groups = tuple(sorted(sent)), grouped(sent)
        for site in sites:
            self._say(Verdicts(self._own.name, site, self._session, sites, groups))
        self.findings += agreed(sites, groups)


class SiteEnd(_End):
    """Asks, and compares `values` when the coordinator says so."""

    def __init__(
        self, own: Own, study: Study, versions: Mapping[str, str], say: Say, entropy: Entropy, *,
        values: Mapping[Category, str] | None,
    ) -> None:  # fmt: skip
        super().__init__(own, study, versions, say, entropy)
        self._values = values
        self._coordinator = self._own.roster.coordinator
        self._next = 0.0
        self._answered = False
        self._session, self._key = b"", b""

    def tick(self, now: float) -> None:
        """now: of the monotonic clock."""
        if now >= self._next and not self._session:
            self._next = now + EVERY_S
            self._say(self._inquiry(self._coordinator, 0))

    def _take(self, note: Agreement) -> None:
        match note:
            case Inquiry() if not self._answered:
                self._answered = True
                # Half of the way there and back.
                there = (_now_ms() + note.answers) / 2
                self.findings += self._compare(note, (note.at_ms - there) / 1000)
            case Begin(session=session, leads=leads) if not self._session:
                self._session = session
                if leads:
                    self._lead()
            case KeyShare() if self._session and not self._key:
                key = open_key(note, self._session, self._own.name, self._own.identity, self._own.roster)
                self._send(key)
            case Verdicts(session=session, sites=sites, groups=groups) if session == self._session and session:
                known = set(sites) <= set(self._own.roster.sites)
                if not known or any(len(numbers) != len(sites) for numbers in groups):
                    raise Malformed(note.sender, "verdicts have a number for each site, and sites of the roster")
                self.findings += agreed(sites, groups)
                self.done = True
            case _:
                pass

    def _lead(self) -> None:
        key = self._entropy(KEY_SIZE)
        for member in self._study.sites:
            if member.name != self._own.name and member.name in self._own.roster.sites:
                own = self._own
                self._say(share_key(key, self._session, own.name, own.identity, own.roster, member.name))
        self._send(key)

    def _send(self, key: bytes) -> None:
        self._key = key
        if self._values is not None:
            sums = digests(key, self._session, self._values)
            self._say(Digests(self._own.name, self._coordinator, self._session, sums))
            for category, value in self._values.items():
                if value == UNSAID:
                    self.findings.append(Finding("warning", category, "this site cannot say (modality: in SITE.toml)"))


def agreed(sites: tuple[str, ...], groups: tuple[tuple[int, ...], ...]) -> list[Finding]:
    """One finding for each category: all the same, or who goes with whom."""
    found = []
    for category, numbers in zip(Category, groups, strict=True):
        parties: dict[int, list[str]] = {}
        for site, number in zip(sites, numbers, strict=True):
            parties.setdefault(number, []).append(site)
        if len(parties) == 1:
            found.append(Finding("ok", category, f"the same at {', '.join(sites)}"))
        else:
            apart = " | ".join(" ".join(party) for party in parties.values())
            found.append(Finding("warning", category, f"not the same: {apart}"))
    return found


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _now_ms() -> int:
    return int(time.time() * 1000)
