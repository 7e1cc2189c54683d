"""Drawing with matplotlib, ending as SVG that stands inside a page: it scales, prints, and follows light and dark.

Colours are drawn as the fixed values below and leave as CSS variables, so that the page's style sheet decides. The
hues are Okabe and Ito's, which stay apart for colour-blind readers; markers and dashes say the same thing again.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from markupsafe import Markup, escape

from fedsecure.errors import SettingsError

INK: Final = "#010101"
FAINT: Final = "#020202"
GREY: Final = "#808081"
BLUE: Final = "#0072b2"
ORANGE: Final = "#d55e00"
GREEN: Final = "#009e73"
PURPLE: Final = "#cc79a7"
SKY: Final = "#56b4e9"
YELLOW: Final = "#e69f00"
SERIES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)

_VARIABLES: Final[Mapping[str, str]] = {
    INK: "currentColor",
    FAINT: "var(--rule)",
    GREY: "var(--grey)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    PURPLE: "var(--purple)",
    SKY: "var(--sky)",
    YELLOW: "var(--yellow)",
}

_STYLE: Final[Mapping[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: found by search, read aloud, and small
    "svg.image_inline": True,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


def css(colour: str) -> str:
    """The colour as the page's style sheet knows it."""
    return _VARIABLES[colour]


def require_matplotlib() -> None:
    """Raises SettingsError, with what to install, if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError(
            "the report's figures need matplotlib, which is not installed: pip install 'fedsecure[report]'"
        )


def style() -> AbstractContextManager[None]:
    """matplotlib with the report's look, for the time of a `with` block. Raises SettingsError without matplotlib."""
    require_matplotlib()
    import matplotlib as mpl

    context: AbstractContextManager[None] = mpl.rc_context(dict(_STYLE))
    return context


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches, bound to no window and no global state. Only inside `style()`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def render(fig: Any, alt: str) -> Markup:
    """The figure as one `<svg>` element with `alt` as its text for those who cannot see it."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # The salt keeps the ids of clip paths and markers apart from those of the page's other figures.
    with mpl.rc_context({"svg.hashsalt": alt}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        fig.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    # A style element inside a figure would hold for the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(<(?:g|image|rect)\b[^>]*?) id="[^"]*"', r"\1", text)  # repeated in every figure, used by none
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{escape(alt)}"', text, count=1)
    text = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), text)
    text = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", text)  # a hundredth of a point is enough
    text = re.sub(r"\n\s*", "\n", text)
    return Markup(text)  # noqa: S704  matplotlib escapes the texts it draws, and `alt` is escaped above
