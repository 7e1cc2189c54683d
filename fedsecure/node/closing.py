"""A node at the end of its study: it leaves the evidence of its log (audit.evidence), signed by its own key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import msgpack

from fedsecure.audit import evidence
from fedsecure.audit.evidence import Closing, Witnessed
from fedsecure.audit.log import Policy
from fedsecure.config import Study, dump
from fedsecure.node.membership import load_trust
from fedsecure.node.store import Store
from keys.identity import Identity
from protocols.tlog.merkle import leaf_hash
from protocols.tlog.tree import Tree

_ENCODER: Final = msgpack.Encoder()


def close_log(
    store: Store, name: str, study: Study, identity: Identity, policy: Policy, results: Mapping[str, bytes]
) -> None:
    """Write `evidence/` into the node's folder. results: files that came of the study, which stay where they are.

    Raises RosterError if the folder has no roster.
    """
    leaves = list(store.leaves_from(0))
    tree = Tree(leaf_hash(leaf) for leaf in leaves)
    edition = load_trust(store.folder).accepted
    vouches = (Witnessed(*each) for each in store.vouches())
    files = {
        evidence.LEAVES: evidence.joined(leaves),
        evidence.HEADS: evidence.joined(store.heads()),
        evidence.VOUCHES: evidence.joined(map(_ENCODER.encode, vouches)),
        evidence.STUDY: dump(study),
        evidence.POLICY: policy.to_bytes(),
        evidence.ROSTER: b"" if edition is None else edition.to_bytes(),
    }
    for each, raw in files.items():
        store.write(f"{evidence.FOLDER}/{each}", raw)
    closing = Closing(1, study.digest(), name, len(tree), tree.root(), evidence.named(files), evidence.named(results))
    store.write(f"{evidence.FOLDER}/{evidence.CLOSING}", evidence.signed(identity, closing))
