"""One node's evidence, read and checked by itself: what it says, signed, and whether it agrees with what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from fedsecure.audit import evidence
from fedsecure.audit.evidence import Closing, Witnessed
from fedsecure.audit.log import Policy
from fedsecure.config import Study, load
from fedsecure.errors import FedsecureError
from keys.edition import Edition
from keys.errors import KeysError
from keys.identity import PublicIdentity
from keys.roster import Roster
from protocols.errors import FaultyPeer
from protocols.tlog.leaf import Leaf, decode_leaf
from protocols.tlog.merkle import leaf_hash
from protocols.tlog.messages import Shown
from protocols.tlog.tree import Tree


class Status(StrEnum):
    PROVED = "proved"
    OPEN = "open"  # neither proved nor refuted, and the text says why
    FAILED = "failed"


class Finding(NamedTuple):
    """check: what was looked at. node: whose evidence; empty: all of it."""

    check: str
    node: str
    status: Status
    detail: str


class Broken(Exception):
    """A file of a node's evidence is not what was signed, or not what it must be."""


class Testimony(NamedTuple):
    """A node's evidence whose files are those that it signed. `tree`: of all leaves."""

    folder: Path
    closing: Closing
    edition: Edition
    study: Study
    policy: Policy
    policy_digest: bytes
    leaves: list[Leaf]
    tree: Tree
    heads: list[Shown]
    vouches: list[Witnessed]

    @property
    def name(self) -> str:
        return self.closing.member


_POLICY: Final = msgspec.json.Decoder(Policy)
_ALL: Final = frozenset((*evidence.FILES, evidence.CLOSING))


def read(folder: Path, pinned: Edition | None) -> Testimony:
    """The evidence in `folder`/evidence. pinned: whose keys count; None: those of the roster that lies beside it.

    Raises Broken, which says where.
    """
    where = folder / evidence.FOLDER
    files = _files(where)
    raw = files.pop(evidence.CLOSING)
    # 1. The closing is one, and its author, who is a member, has signed it.
    closing = _closing(raw)
    edition = _edition(files[evidence.ROSTER]) if pinned is None else pinned
    _check_signature(raw, closing, edition)
    # 2. Each file is the one that it names, and there is no other.
    said = {one.name: one.digest for one in closing.files}
    if said.keys() != files.keys():
        raise Broken("closing: it names other files than are here")
    for name, content in files.items():
        if hashlib.sha256(content).digest() != said[name]:
            raise Broken(f"{name}: not the file that {closing.member} signed")
    # 3. Study and policy are what all leaves are about.
    study = _study(files[evidence.STUDY])
    if study.digest() != closing.study:
        raise Broken("study.json: not the study that the log is of")
    policy = _policy(files[evidence.POLICY])
    # 4. Leaves are leaves, in their places, and make the tree whose root was signed.
    try:
        name = closing.member
        encoded = evidence.split(files[evidence.LEAVES], name)
        leaves = [decode_leaf(leaf, index, name) for index, leaf in enumerate(encoded)]
        heads = evidence.items_of(evidence.SHOWN, files[evidence.HEADS], name, "a head")
        vouches = evidence.items_of(evidence.WITNESSED, files[evidence.VOUCHES], name, "a witness' signature")
    except FaultyPeer as error:
        raise Broken(f"{error.rule}, in the log of {error.peer}") from None
    tree = Tree(leaf_hash(leaf) for leaf in encoded)
    if (len(tree), tree.root()) != (closing.size, closing.root):
        raise Broken("leaves: their tree is not the one that was signed")
    digest = hashlib.sha256(files[evidence.POLICY]).digest()
    return Testimony(folder, closing, edition, study, policy, digest, leaves, tree, heads, vouches)


def publics(editions: Iterable[Edition], name: str) -> list[PublicIdentity]:
    """All keys under which a member may have signed: its present ones, those before, those that were revoked."""
    found: list[PublicIdentity] = []
    for edition in editions:
        if name in edition.members:
            found.append(edition.members[name].public)
        if name in edition.rotated:
            found.append(edition.rotated[name].old)
        found += [entry.public for entry in edition.revoked if entry.name == name]
    return list(dict.fromkeys(found))


def rosters_of(editions: Sequence[Edition]) -> list[Roster]:
    """One roster of the members' present keys, and as many more as it takes to have each former key in one."""
    names = {name for edition in editions for name in (*edition.members, *(gone.name for gone in edition.revoked))}
    keys = {name: publics(editions, name) for name in names}
    most = max(map(len, keys.values()))
    members = ({name: known[min(at, len(known) - 1)] for name, known in keys.items()} for at in range(most))
    return [Roster(editions[0].coordinator, each) for each in members]


def _files(where: Path) -> dict[str, bytes]:
    try:
        names = {path.name for path in where.iterdir()}
        if missing := _ALL - names:
            raise Broken(f"files are missing: {', '.join(sorted(missing))}")
        if others := names - _ALL:
            raise Broken(f"files that are no evidence lie among it: {len(others)}")  # their names may be anybody's
        return {name: (where / name).read_bytes() for name in names}
    except OSError as error:
        raise Broken(f"a file cannot be read: {error.strerror}") from None


def _closing(raw: bytes) -> Closing:
    try:
        return evidence.read_closing(raw, "whoever closed it")
    except FaultyPeer as error:
        raise Broken(f"closing: {error.rule}") from None


def _edition(raw: bytes) -> Edition:
    try:
        edition = Edition.from_bytes(raw)
        edition.check_signatures()
    except KeysError as error:
        raise Broken(f"roster: {error}") from None
    return edition


def _check_signature(raw: bytes, closing: Closing, edition: Edition) -> None:
    for public in publics([edition], closing.member):
        try:
            evidence.check_closing(raw, closing.member, public)
        except FaultyPeer:
            continue
        return
    raise Broken(f"closing: not signed with the keys that the roster has for {closing.member}")


def _study(raw: bytes) -> Study:
    try:
        return load(Study, raw)
    except (FedsecureError, ValueError):
        raise Broken("study.json: no study") from None


def _policy(raw: bytes) -> Policy:
    try:
        policy = _POLICY.decode(raw)
    except msgspec.DecodeError:
        raise Broken("policy.json: no policy") from None
    if policy.to_bytes() != raw:
        raise Broken("policy.json: not in its one form")
    return policy
