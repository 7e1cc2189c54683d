"""The evidence of a run's logs, and nothing else of it, in a folder that can be handed to an outsider."""

from __future__ import annotations

import shutil
from pathlib import Path

from fedsecure.audit import evidence
from fedsecure.errors import SettingsError


def export(run: Path, out: Path) -> int:
    """Copy the evidence of every node to the same place below `out`. Gives how many nodes there were.

    Files are named one by one: what else lies beside them stays. Raises SettingsError.
    """
    folders = evidence.folders(run)
    if not folders:
        raise SettingsError("there is no evidence here: it is written when a study is over")
    if out.exists():
        raise SettingsError("the folder for the export is there already: name a new one")
    for folder in folders:
        to = out / folder.relative_to(run) / evidence.FOLDER
        try:
            to.mkdir(parents=True)
            for name in (*evidence.FILES, evidence.CLOSING):
                shutil.copyfile(folder / evidence.FOLDER / name, to / name)
        except OSError as error:
            raise SettingsError(f"the evidence cannot be copied: {error.strerror}") from None
    return len(folders)
