"""`fedsecure audit verify`: what the evidence of a run proves, offline, with public keys alone.

    files        each node's evidence is what it signed when it closed
    roster       whose keys those are; pinned, or only what the run says of itself
    study        all nodes ran one study
    heads        each head is signed by its member and is of the log that is here; they follow from each other
    one list     all members were shown one list of heads
    witnesses    each head was countersigned by the coordinator and by another site
    both ends    what one member logged as sent is what the other logged as taken, byte for byte
    policy, code each message left under the policy and the release that are named
    models       each round had one model for all, and what came of the study is what the last of them was
    budget       what the study promises about patients

A check is proved, failed or open. Open is what this evidence cannot decide; the text says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fedsecure.audit import evidence
from fedsecure.audit.heads import AUDITOR, heads
from fedsecure.audit.log import code
from fedsecure.audit.models import models
from fedsecure.audit.reconcile import both_ends
from fedsecure.audit.testimony import Broken, Finding, Status, Testimony, read, rosters_of
from fedsecure.errors import SettingsError
from keys.edition import Edition
from keys.errors import KeysError
from keys.roster import Roster
from protocols.errors import FaultyPeer
from protocols.messages import Kind
from protocols.tlog.checkpoint import check_countersignature, viewed, witness_of
from protocols.tlog.leaf import Received, Refused, Sent
from protocols.tlog.messages import NO_LEDGER, NO_VIEW, Countersignature, SignedHead

PROVED, OPEN, FAILED = Status.PROVED, Status.OPEN, Status.FAILED


def verify(run: Path, pinned: Edition | None = None, releases: Sequence[str] = ()) -> list[Finding]:
    """Every check on the run in this folder. pinned: the roster whose keys count, got by another way than the run.
    releases: digests of releases that may have run it, in hex; empty: the one that is installed here.

    Raises SettingsError if there is no evidence.
    """
    folders = evidence.folders(run)
    if not folders:
        below = sorted(path.name for path in run.glob("*") if evidence.folders(path))
        raise SettingsError(
            "there is no evidence here: it is written when a study is over. Name a run's folder, or a node's"
            + (f": one of {', '.join(below)} below it" if below else "")
        )
    findings, nodes = [], {}
    for folder in folders:
        label = folder.name if folder != run else "this node"
        try:
            one = read(folder, pinned)
        except Broken as error:
            findings.append(Finding("files", label, FAILED, str(error)))
            continue
        if one.name in nodes:
            findings.append(Finding("files", label, FAILED, f"closed by {one.name}, who has closed another"))
            continue
        nodes[one.name] = one
        findings.append(Finding("files", one.name, PROVED, f"{len(evidence.FILES)} files, {len(one.tree):,} leaves"))
    if not nodes:
        return findings
    return [*findings, *_together(run, nodes, pinned, releases)]


def edition(path: Path) -> Edition:
    """A roster from a file, whose signatures hold. Raises SettingsError."""
    try:
        given = Edition.from_bytes(path.read_bytes())
        given.check_signatures()
    except OSError as error:
        raise SettingsError(f"the roster cannot be read: {error.strerror}") from None
    except KeysError as error:
        raise SettingsError(f"the roster does not hold: {error}") from None
    return given


def _together(
    run: Path, nodes: dict[str, Testimony], pinned: Edition | None, releases: Sequence[str]
) -> Iterator[Finding]:
    every = list(nodes.values())
    yield from _roster(every, pinned)
    yield from _study(every)
    signed, lost = heads(nodes)
    yield signed
    yield from _one_list(nodes)
    yield from _witnesses(nodes)
    yield from both_ends(nodes, lost)
    for one in every:
        yield _policy(one)
        yield _code(one, releases)
    yield from models(run, nodes)
    yield _budget(every)


def _roster(every: list[Testimony], pinned: Edition | None) -> Iterator[Finding]:
    digests = {one.edition.digest for one in every}
    newest = max((one.edition for one in every), key=lambda edition: edition.version)
    if len({edition.federation for edition in (one.edition for one in every)}) > 1:
        yield Finding("roster", "", FAILED, "nodes are of two federations")
    elif len(digests) > 1:
        yield Finding("roster", "", OPEN, "nodes ended with different versions of the roster")
    if pinned is None:
        text = f"not pinned: version {newest.version}, as the run says of itself; --keys ROSTER names one you trust"
        yield Finding("roster", "", OPEN, text)
    else:
        yield Finding("roster", "", PROVED, f"version {pinned.version}, as given")
    missing = sorted(set(newest.members) - {one.name for one in every})
    if missing:
        yield Finding("roster", "", OPEN, f"no evidence of {', '.join(missing)} is here")


def _study(every: list[Testimony]) -> Iterator[Finding]:
    digests = Counter(one.closing.study for one in every)
    (most, _), *others = digests.most_common()
    if others:
        names = ", ".join(one.name for one in every if one.closing.study != most)
        yield Finding("study", "", FAILED, f"{names}: of another study than the rest")
    else:
        yield Finding("study", "", PROVED, most.hex())


def _one_list(nodes: dict[str, Testimony]) -> Iterator[Finding]:
    longest = max((one.heads for one in nodes.values()), key=len)
    views = [NO_VIEW]
    for shown in longest:
        views.append(viewed(views[-1], shown.signed))
    for one in nodes.values():
        if one.heads != longest[: len(one.heads)]:
            number = next(n for n, pair in enumerate(zip(one.heads, longest, strict=False)) if pair[0] != pair[1])
            yield Finding("one list", one.name, FAILED, f"the coordinator showed it another head {number} than others")
            return
    for number, shown in enumerate(longest):
        head = shown.signed.head
        if head.seen > number or views[head.seen] != head.view:
            text = f"head {number}, of {head.member}: names another list than the one that is here"
            yield Finding("one list", head.member, FAILED, text)
            return
    yield Finding("one list", "", PROVED, f"{len(longest):,} heads")


def _witnesses(nodes: dict[str, Testimony]) -> Iterator[Finding]:
    rosters = rosters_of([one.edition for one in nodes.values()])
    every = {(s.signed.head.member, s.signed.head.round): s for one in nodes.values() for s in one.heads}
    vouched, checked = set(), set()
    for one in nodes.values():
        for vouch in one.vouches:
            if vouch in checked:  # a witness has it, and the coordinator
                continue
            checked.add(vouch)
            shown = every.get((vouch.author, vouch.round))
            given = Countersignature(vouch.member, vouch.signature)
            turns = {witness_of(vouch.author, vouch.round, roster.sites) for roster in rosters}
            if shown is None or vouch.member not in turns or not _vouches(shown.signed, given, rosters):
                text = f"{vouch.member} is no witness of the head of {vouch.author} after round {vouch.round}"
                yield Finding("witnesses", one.name, FAILED, text)
                return
            vouched.add((vouch.author, vouch.round))
    coordinator = rosters[0].coordinator
    for (author, round_), shown in every.items():
        alone = not shown.countersigned
        if alone != (author == coordinator) or not all(
            each.member == coordinator and _vouches(shown.signed, each, rosters) for each in shown.countersigned
        ):
            text = f"the coordinator did not sign the head of {author} after round {round_}"
            yield Finding("witnesses", author, FAILED, text)
            return
    lone = sorted(f"{author} after round {round_}" for author, round_ in every.keys() - vouched)
    if lone:
        yield Finding("witnesses", "", OPEN, f"no site vouched for {len(lone)} of {len(every)} heads: {lone[0]} ...")
    else:
        yield Finding("witnesses", "", PROVED, f"the coordinator's and a site's for each of {len(every):,} heads")
    ends = {one.name: max((s.signed.head.size for s in one.heads if s.signed.head.member == one.name), default=0)
            for one in nodes.values()}  # fmt: skip
    behind = sum(len(one.tree) - ends[one.name] for one in nodes.values())
    yield Finding("witnesses", "", OPEN, f"{behind:,} leaves behind the last heads: signed by their authors alone")


def _vouches(signed: SignedHead, given: Countersignature, rosters: Iterable[Roster]) -> bool:
    for roster in rosters:
        try:
            check_countersignature(signed, given, peer=AUDITOR, roster=roster)
        except FaultyPeer:
            continue
        return True
    return False


def _policy(one: Testimony) -> Finding:
    name, policy = one.name, one.policy
    left = [leaf for leaf in one.leaves if isinstance(leaf, Sent)]
    released = sum(leaf.size for leaf in left if leaf.kind is Kind.RELEASE)
    if policy.study != one.closing.study.hex():
        return Finding("policy", name, FAILED, "the policy is of another study")
    if any(leaf.size > policy.frames for leaf in left):
        return Finding("policy", name, FAILED, "a message over the policy's limit left")
    if policy.uploads is not None and released > policy.uploads:
        return Finding("policy", name, FAILED, "more left than the policy lets out over a study")
    other = sum(leaf.policy != one.policy_digest for leaf in one.leaves if not isinstance(leaf, Received))
    refused = Counter(str(leaf.reason) for leaf in one.leaves if isinstance(leaf, Refused))
    told = f"{released:,} bytes released" + "".join(f"; {count} refused for {why}" for why, count in refused.items())
    if other:
        return Finding("policy", name, OPEN, f"{told}; {other:,} leaves are of a policy that is not here")
    if name != one.edition.coordinator and not policy.content_tests:
        return Finding("policy", name, OPEN, f"{told}; its gate did not look at content (content_tests = false)")
    return Finding("policy", name, PROVED, told)


def _code(one: Testimony, releases: Sequence[str]) -> Finding:
    expected = {bytes.fromhex(release) for release in releases} or {code()}
    ran = {leaf.code for leaf in one.leaves if not isinstance(leaf, Received)}
    if ran <= expected:
        return Finding("code", one.name, PROVED, ", ".join(sorted(each.hex() for each in ran)))
    others = ", ".join(sorted(each.hex() for each in ran - expected))
    text = f"ran {others}, and that is no release that was given: install it here, or name it with --release"
    return Finding("code", one.name, FAILED, text)


def _budget(every: list[Testimony]) -> Finding:
    if any(shown.signed.head.ledger != NO_LEDGER for one in every for shown in one.heads):
        return Finding("budget", "", OPEN, "a head names a budget ledger, and none is among the evidence")
    if any(leaf.budget >= 0 for one in every for leaf in one.leaves if not isinstance(leaf, Received)):
        return Finding("budget", "", FAILED, "a leaf says what is left of a budget in a study that has none")
    return Finding("budget", "", OPEN, "nothing is noised: no bound holds for what a release says of a patient")
