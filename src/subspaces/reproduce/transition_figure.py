"""The figures of a transition recipe, drawn from its rows: heat-maps of P_s, and thresholds against level and start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from subspaces.recipes import Recipe, Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.transition import RUN
from subspaces.transition import ThresholdDimension, TraceValue, success_probability, threshold_curve
from subspaces.transition.figures import COLOURS, plot_thresholds, success_heatmap


@dataclass(frozen=True)
class Drawn:
    """A series as its rows tell it: the runs by their training loss, the levels, what was predicted."""

    title: str
    D: int
    outcomes: list[TraceValue]
    levels: list[float]
    predicted: dict[tuple[int, float], float]
    """(burn-in, level) → predicted d*; what is missing has no prediction."""
    initial: dict[int, float]
    """Burn-in → mean loss at the start."""
    thresholds: list[ThresholdDimension]

    @classmethod
    def of(cls, series: Series, rows: Sequence[Row]) -> "Drawn | None":
        """The series from all rows of the recipe; None where it has not been run."""
        mine = [row for row in rows if row["series"] == series.name and row["part"] == "train"]
        runs = [row for row in mine if row["quantity"] == RUN]
        found = [row for row in mine if row["quantity"] != RUN]
        if not runs or not found:
            return None
        outcomes = [
            TraceValue(row.whole("d"), i, row.whole("burn_in"), row.number("measured", math.inf))
            for i, row in enumerate(runs)
        ]
        levels = sorted({row.number("level") for row in found})
        return cls(
            title=series.title,
            D=found[0].whole("D"),
            outcomes=outcomes,
            levels=levels,
            predicted={
                (r.whole("burn_in"), r.number("level")): r.number("predicted") for r in found if r["predicted"]
            },
            initial={r.whole("burn_in"): r.number("start_loss") for r in found},
            thresholds=threshold_curve(outcomes, levels, method="logistic", delta=found[0].number("delta")),
        )  # fmt: skip

    def line(self, t: int, levels: Sequence[float]) -> list[float]:
        """Predicted d* at other levels: interpolated in log ε, cut to the range of d; NaN outside."""
        known = [(e, self.predicted[t, e]) for e in self.levels if (t, e) in self.predicted]
        if len(known) < 2:
            return [math.nan] * len(levels)
        x, y = np.log([e for e, _ in known]), np.array([d for _, d in known])
        d = np.interp(np.log(levels), x, y, left=math.nan, right=math.nan)
        tested = [one.d for one in self.outcomes]
        return [float(v) if min(tested) <= v <= max(tested) else math.nan for v in d]


def figures(recipe: Recipe, rows: Sequence[Row]) -> dict[str, Figure]:
    """Figures by what is added to the recipe's name; none where nothing has been run."""
    found = [one for one in (Drawn.of(series, rows) for series in recipe.series) if one is not None]
    if not found:
        return {}
    with matplotlib.rc_context({"axes.grid": False, "legend.frameon": True}):  # names on a ground that is seen
        maps = heatmaps(found)
    return {"": maps, "-thresholds": thresholds(found)}


def heatmaps(series: Sequence[Drawn]) -> Figure:
    """P_s over (d, ε): a row for every series, a panel for every start."""
    columns = max(len(one.initial) for one in series)
    figure = Figure(figsize=(1 + 3.9 * columns, 3.7 * len(series)), layout="constrained")
    for i, one in enumerate(series):
        finite = [o.value for o in one.outcomes if math.isfinite(o.value)] + one.levels
        levels = sorted({*np.geomspace(min(finite), max(finite), 40).tolist(), *one.levels})
        for j, t in enumerate(sorted(one.initial)):
            axes = figure.add_subplot(len(series), columns, 1 + i * columns + j)
            reached = [o for o in one.thresholds if o.burn_in == t and o.status == "reached"]
            line = one.line(t, levels)
            predicted = {"predicted": line} if sum(map(math.isfinite, line)) > 1 else {}
            before = len(figure.axes)
            table = success_probability(one.outcomes, levels, burn_in=t)
            success_heatmap(table, reached, predicted=predicted, level_name="training loss ε", ax=axes)
            start = one.initial[t]
            if table.levels[0] < start < table.levels[-1]:
                axes.axhline(start, color="0.7", linewidth=0.9, linestyle=(0, (2, 2)))
            axes.set_title(f"{one.title}, {_start(t)}", fontsize=9)
            _plain(axes.xaxis)
            _plain(axes.yaxis)
            for bar in figure.axes[before:] if j < columns - 1 else []:
                bar.remove()  # one colour scale at the right is enough: it is the same everywhere
    return figure


def thresholds(series: Sequence[Drawn]) -> Figure:
    """d* against the level (top) and against the loss at the start (bottom), one column for every series."""
    figure = Figure(figsize=(1 + 3.9 * len(series), 7.4), layout="constrained")
    for i, one in enumerate(series):
        top = figure.add_subplot(2, len(series), 1 + i)
        starts = sorted(one.initial)
        plot_thresholds({_start(t): [o for o in one.thresholds if o.burn_in == t] for t in starts}, ax=top)
        limits = top.get_ylim()
        _predictions(top, one, starts)
        top.set_ylim(limits[0], 2 * limits[1])  # a prediction far beyond what was measured may run out
        _plain(top.xaxis)
        _plain(top.yaxis)
        top.set_title(f"{one.title}, D = {one.D:,}", fontsize=9)
        if len(starts) > 1:
            bottom = figure.add_subplot(2, len(series), 1 + len(series) + i)
            lines = {f"ε = {e:g}": [o for o in one.thresholds if o.level == e] for e in one.levels}
            plot_thresholds(lines, x="initial", initial=one.initial, ax=bottom)
            values = [one.initial[t] for t in starts]
            bottom.set_xticks(values, [f"{value:.2g}" for value in values])
            bottom.set_xticks([], minor=True)
            bottom.legend(fontsize="x-small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
            _plain(bottom.yaxis)
    return figure


def _predictions(axes: Axes, one: Drawn, starts: Sequence[int]) -> None:
    """Predicted thresholds, dashed in the colour of the start."""
    for t, colour in zip(starts, COLOURS, strict=False):
        known = [(e, d) for e in one.levels if (d := one.predicted.get((t, e), 0)) >= 1]
        if known:
            axes.plot(*zip(*known, strict=True), "--", color=colour, linewidth=1.1)
    if one.predicted:
        axes.plot([], [], "--", color="0.4", label="predicted")
        axes.legend(fontsize="small")


def _plain(axis: Axis) -> None:
    """Numbers such as 0.2 and 1,000 where the axis is logarithmic: every decade, and 2 and 5 where there is room."""
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _start(t: int) -> str:
    return "random start" if t == 0 else f"after {t:,} steps"
