"""The figure of a published table: published curves beside measured ones with intervals, from result rows alone."""

import itertools
import statistics
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from subspaces.recipes import Recipe
from subspaces.report.figures import COLOURS, INK, MUTED, integer_ticks
from subspaces.reproduce.csv_rows import Row

Named = dict[str, list[Row]]
"""Rows by the title of their series."""
HOLLOW: dict[str, Any] = {"markersize": 5.5, "markerfacecolor": "none", "linewidth": 1}


def figures(recipe: Recipe, rows: Sequence[Row]) -> dict[str, Figure]:
    """The one figure of a published table: curves over d, single points, intrinsic dimensions."""
    panels = _panels(recipe, rows)
    return {"": draw(panels)} if panels else {}


def _panels(recipe: Recipe, rows: Sequence[Row]) -> list[tuple[str, str, Named]]:
    """(kind, title, rows) of each panel: curves over d, then single points, then intrinsic dimensions.

    Direct training with nothing published to compare is a line in the panels it belongs to.
    """
    curves: dict[str, Named] = {}
    points: Named = {}
    dimensions: Named = {}
    homes = _homes(recipe, rows)
    for one in recipe.series:
        mine = [row for row in rows if row["series"] == one.name and (row["measured"] or row["outcome"] == "diverged")]
        full = f"{one.panel}, {one.title}" if one.panel not in ("", one.title) else one.title
        scores = [row for row in mine if not row["quantity"].startswith("d_int")]
        if len([row for row in scores if row["d"] != "direct"]) > 1:
            curves.setdefault(one.panel or one.title, {})[one.title] = scores
        elif not any(row["measured"] for row in scores):
            pass
        elif one.name in homes and not any(row["published"] for row in scores):
            for title in sorted(homes[one.name]):
                curves.setdefault(title, {})[one.title] = scores
        else:
            points[full] = [row for row in scores if row["measured"]]
        if len(mine) > len(scores):
            dimensions[full] = [row for row in mine if row not in scores]
    found = [
        ("curves", title, named)
        for title, named in curves.items()
        if any(row["measured"] for each in named.values() for row in each)
    ]
    found += [("points", "single dimensions and direct training", points)] if points else []
    return found + ([("points", "intrinsic dimension", dimensions)] if dimensions else [])


def _homes(recipe: Recipe, rows: Sequence[Row]) -> dict[str, set[str]]:
    """Panels of accuracies over d by the series of direct training that belong there: that of their source, and the
    only one of their task."""
    direct: dict[str, list[str]] = {}
    for one in recipe.series:
        if set(one.d) == {None} and not one.averages:
            direct.setdefault(one.task, []).append(one.name)
    found: dict[str, set[str]] = {}
    for one in recipe.series:
        mine = [row for row in rows if row["series"] == one.name and row["quantity"] == "accuracy"]
        if len({row["d"] for row in mine} - {"direct"}) > 1:
            alone = direct.get(one.task, []) if len(direct.get(one.task, [])) == 1 else []
            for name in {one.source, *alone}:
                found.setdefault(name, set()).add(one.panel or one.title)
    return found


def draw(panels: Sequence[tuple[str, str, Named]]) -> Figure:
    """A grid of panels, at most three in a row."""
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    beside = sum(kind == "curves" and _is_crowded(named) for kind, _, named in panels[:columns])
    figure = Figure(figsize=(1.2 + 4.1 * columns + 2.3 * beside, 0.5 + 3.3 * lines), layout="constrained")
    for place, (kind, title, named) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.set_title(title)
        (_curves if kind == "curves" else _points)(axes, named)
    return figure


def _curves(axes: Axes, named: Named) -> None:
    """Score against d: filled with intervals what we measured, hollow and dashed what was published."""
    single, drawn = len(named) == 1, set()
    lines = {title: rows for title, rows in named.items() if any(row["d"] != "direct" for row in rows)}
    for rows in (rows for title, rows in named.items() if title not in lines):
        axes.axhline(rows[0].number("measured"), color=INK, linewidth=1, linestyle=":", zorder=1)
    for place, ((title, rows), aside) in enumerate(zip(lines.items(), _aside(lines), strict=True)):
        colour, mark = COLOURS[place % len(COLOURS)], "o-" if place < len(COLOURS) else "D-."
        own = [row for row in rows if row["d"] != "direct" and row["measured"]]
        arms = [_arms(row) for row in own]
        axes.errorbar(
            [row.whole("d") * aside for row in own], [row.number("measured") for row in own],
            list(zip(*arms, strict=True)) or None, fmt=mark, color=colour, markersize=4.5, linewidth=1.4, capsize=2.5,
            zorder=3, label="measured" if single else title,
        )  # fmt: skip
        told = tuple(
            (row.whole("d"), row.number("published")) for row in rows if row["published"] and row["d"] != "direct"
        )
        if told and told not in drawn:  # series of one panel may share their published curve
            drawn.add(told)
            ink = INK if single or len({_told(r) for r in named.values()}) == 1 else colour
            axes.plot(*zip(*told, strict=True), "s--", color=ink, alpha=0.8, **HOLLOW)
        for row in rows:
            if row["d"] == "direct" and row["measured"]:
                axes.axhline(row.number("measured"), color=colour, linewidth=1, linestyle=":", zorder=1)
            elif not row["measured"]:  # diverged: a cross at the lower edge
                axes.plot(row.whole("d"), 0.03, "x", color=colour, markersize=7, transform=axes.get_xaxis_transform())
    _explain(axes, named)
    _frame(axes, [row for rows in named.values() for row in rows])
    _error_axis(axes, [row for rows in named.values() for row in rows])
    _d_axis(axes, sorted({row.whole("d") for rows in named.values() for row in rows if row["d"] != "direct"}))
    axes.set_xlabel("d")
    axes.set_ylabel(_label(next(iter(named.values()))[0]))


