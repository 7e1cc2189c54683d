"""What can end a simulated federation before its time."""

from __future__ import annotations

from fedsecure.errors import FedsecureError


class FederationFailed(FedsecureError):
    """A node stopped for a reason of its own; the text says which node and why."""


class Interrupted(FedsecureError):
    """The operator pressed Ctrl-C. Everything that was finished is on disk."""
