"""One figure for each table: Dice of every arm with its spread, the paper's own as a hollow mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fedsecure.report.arms import ARMS
from fedsecure.report.svg import GREY, SERIES, figure, style
from sim.reproduce.protocols import RANDOM
from sim.reproduce.tables import Line, Table

_PALE: Final = "#c8c8c8"  # a page of its own has no style sheet to take the colour from
_PANEL: Final = 2.6  # inches


def draw(table: Table, title: str, path: Path) -> None:
    """Write an SVG: a panel for each mode and N, a line for each arm. Raises SettingsError without matplotlib."""
    with style():
        import matplotlib as mpl

        look = {"grid.color": _PALE, "axes.edgecolor": _PALE, "axes.grid.axis": "x", "svg.hashsalt": title}
        with mpl.rc_context(look):
            count = max(len(table.columns), 1)
            fig = figure(1.8 + _PANEL * count, 1.2 + 0.27 * len(table.lines))
            axes = fig.subplots(1, count, sharey=True, squeeze=False)[0]
            for number, ((mode, labelled), panel) in enumerate(zip(table.columns, axes, strict=False)):
                for place, line in enumerate(table.lines):
                    _mark(panel, place, line, number)
                panel.set(title=f"{mode}, N={labelled}", xlabel="Dice", ylim=(len(table.lines) - 0.5, -0.5))
            axes[0].set_yticks(range(len(table.lines)), [line.arm.title for line in table.lines])
            fig.suptitle(title)
            fig.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _mark(panel: Any, place: int, line: Line, number: int) -> None:
    cell = line.cells[number]
    if cell is None:
        return
    known = ARMS.get(None if line.arm.name == RANDOM else line.arm.framework)
    colour = GREY if known is None else known.colour
    if line.arm.name not in (*map(str, ARMS), RANDOM):  # an arm of an ablation: as its framework, in another hue
        colour = SERIES[place % len(SERIES)]
    panel.errorbar(cell.dice.mean, place, xerr=cell.dice.sd, fmt="o", color=colour, ms=5, lw=1.4)
    if cell.paper is not None:
        panel.plot(cell.paper[0], place, "o", mfc="none", color=_PALE, ms=6)
