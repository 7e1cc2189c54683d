"""Writes the frozen vectors beside this file, or into the folder given. A second run gives the same bytes.

    PYTHONPATH=. python tests/vectors/generate.py

Every case states what must come of it *by hand*: "ok", or the error's class, the rule it quotes and the peer it blames.
One test runs the implementation over the files; another demands that this script still gives exactly these files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bodies import message_vectors
from boxes import box_vectors
from enrolling import invitation_vectors, join_vectors
from frames import frame_vectors
from logs import checkpoint_vectors, head_vectors, leaf_vectors, proof_vectors
from rosters import roster_vectors, rotation_vectors
from sessions import answer_vectors, offer_vectors, session_vectors
from summing import sum_vectors
from texts import endorsement_vectors, identity_vectors, public_vectors, signature_vectors
from trusting import trust_vectors
from world import IDENTITIES, MAXIMUM, NAMES, STUDY, Case, edition


def files() -> Mapping[str, str]:
    """File name -> content of every vector file."""
    context = {
        "study": STUDY.hex(),
        "maximum": MAXIMUM,
        "roster": edition("site-a", "site-b").to_bytes().decode(),
        "private": {name: [key.hex() for key in IDENTITIES[name].raw] for name in NAMES},
    }
    parts: dict[str, tuple[str, Callable[[], list[Case]]]] = {
        "frames": ("Deliver `frame` as from `peer` to `me`, who accepted the numbers in `last` before.", frame_vectors),
        "messages": ("Decode `body` as a message of `kind` from site-a.", message_vectors),
        "boxes": ("Open `box` (its encoding) as `me`, for `stage`, `round` and `sender`.", box_vectors),
        "offers": ("Take the offer `packet` from `peer` as `me`, who has seen boot `least_boot`.", offer_vectors),
        "answers": ("Take `packet` as the answer to `offer`, made with the private `ephemerals`.", answer_vectors),
        "sessions": (
            "Take `packets` of site-a under the keys given; `frames` come of them, or an error of the last.",
            session_vectors,
        ),
        "identity": ("Load `file`, of mode 0600, with `passphrase` if there is one.", identity_vectors),
        "public": ("Read `text` as public keys.", public_vectors),
        "signatures": ("Verify `signature` of `signer` over `data` under `label`.", signature_vectors),
        "endorsements": ("Verify `endorsement` of `public` over `data` under `label`.", endorsement_vectors),
        "roster": ("Parse `file` as a roster. Nothing is verified yet.", roster_vectors),
        "rotation": ("Parse `file` as a request to change keys and check its signatures.", rotation_vectors),
        "trust": ("Under the trust file `trust`, accept the roster `file` at `now`: `after` is left.", trust_vectors),
        "invitation": ("Parse `file` as an invitation.", invitation_vectors),
        "join": (
            "Redeem the request `file` at `now` from the invitations in `register`; `after` is left.",
            join_vectors,
        ),
        "leaves": ("Decode `leaf`, found at `index` of the log of `peer`; `hash` stands for it.", leaf_vectors),
        "proofs": ("Verify `proof` of a leaf in a tree, or of a tree in a later one.", proof_vectors),
        "heads": (
            "Countersign `head` from `peer` as `me`, whose last head of that member is `last`.",
            head_vectors,
        ),
        "checkpoints": ("Read `checkpoint` from `peer`.", checkpoint_vectors),
    }
    told = (
        "`expect` is ok, or the class of the error, whose text contains `rule` and which blames `blame`. Bytes are hex."
    )
    summed, sums = sum_vectors()
    how = (
        "Play the sum of `by` and `to` (kind and body of each message) up to `step`, then give `site`, whose ledger is "
        "`ledger` if there is one, what is to come `to` it, or the coordinator what is `by` it, with bytes from "
        "splice[0] to splice[1] replaced by splice[2]."
    )
    written = {
        name: {"how": f"{how} {told}", "context": context, "cases": make()} for name, (how, make) in parts.items()
    }
    written["secagg"] = {"how": f"{how} {told}", "context": {**context, **summed}, "cases": sums}
    return {f"{name}.json": json.dumps(content, indent=1) + "\n" for name, content in written.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, content in files().items():
        (folder / name).write_text(content, "utf-8")
        cases = json.loads(content)["cases"]
        failing = sum(case["expect"] != "ok" for case in cases)
        sys.stdout.write(f"{name}: {len(cases)} cases, {failing} must fail\n")
