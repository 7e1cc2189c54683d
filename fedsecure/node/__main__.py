"""`python -m fedsecure.node ROLE FOLDER`: one node's process, or a node's training process. Users start `fedsecure`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fedsecure.errors import FedsecureError
from keys.errors import KeysError


def main(arguments: list[str]) -> int:
    os.umask(0o077)  # what a node writes is its hospital's: updates, features, pictures
    try:
        return _node(arguments)
    except (FedsecureError, KeysError) as error:  # its operator's to mend: a sentence, not a traceback with paths
        sys.stderr.write(f"{error}\n")
        return 1


def _node(arguments: list[str]) -> int:
    match arguments:
        case ["worker", folder, descriptor]:
            # Before numpy and torch are loaded: a site computes on its study's threads, never on all cores.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            from fedsecure.node.trainer import serve

            serve(Path(folder), int(descriptor))
            return 0
        case ["index", folder]:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            from fedsecure.node.tapping import serve_index

            serve_index(Path(folder))
            return 0
        case ["site", folder]:
            from fedsecure.node.wiring import explain, run_site

            stop = run_site(Path(folder))
        case ["coordinator", folder, endpoint]:
            from fedsecure.node.wiring import explain, run_coordinator

            stop = run_coordinator(Path(folder), endpoint)
        case _:
            sys.stderr.write("usage: python -m fedsecure.node site FOLDER | coordinator FOLDER ENDPOINT\n")
            return 2
    explain(Path(folder), stop)
    return 0 if stop.reason in ("finished", "interrupted") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
