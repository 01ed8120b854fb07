"""The figures of a measured phase transition: heat-maps of P_s, thresholds against level, burn-in and initial loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from subspaces.report.figures import SHADES, STYLE, integer_ticks
from subspaces.transition.figures import plot_probability, plot_thresholds, success_heatmap
from subspaces.transition.result import Prediction, Transition, dense_levels, reading


def draw_heatmap(found: Transition, t: int) -> Figure:
    """P_s over d and many levels, the measured thresholds and the predicted line over it."""
    levels = dense_levels(found)
    thresholds = [one for one in found.thresholds() if one.burn_in == t and one.status == "reached"]
    predicted: dict[str, list[float]] = {}
    if (guess := found.predictions.get(t)) is not None:
        line = [guess.at(level)[0] for level in levels]
        low, high = found.rule.range(found.D)
        inside = [d if low <= d <= high else math.nan for d in line]
        predicted = {"predicted": inside} if sum(map(math.isfinite, inside)) > 1 else {}
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "legend.frameon": True}):
        figure = Figure(figsize=(8.2, 4.6), layout="constrained")
        axes = figure.subplots()
        success_heatmap(
            found.table(t, levels), thresholds, predicted=predicted, D=found.D, level_name=found.rule.level_name,
            ax=axes,
        )  # fmt: skip
        axes.collections[0].set_rasterized(True)  # else viewers show seams between the cells
    return figure


def draw_probability(found: Transition, t: int) -> Figure | None:
    """P_s over d at every level, from the values that runs reached; None where no level has enough runs near it."""
    fits = {level: fit for level in found.levels if (fit := found.fit(t, level)) is not None}
    if not fits:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.8), layout="constrained")
        axes = figure.subplots()
        plot_probability(fits, found.table(t), level_name=found.rule.level_name, ax=axes)
        integer_ticks(axes)
    return figure


def draw_thresholds(series: dict[str, Transition], *, fraction: bool = False) -> Figure:
    """d* against the level, one line per start of every task; predicted lines dashed."""
    lines: dict[str, Sequence[Any]] = {}
    sizes: dict[str, int] = {}
    guesses: list[Prediction | None] = []
    for task, found in series.items():
        for t in found.burn_ins():
            name = ("random start" if t == 0 else f"burn-in {t:,}") + (f", {task}" if len(series) > 1 else "")
            lines[name] = [one for one in found.thresholds() if one.burn_in == t]
            sizes[name] = found.D
            guesses.append(found.predictions.get(t))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.2), layout="constrained")
        axes = figure.subplots()
        plot_thresholds(lines, D=sizes if fraction else None, ax=axes)
        axes.set_xlabel(next(iter(series.values())).rule.level_name)
        limits, colours = _with_arrows(axes, lines), [container[0].get_color() for container in axes.containers]  # type: ignore[index]
        for guess, colour, name in zip(guesses, colours, lines, strict=True):
            if guess is not None:
                scale = sizes[name] if fraction else 1
                above = [d / scale if d >= 1 else math.nan for d in guess.d_star]
                axes.plot(guess.levels, above, "--", color=colour, linewidth=1)
        axes.set_ylim(limits)
        if len(lines) > 3:  # no room for so many names between the lines
            axes.get_legend().remove()  # pyright: ignore[reportOptionalMemberAccess]
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def draw_start(found: Transition) -> Figure:
    """d* against burn-in time (left) and against the loss at the start (right), one line per level."""
    lines = {
        f"ε = {level:g}" if found.rule.goal == "loss" else f"{level:g}": [
            one for one in found.thresholds() if one.level == level
        ]
        for level in found.levels
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        plot_thresholds(lines, x="burn_in", ax=left)
        plot_thresholds(lines, x="initial", initial=found.initial(), ax=right)
        left.set_ylim(_with_arrows(left, lines))
        _ticks(left, [float(t) for t in found.burn_ins()])
        _ticks(right, list(found.initial().values()))
        right.set_ylabel("")
        for axes in (left, right):
            if (legend := axes.get_legend()) is not None:
                legend.remove()
        figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    return figure


def _with_arrows(axes: Axes, lines: Mapping[str, Sequence[Any]]) -> tuple[float, float]:
    """Limits of d with room for the arrows of thresholds that lie outside the range tried."""
    low, high = axes.get_ylim()
    statuses = {one.status for many in lines.values() for one in many}
    return low / (2 if "always_reached" in statuses else 1), high * (2 if "not_reached" in statuses else 1)


def _ticks(axes: Axes, at: list[float]) -> None:
    """A tick at every start and at no other place."""
    axes.set_xticks(at, [f"{x:.3g}" for x in at])
    axes.set_xticks([], minor=True)


def draw_traces(found: Transition) -> Figure:
    """The values of every run that are compared with the levels, over its steps or epochs; one panel per start."""
    times, rule = found.burn_ins(), found.rule
    by_step = (rule.goal, rule.on) == ("loss", "train")
    norm, shades = LogNorm(*_span([run.d or 1 for run in found.runs])), SHADES
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 3.4), layout="constrained")
        panels = figure.subplots(1, len(times), sharey=True, squeeze=False)[0]
        for axes, t in zip(panels, times, strict=True):
            for run in sorted((run for run in found.runs if run.burn_in == t), key=lambda run: run.d):
                values = reading(run, rule)
                steps = range(rule.window, rule.window + len(values)) if by_step else range(1, 1 + len(values))
                colour = shades(float(norm(run.d or 1)))
                axes.plot(steps, values, color=colour, linewidth=0.8, marker="o" if len(values) == 1 else None)
            for level in found.levels:
                axes.axhline(level, color="0.3", linewidth=0.7, linestyle=(0, (4, 3)))
            axes.set_title("random start" if t == 0 else f"burn-in {t:,}")
            axes.set_xlabel("step" if by_step else "epoch")
            axes.set_yscale("log" if rule.goal == "loss" else "linear")
        panels[0].set_ylabel(rule.level_name)
        figure.colorbar(ScalarMappable(norm, shades), ax=panels[-1], pad=0.02).set_label("d")
    return figure


def _span(values: list[int]) -> tuple[int, int]:
    """Smallest and largest value, one apart at least, since a logarithmic scale needs a length."""
    return min(values), max(*values, min(values) + 1)
