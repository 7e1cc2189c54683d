"""A table as CSV, Markdown and LaTeX. It says what was measured, with what, and no more."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fedsecure.report.summary import Estimate
from fedsecure.report.words import signed, size
from sim.reproduce.protocols import Experiment, PaperTable
from sim.reproduce.record import Record
from sim.reproduce.tables import Cell, Line, Table

NONE: Final = "–"
_CSV: Final = (
    "arm", "title", "mode", "labelled", "dice", "sd", "units", "difference", "low", "high", "pairs", "paper",
    "paper_sd", "knn_accuracy", "untrained", "norm", "up_bytes", "down_bytes", "rho", "sigma", "model_up_bytes",
    "model_down_bytes", "seconds", "seeds",
)  # fmt: skip
_LATEX: Final = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "–": "--", "−": "$-$", "±": r"$\pm$"}


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands above a table. `left`: shards of the protocol that have not finished."""

    experiment: str
    about: Experiment
    budget: str
    command: str
    written: str
    edition: int
    left: int
    left_out: tuple[str, ...]
    records: Sequence[Record]
    paper: PaperTable | None


def csv_text(table: Table) -> str:
    """One row for each arm and column, numbers unrounded; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for line in table.lines:
        for cell in (cell for cell in line.cells if cell is not None):
            writer.writerow(["" if value is None else value for value in _row(line, cell)])
    return out.getvalue()


def markdown(table: Table, heading: Heading) -> str:
    """A page: what was run, the table, how to read it, and the paper's own table."""
    parts = [f"# {heading.about.title}, budget {heading.budget}", _provenance(heading)]
    parts.append(_pipe(_head(table), [_fields(table, line) for line in table.lines]))
    parts.append(_reading(heading))
    if heading.paper is not None:
        parts.append(_paper(table, heading.paper))
    return "\n\n".join(parts) + "\n"


def latex(table: Table, heading: Heading) -> str:
    """A `tabular` with a comment above it; needs no package."""
    head = _head(table)
    comment = "\n".join(f"% {line}" for line in _provenance(heading).splitlines())
    rows = [head, *(_fields(table, line) for line in table.lines)]
    body = " \\\\\n".join(" & ".join(_escaped(field) for field in row) for row in rows[1:])
    return (
        f"{comment}\n\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n\\hline\n"
        f"{' & '.join(_escaped(field) for field in head)} \\\\\n\\hline\n{body} \\\\\n\\hline\n\\end{{tabular}}\n"
    )


def _row(line: Line, cell: Cell) -> tuple[object, ...]:
    gain, paper = cell.difference, cell.paper
    return (
        line.arm.name, line.arm.title, cell.mode, cell.labelled, cell.dice.mean, cell.dice.sd, cell.dice.n,
        gain and gain.mean, gain and gain.low, gain and gain.high, gain and gain.n, paper and paper[0],
        paper and paper[1], line.accuracy, line.untrained, line.norm, line.up, line.down, line.rho, line.sigma,
        line.model_up, line.model_down, line.seconds, line.seeds,
    )  # fmt: skip


def _head(table: Table) -> list[str]:
    dice = [text for mode, n in table.columns for text in (f"{mode}, N={n}", "against random (95 %)", "pairs")]
    target = ["rho", "sigma", "up, model", "down, model"] if _has_target(table) else []
    return ["", *dice, "kNN", "untrained", "norm", "up", "down", *target, "seconds", "seeds"]


def _fields(table: Table, line: Line) -> list[str]:
    dice = [text for cell in line.cells for text in _texts(cell)]
    target = []
    if _has_target(table):
        target = [_three(line.rho), _three(line.sigma), _bytes(line.model_up), _bytes(line.model_down)]
    probe = [_three(line.accuracy), _three(line.untrained), _three(line.norm)]
    sent = [_bytes(line.up or None), _bytes(line.down or None)]
    return [line.arm.title, *dice, *probe, *sent, *target, f"{line.seconds:.0f}", str(line.seeds)]


