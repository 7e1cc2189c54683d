"""Writes a table's files: OUT/tables/EXPERIMENT.csv, .md, .tex and .svg, of whatever has finished so far."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from fedsecure.files import write_atomic
from fedsecure.report.provenance import redacted
from sim.reproduce import texts
from sim.reproduce.plots import draw
from sim.reproduce.protocols import Protocol, load_paper
from sim.reproduce.record import Record
from sim.reproduce.shards import Asked, Expanded
from sim.reproduce.tables import Table, table_of

TABLES: Final = "tables"


def publish(
    out: Path, protocol: Protocol, asked: Asked, expanded: Expanded, records: Sequence[Record], arguments: Sequence[str]
) -> Table:
    """Write all four files and return the table. A table of validation patients has "validation" in its name, so that
    it is never taken for the other. Raises SettingsError without matplotlib."""
    experiment = protocol.experiments[asked.experiment]
    paper = load_paper().get(asked.experiment)
    table = table_of(expanded.arms, experiment.modes, expanded.labelled, records, paper)
    heading = texts.Heading(
        experiment=asked.experiment,
        about=experiment,
        budget=asked.budget,
        command=redacted(arguments),
        written=datetime.now().astimezone().isoformat(timespec="seconds"),
        edition=protocol.edition,
        left=len(expanded.shards) - len(records),
        left_out=expanded.left_out,
        records=records,
        paper=paper,
    )
    folder = out / TABLES
    folder.mkdir(parents=True, exist_ok=True)
    name = asked.experiment if asked.judged == "held-out" else f"{asked.experiment}-{asked.judged}"
    files = {"csv": texts.csv_text(table), "md": texts.markdown(table, heading), "tex": texts.latex(table, heading)}
    for ending, text in files.items():
        write_atomic(folder / f"{name}.{ending}", text.encode())
    draw(table, f"{experiment.title}, budget {asked.budget}", folder / f"{name}.svg")
    return table