def _aside(named: Named) -> list[float]:
    """Factors on d that part whiskers at the same d: a 16th of the axis, at most an 8th of the way to the next d."""
    d = sorted({row.whole("d") for rows in named.values() for row in rows if row["d"] != "direct"})
    nearest = min((b / a for a, b in itertools.pairwise(d)), default=1.0)
    width = min((d[-1] / d[0]) ** (1 / 16), nearest ** (1 / 8))
    return [width ** ((place + 0.5) / len(named) - 0.5) for place in range(len(named))]


def _frame(axes: Axes, rows: Sequence[Row]) -> None:
    """Limits by the scores themselves: whiskers of two runs, six times as long as those of five, may run out."""
    scores = [row.number(key) for row in rows for key in ("measured", "published") if row[key]]
    room = 0.6 * max(max(scores) - min(scores), 0.02 * max(map(abs, scores)))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, min(scores) - room), min(high, max(scores) + room))


def _told(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row["published"] for row in rows)


def _explain(axes: Axes, named: Named) -> None:
    """The legend, with one entry for each kind of mark that is there."""
    rows = [row for each in named.values() for row in each]
    if any(row["published"] and row["d"] != "direct" for row in rows):
        axes.plot([], [], "s--", color=MUTED, label="published", **HOLLOW)
    if any(row["d"] == "direct" for row in rows):
        axes.plot([], [], ":", color=MUTED, linewidth=1, label="direct, measured")
    if any(not row["measured"] for row in rows):
        axes.plot([], [], "x", color=MUTED, label="diverged")
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}
    axes.legend(fontsize=8, **(beside if _is_crowded(named) else {}))


def _is_crowded(named: Named) -> bool:
    """Whether a legend would hide curves: it then stands beside them."""
    return len(named) > 5


def _error_axis(axes: Axes, rows: Sequence[Row]) -> None:
    """Accuracies of which most are near 100, and some far, are told apart by what is missing to 100, on a log scale."""
    scores = [row.number("measured") for row in rows if row["measured"] and row["quantity"] == "accuracy"]
    if len(scores) < 10 or not 97 < max(scores) < 100 or min(scores) > 75 or statistics.median(scores) < 90:
        return
    low = axes.get_ylim()[0]
    axes.set_yscale("function", functions=(lambda y: -np.log10(np.maximum(100 - y, 1e-2)), lambda z: 100 - 10**-z))
    axes.set_ylim(max(0.0, low), 100 - 0.6 * (100 - max(scores)))
    axes.yaxis.set_major_locator(FixedLocator([0, 50, 80, 90, 95, 98, 99, 99.5, 99.9]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _d_axis(axes: Axes, values: Sequence[int]) -> None:
    """A logarithmic axis with whole numbers at the values themselves, as far as they have room."""
    axes.set_xscale("log")
    axes.set_xticks(_with_room(values, max(values) / min(values)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _with_room(values: Sequence[int | float], span: float) -> list[int | float]:
    """Of rising values those that have room for their numbers on a logarithmic axis of this span."""
    ticks: list[int | float] = []
    for value in values:
        if not ticks or value >= ticks[-1] * span**0.14:
            ticks.append(value)
    return ticks


def _points(axes: Axes, named: Named) -> None:
    """One line per row: the interval, the estimate and the published number."""
    lines = [(title, row) for title, rows in named.items() for row in rows]
    for place, (_, row) in enumerate(lines):
        value = row.number("measured")
        left, right = _arms(row)
        axes.errorbar(
            value, place, xerr=[[left], [right]], fmt="o", color=COLOURS[0], markersize=5, capsize=2.5, zorder=3
        )
        if row["published"]:
            axes.plot(row.number("published"), place, "s", color=INK, markersize=6, markerfacecolor="none", zorder=4)
    axes.plot([], [], "o", color=COLOURS[0], markersize=5, label="measured")
    if any(row["published"] for _, row in lines):
        axes.plot([], [], "s", color=INK, label="published", **HOLLOW)
    axes.set_yticks(range(len(lines)), [fill(_point_name(title, row), 36) for title, row in lines], fontsize=8)
    axes.set_ylim(len(lines) - 0.3, -0.7)
    if lines[0][1]["quantity"].startswith("d_int"):
        axes.set_xscale("log")
        integer_ticks(axes)
        low, high = axes.get_xlim()
        axes.set_xticks(_with_room([tick for tick in axes.get_xticks().tolist() if low <= tick <= high], high / low))
    axes.set_xlabel(_label(lines[0][1]))
    axes.legend(fontsize=8)


def _point_name(title: str, row: Row) -> str:
    if row["quantity"].startswith("d_int"):
        return title
    return f"{title}, {'direct' if row['d'] == 'direct' else 'd = ' + format(row.whole('d'), ',')}"


def _arms(row: Row) -> tuple[float, float]:
    """Lengths of the interval to the left and right; 0 where an end is open."""
    value = row.number("measured")
    return (
        max(0.0, value - row.number("low")) if row["low"] else 0.0,
        max(0.0, row.number("high") - value) if row["high"] else 0.0,
    )


def _label(row: Row) -> str:
    unit = ", %" if row["quantity"] == "accuracy" else ""
    part = {"train": "training ", "test": "test "}.get(row["part"], "")
    return f"{part}{row['quantity']}{unit}"