def _texts(cell: Cell | None) -> tuple[str, str, str]:
    if cell is None:
        return NONE, NONE, NONE
    dice = _three(cell.dice.mean) + (f" ± {_three(cell.dice.sd)}" if cell.dice.sd is not None else "")
    if cell.difference is None:
        return dice, NONE, NONE
    return dice, _interval(cell.difference), str(cell.difference.n)


def _interval(gain: Estimate) -> str:
    if gain.low is None or gain.high is None:
        return signed(gain.mean)
    return f"{signed(gain.mean)} [{signed(gain.low)}, {signed(gain.high)}]"


def _has_target(table: Table) -> bool:
    return any(line.model_up is not None for line in table.lines)


def _three(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _bytes(value: float | None) -> str:
    return NONE if value is None else size(value)


def _pipe(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _provenance(heading: Heading) -> str:
    records = heading.records
    runs = [record.run for record in records]
    machines = _distinct(f"{run.machine.processor}, {run.machine.cores} cores, {run.machine.system}" for run in runs)
    versions = _distinct(
        f"fedsecure {run.version}, torch {run.libraries['torch']}, commit {run.commit or 'unknown'}" for run in runs
    )
    worlds = _distinct(
        f"{world.kind}, {world.sites} sites, dealt by {world.partition or 'phantom draw'}"
        for record in records
        for world in record.worlds
    )
    lines = [
        f"- command: `{heading.command}`",
        f"- data: {worlds}; scored on {_distinct(record.judged for record in records)} patients, last step",
        f"- seeds: {_distinct(str(seed) for seed in sorted({record.seed for record in records}))}; "
        f"edition of the protocol: {heading.edition}",
        f"- machine: {machines}; device: {_distinct(record.device for record in records)}",
        f"- versions: {versions}",
        f"- written: {heading.written}; shards: {len(records)} finished, {heading.left} left",
    ]
    if heading.left:
        lines.append("- **Not finished**: the protocol's table is the one with all shards.")
    lines += [f"- left out: {what}" for what in heading.left_out]
    return "\n".join(lines)


def _reading(heading: Heading) -> str:
    said = [
        "Dice: mean ± SD over trainings: of local fine-tuning one a site and seed (folds averaged), of federated one a "
        "seed and fold (sites averaged); mean over patients, then structures, on the grid that the network sees. "
        "Against random: mean paired difference with its 95 % t-interval; pairs share labelled patients, batches and, "
        "where it is not pre-trained, the decoder. The scored patients are the same under all seeds, so intervals say "
        "nothing of other patients.",
        "kNN: 15-nearest-neighbour accuracy of naming the partition, pooled over sites (Local CL: mean of each site's "
        "own); norm: of the mean embedding, 1 is collapse. up, down: bytes of a site in pre-training, mean over sites. "
        "seconds: of a whole shard, with other shards beside it.",
        "FCLOpt with its prediction of the target (PTNU) and of the distance (R1, R2) and FedCA are reconstructed: of "
        "their papers only the abstracts could be read.",
    ]
    if heading.records and any(world.kind == "phantom" for record in heading.records for world in record.worlds):
        said.insert(0, "The patients are phantoms: these numbers say that the code runs, and nothing of medicine.")
    return "\n\n".join(said)


def _paper(table: Table, paper: PaperTable) -> str:
    rows = [
        [line.arm.title, *(_pair(paper.dice(line.arm.name, n)) for n in paper.labelled)]
        for line in table.lines
        if line.arm.name in paper.rows
    ]
    title = f"The paper's own ({paper.source}), on other patients, data and network:"
    return title + "\n\n" + _pipe(["", *(f"N={n}" for n in paper.labelled)], rows)


def _pair(values: tuple[float, float] | None) -> str:
    return NONE if values is None else f"{values[0]:.3f} ± {values[1]:.3f}"


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values)) or NONE


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
