"""The identity file: private keys at rest, readable by their owner alone.

Five lines of text, see SPEC.md. The last is the fingerprint, so that a damaged file is noticed here and not as a bad
signature on another site.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from keys.errors import IdentityError
from keys.identity import Identity

_HEADING = "fedsecure identity v1"
_NAMES = ("signing", "sealing", "channel", "fingerprint")
_MAXIMUM = 1024  # bytes; a real file has 290
_DAMAGED = "the identity file is damaged: restore it, or enrol with a new identity"


def save(identity: Identity, path: Path) -> None:
    """Write a new identity file, mode 0600 from its first byte. Raises IdentityError, also if the file exists.

    An identity is never overwritten: what was sealed to it could not be opened again.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            _write(scratch, _format(identity).encode())
            # A link appears whole or not at all, and unlike a rename it refuses to replace.
            os.link(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError:
        raise IdentityError("there is an identity file already: move it away first if it is to be replaced") from None
    except OSError as error:
        raise IdentityError(f"cannot write the identity file: {error.strerror}") from None


def load(path: Path) -> Identity:
    """Read an identity file. Raises IdentityError if others may read it or it is not exactly as it was written."""
    try:
        raw = _read_private(path)
    except OSError as error:
        raise IdentityError(f"cannot read the identity file: {error.strerror}") from None
    try:
        identity = _parse(raw.decode("ascii"))
    except ValueError:
        raise IdentityError(_DAMAGED) from None
    if _format(identity).encode() != raw:
        raise IdentityError(_DAMAGED)
    return identity


def _format(identity: Identity) -> str:
    values = (*(key.hex() for key in identity.raw), identity.fingerprint)
    return "\n".join((_HEADING, *(f"{name} {value}" for name, value in zip(_NAMES, values, strict=True)), ""))


def _parse(text: str) -> Identity:
    """Only as strict as it must be to find the keys: the caller compares with the one right form."""
    fields = [line.partition(" ")[2] for line in text.splitlines()[1:4]]
    signing, sealing, channel = (bytes.fromhex(value) for value in fields)
    return Identity(signing, sealing, channel)


def _write(path: Path, raw: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        # Asked of the open file and not of the path, which could change in between.
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise IdentityError("the identity file is not a regular file")
        if stat.S_IMODE(mode) & 0o077:
            raise IdentityError("other users may read or write the identity file: run chmod 600 on it")
        return file.read(_MAXIMUM)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
