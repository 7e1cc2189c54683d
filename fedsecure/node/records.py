"""What a node has on record as sent, read without its lock and without changing anything: for audits of a folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedsecure.errors import SettingsError


def sent_sizes(folder: Path) -> list[int]:
    """Bytes of every frame that was ever handed to the transport, in order. Raises SettingsError."""
    path = folder / "node.db"
    if not path.is_file():
        raise SettingsError("this folder has no record of a node (node.db): name a run's folder, or a node's")
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return [int(size) for (size,) in db.execute("SELECT bytes FROM sent ORDER BY seq")]
        finally:
            db.close()
    except sqlite3.Error as error:
        raise SettingsError(f"the node's record cannot be read ({type(error).__name__}): audit a copy of it") from None
