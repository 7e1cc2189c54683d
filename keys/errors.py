"""What can go wrong with keys.

    KeysError
    ├── IdentityError       this node's own identity file cannot be used: its operator can fix it
    ├── RosterError         the roster does not hold, or lacks whoever is asked for
    ├── InvalidSignature    these bytes were not signed by this key under this label
    └── CannotOpen          this ciphertext was not sealed to this key under this context

A text never holds a key, a path or content: texts end up in logs. Who is to blame for a bad signature or ciphertext is
known one level up, see `protocols.errors`.
"""

from __future__ import annotations


class KeysError(Exception):
    """Base of the errors of this package."""


class IdentityError(KeysError):
    """The identity file is missing, exposed to other users or damaged. The text says what to do."""


class RosterError(KeysError):
    """The roster's bytes or members break a rule, or somebody is not a member."""


class InvalidSignature(KeysError):
    """The signature is not this identity's over these bytes under this label."""


class CannotOpen(KeysError):
    """The ciphertext was not sealed to this identity under this context, or was altered."""
