"""The figures about the dimension of a task: score against d, training curves, intervals side by side."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from subspaces.dimension.series import RunSeries
from subspaces.report.figures import (
    COLOURS,
    INK,
    SHADES,
    STYLE,
    WHOLE,
    colours,
    integer_ticks,
    round_numbers,
    whole_numbers,
)

CURVES = 200
"""Runs whose curves are drawn: more cannot be told apart, and a page of ten thousand would be no page."""
DOTS = 2000
"""Runs that are drawn as dots one by one."""


def score_against_d(series: Sequence[RunSeries]) -> Figure:
    """Score of every run against d (logarithmic), the fitted curve, thresholds and the intervals of d_int."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.4), layout="constrained")
        axes = figure.subplots()
        single = len(series) == 1
        for one, colour in zip(series, colours(len(series)), strict=True):
            _draw_series(axes, one, colour, single)
        _draw_thresholds(axes, series, single)
        axes.set_xscale("log")
        axes.set_xlabel("subspace dimension d")
        axes.set_ylabel(_score_label(series))
        integer_ticks(axes)
        _percent(axes, series)
        _fit_limits(axes, series)
        axes.legend(loc="lower right")
    return figure


def _draw_series(axes: Axes, series: RunSeries, colour: str, single: bool) -> None:
    d, scores = series.scores()
    name = "one run each (validation)" if single else series.label
    many = len(d) > DOTS  # then they are a picture within the drawing
    axes.scatter(d, scores, s=22, color=colour, alpha=0.75, linewidth=0, zorder=3, label=name, rasterized=many)
    found = series.estimate
    if found is None:
        means = [(k, _mean([r["score"] for r in rows if r["score"] is not None])) for k, rows in series.by_d().items()]
        axes.plot([k for k, _ in means], [m for _, m in means], color=colour, linewidth=1.2, alpha=0.7)
        return
    if found.curve:
        near = [point for point in found.curve if min(d) / 1.1 <= point[0] <= max(d) * 1.1]
        x, mean, sd = (list(column) for column in zip(*(near or found.curve), strict=True))
        axes.plot(x, mean, color=colour, linewidth=1.6, zorder=2, label="fit ± 2 standard errors" if single else None)
        low, high = (
            [m - 2 * s for m, s in zip(mean, sd, strict=True)],
            [m + 2 * s for m, s in zip(mean, sd, strict=True)],
        )
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
    if found.low and found.high:
        band = COLOURS[1] if single else colour
        axes.axvspan(found.low, found.high, color=band, alpha=0.16 if single else 0.1, linewidth=0, zorder=0)
    if found.d_int and single:
        text = f"d_int{100 * found.level:g} = {found.d_int:,}"
        axes.axvline(
            found.d_int, color=COLOURS[1], linewidth=1.4, label=f"{text} and its {100 * found.confidence:g} % interval"
        )


def _draw_thresholds(axes: Axes, series: Sequence[RunSeries], single: bool) -> None:
    drawn: set[float] = set()
    for one in series:
        found = one.estimate
        if found is None or not math.isfinite(found.threshold) or round(found.threshold, 4) in drawn:
            continue
        drawn.add(round(found.threshold, 4))
        label = f"threshold {_number(found.threshold, one)}" if single else "threshold"
        axes.axhline(
            found.threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=label if len(drawn) == 1 else None
        )
        if found.threshold_sd:
            spread = 2 * found.threshold_sd
            axes.axhspan(found.threshold - spread, found.threshold + spread, color=INK, alpha=0.06, linewidth=0)


