"""The figures of a measured phase transition: heat-maps of P_s, thresholds against level, burn-in and initial loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .phase_data import Prediction, Transition, dense_levels
from .report_figures import STYLE
from .transition_figures import plot_thresholds, success_heatmap


def draw_heatmap(found: Transition, t: int) -> Figure:
    """P_s over d and many levels, the measured thresholds and the predicted line over it."""
    levels = dense_levels(found)
    thresholds = [one for one in found.thresholds() if one.burn_in == t and one.status == "reached"]
    predicted: dict[str, list[float]] = {}
    if (guess := found.predictions.get(t)) is not None:
        line = [guess.at(level)[0] for level in levels]
        low, high = found.rule.range(found.D)
        inside = [d if low <= d <= high else math.nan for d in line]
        predicted = {"predicted (quadratic)": inside} if any(map(math.isfinite, inside)) else {}
    with matplotlib.rc_context(STYLE | {"axes.grid": False, "legend.frameon": True}):
        figure = Figure(figsize=(8.2, 4.6), layout="constrained")
        success_heatmap(
            found.table(t, levels), thresholds, predicted=predicted, D=found.D, level_name=found.rule.level_name,
            ax=figure.subplots(),
        )  # fmt: skip
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
                axes.plot(guess.levels, [d / scale for d in guess.d_star], "--", color=colour, linewidth=1)
        axes.set_ylim(limits)
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
        if (legend := right.get_legend()) is not None:
            legend.remove()
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
