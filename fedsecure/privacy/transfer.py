"""A ledger as JSON, to be read by others, or to go with its patients' tokens to another machine of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from fedsecure.errors import GateRefused
from fedsecure.privacy import chain
from fedsecure.privacy.chain import FIRST, Entry, Head, LedgerBroken
from fedsecure.privacy.ledger import Ledger, open_ledger

_FORMAT: Final = 1


class _Dump(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens of patients are in it only where the owner of the site asks for them."""

    format: int
    entries: tuple[Entry, ...]
    head: str
    patients: dict[str, tuple[str, ...]] | None


def export_ledger(ledger: Ledger, *, patients: bool = False) -> bytes:
    """patients: with their tokens, without which it cannot be imported."""
    tokens = {opened.study: ledger.tokens(opened.study) for opened in ledger.studies()} if patients else None
    return msgspec.json.encode(_Dump(_FORMAT, ledger.entries(), ledger.head.digest.hex(), tokens))


def import_ledger(raw: bytes, path: Path) -> None:
    """Write what `export_ledger(patients=True)` gave as a new ledger file.

    Raises GateRefused if there is a file already, LedgerBroken if the export does not hold or has no patients.
    """
    if path.exists():
        raise GateRefused("there is a ledger already: an import never replaces one")
    try:
        dump = msgspec.json.decode(raw, type=_Dump)
    except msgspec.MsgspecError:
        raise LedgerBroken("not an exported ledger") from None
    if dump.format != _FORMAT or dump.patients is None:
        raise LedgerBroken("the export has no patients: a ledger without them cannot keep their caps")
    head = Head(0, FIRST)
    for entry in dump.entries:
        head = chain.after(head, chain.encode(entry))
    if head.digest.hex() != dump.head:
        raise LedgerBroken("the export's rows do not lead to its head: it was changed")
    with open_ledger(path) as ledger:
        ledger.restore(dump.entries, dump.patients)
