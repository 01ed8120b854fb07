"""What the figures of all pages have in common: colours, style, ticks, files."""

import io
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from subspaces.files import KEPT, atomic_write

INK, MUTED, GRID = "#1c2430", "#667085", "#e6e9ef"
COLOURS = ("#2563a8", "#d1603d", "#3d8a5f", "#8c5aa8", "#b58a1b", "#2a9d9d", "#b8406e", "#5b6472")
# of viridis without its yellow, which hardly shows on white
SHADES = LinearSegmentedColormap.from_list(
    "by_d", [matplotlib.colormaps["viridis_r"](0.22 + 0.78 * k / 15) for k in range(16)]
)
_NOT_OURS = {"backend", "backend_fallback", "interactive", "toolbar", "timezone", "date.epoch", "savefig.directory"}
"""What a style does not set: windows, and what may be set once."""
STYLE: Any = {key: value for key, value in matplotlib.rcParamsDefault.items() if key not in _NOT_OURS} | {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#98a2b3",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "svg.hashsalt": "subspaces",  # the same rows give the same file
}

WHOLE = FuncFormatter(lambda value, _: f"{value:,.0f}")
"""Whole numbers, written out."""


def colours(count: int) -> list[str]:
    """So many colours, repeated where there are more than the palette has."""
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write ``name.png`` and ``name.svg`` below ``folder``, whole or not at all; returns the SVG text for a page."""
    _take_words_as_they_are(figure)
    image, drawing = io.BytesIO(), io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(image, format="png", facecolor="white")
        figure.savefig(drawing, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = drawing.getvalue()
    for suffix, content in (("png", image.getvalue()), ("svg", text.encode())):
        atomic_write(folder / f"{name}.{suffix}", content, durable=False, kept=KEPT)
    return text[text.index("<svg") :]


def _take_words_as_they_are(figure: Figure) -> None:
    """A dollar in a name begins no formula: half of one would fail, a whole one would be set. Ticks stay formulae."""
    ticks: set[int] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        axis.get_ticklabels(which="both")  # ticks are made when they are asked for
        ticks |= {id(label) for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)}
        ticks.add(id(axis.offsetText))
    words: Any = figure.findobj(Text)
    for text in words:
        if id(text) not in ticks:
            text.set_parse_math(False)


def integer_ticks(axes: Axes) -> None:
    """Ticks at round whole numbers of a logarithmic axis, written out."""
    axes.set_xticks(whole_numbers(*axes.get_xlim()))
    axes.xaxis.set_major_formatter(WHOLE)
    axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)


def whole_numbers(low: int | float, high: int | float) -> list[int]:
    """Round whole numbers within [low, high], a dozen at most; none where no whole number lies there.

    Between 1 and 2 round numbers are 1.2, 1.4, …: written without decimals they would say 1, 1, 2, 2, 2.
    """
    return [round(number) for number in round_numbers(low, high) if number == round(number)]


def round_numbers(low: int | float, high: int | float) -> list[int | float]:
    """Three to a dozen round numbers within [low, high], evenly spread over its logarithm."""
    low = max(low, 1e-12)
    decades = math.log10(max(high, low * 1.0001) / low)
    if decades < 0.5:
        step = 10 ** math.floor(math.log10(max(high - low, 1e-12) / 3))
        step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
        return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    leading = (1, 1.5, 2, 3, 4, 5, 7) if decades < 1.3 else (1, 2, 5) if decades < 3.2 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [round(m * 10.0**power, 12) for power in powers for m in leading if low <= m * 10.0**power <= high]
