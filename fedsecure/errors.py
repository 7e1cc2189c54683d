"""Who is to blame: the tree of errors a user of fedsecure can meet.

    FedsecureError
    ├── SettingsError        the operator set something wrong (a study, a site file, a flag)
    ├── DataError            a file of the site's own data cannot be used
    └── GateRefused          the egress gate refused to let something out

Errors of peers live in `protocols.errors`; a bug of ours stays an `AssertionError` or `RuntimeError`.
No message holds a path, a patient's name or a header value: messages end up in logs. What the owner of
the data needs to find the file is kept apart, see `DataError.for_owner`.
"""

from __future__ import annotations

from pathlib import Path


class FedsecureError(Exception):
    """Base of all errors whose text is written for the person at the terminal."""


class SettingsError(FedsecureError):
    """A setting is missing, contradictory or out of range. The text says which and what to write."""


class DataError(FedsecureError):
    """One file of the data source cannot be used.

    `str(error)` gives the reason alone and is safe to log. `for_owner()` names the file and is printed only on the
    terminal of the site that owns it.
    """

    def __init__(self, reason: str, file: Path | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self._file = file

    def for_owner(self) -> str:
        """The reason with the file's name. For the data owner's own terminal; never for a log or a peer."""
        return self.reason if self._file is None else f"{self._file}: {self.reason}"


class GateRefused(FedsecureError):
    """The egress gate refused a release: wrong schema, over a cap, or not finite. Nothing has left.

    reason: one of `protocols.tlog.leaf.Reason`, as the log has it.
    """

    def __init__(self, text: str, reason: str = "schema") -> None:
        super().__init__(text)
        self.reason = reason