def training_curves(series: Sequence[RunSeries]) -> Figure:
    """Training loss and score over the epochs of runs: coloured by d, or by series where there are several.

    Of many runs so many are drawn as `drawn` takes.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        if len(series) == 1:
            _curves_by_d(figure, left, right, series[0])
        for one, colour in zip(series, colours(len(series)), strict=True) if len(series) > 1 else ():
            for row in drawn(one.rows, CURVES // len(series)):
                _draw_curves(left, right, row, colour, 0.7)
        for row in drawn([row for one in series for row in one.direct], CURVES):
            _draw_curves(left, right, row, INK, 1.2)
        for axes, title in ((left, "training loss"), (right, f"validation {series[0].score_name}")):
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set_yscale("log")
        left.set_yticks(round_numbers(*left.get_ylim()), minor=False)
        left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        left.tick_params(axis="y", which="minor", length=0, labelleft=False)
        _percent(right, series)
    return figure


def drawn(rows: Sequence[dict], most: int) -> list[dict]:
    """At most so many runs, evenly spread over all in the order of d and seed."""
    rows = sorted(rows, key=lambda row: (row["config"]["d"] or 0, row["config"]["seed_model"]))
    most = max(2, most)
    return rows if len(rows) <= most else [rows[k * (len(rows) - 1) // (most - 1)] for k in range(most)]


def _curves_by_d(figure: Figure, left: Axes, right: Axes, series: RunSeries) -> None:
    rows = drawn(series.rows, CURVES)
    if not rows:
        return
    dims = [row["config"]["d"] for row in rows]
    norm = LogNorm(dims[0], max(dims[-1], dims[0] + 1))
    for row in rows:
        _draw_curves(left, right, row, SHADES(float(norm(row["config"]["d"]))), 0.8)
    scale = figure.colorbar(ScalarMappable(norm, SHADES), ax=right, pad=0.02)
    scale.set_label("d")
    scale.set_ticks(whole_numbers(dims[0], max(dims[-1], dims[0] + 1)))
    scale.ax.yaxis.set_major_formatter(WHOLE)
    scale.ax.tick_params(axis="y", which="minor", length=0, labelright=False)
    scale.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _draw_curves(left: Axes, right: Axes, row: dict, colour: object, width: float) -> None:
    for axes, name in ((left, "train_loss"), (right, "score")):
        points = [(point["epoch"], point[name]) for point in row["curves"] if point.get(name) is not None]
        if not points:
            continue
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, alpha=0.85, marker=marker, markersize=3)


def intervals(series: Sequence[RunSeries]) -> Figure:
    """The d_int of several series with their intervals, one below the other."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.9 + 0.42 * len(series)), layout="constrained")
        axes = figure.subplots()
        for place, (one, colour) in enumerate(zip(series, colours(len(series)), strict=True)):
            found = one.estimate
            if found is None:
                continue
            low, high = found.low or found.d_min, found.high or found.d_max
            axes.plot([low, high], [place, place], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
            if found.d_int:
                axes.plot(found.d_int, place, "o", color=colour, markersize=7)
                axes.annotate(f"{found.d_int:,}", (found.d_int, place), (0, 7), textcoords="offset points", ha="center")
        axes.set_yticks(range(len(series)), [one.label for one in series], color=INK)
        axes.set_ylim(len(series) - 0.4, -0.7)
        axes.set_xscale("log")
        axes.set_xlabel("intrinsic dimension and its interval")
        integer_ticks(axes)
    return figure


def _number(value: float, series: RunSeries) -> str:
    return f"{100 * value:.4g} %" if _fractions([series]) else f"{value:.4g}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _fractions(series: Sequence[RunSeries]) -> bool:
    return all(one.score_name == "accuracy" for one in series)


def _score_label(series: Sequence[RunSeries]) -> str:
    names = sorted({one.score_name for one in series})
    return f"validation {names[0]}, last epoch" if len(names) == 1 else "score, last epoch"


def _percent(axes: Axes, series: Sequence[RunSeries]) -> None:
    if _fractions(series):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))


def _fit_limits(axes: Axes, series: Sequence[RunSeries]) -> None:
    """Limits that the runs and thresholds set, not the far ends of a fit."""
    scores = [score for one in series for score in one.scores()[1]]
    scores += [one.estimate.threshold for one in series if one.estimate and math.isfinite(one.estimate.threshold)]
    if scores:
        room = 0.08 * (max(scores) - min(scores)) or 0.05
        axes.set_ylim(min(scores) - room, max(scores) + room)
    dims = [d for one in series for d in one.scores()[0]]
    if dims:
        stretch = max(1.15, (max(dims) / min(dims)) ** 0.05)
        axes.set_xlim(min(dims) / stretch, max(dims) * stretch)
        integer_ticks(axes)
