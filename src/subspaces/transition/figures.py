"""Figures of the phase transition: heat-map of P_s, and d* against level, burn-in or initial loss.

Every function returns a matplotlib Figure that needs no display: `figure.savefig("name.png", dpi=150)`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspaces.errors import unknown_name
from subspaces.transition.success import SuccessTable, ThresholdDimension
from subspaces.transition.values import ValueFit

# one colour per series, told apart also in grey and by the colour-blind (Okabe & Ito 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# white with a dark outline: seen on both ends of the colour map
OUTLINED: dict[str, Any] = {
    "color": "white",
    "linewidth": 1.8,
    "path_effects": [patheffects.withStroke(linewidth=3.4, foreground="0.15")],
}
AXES = {"level": "loss level ε", "burn_in": "burn-in steps t", "initial": "loss at the start"}


def success_heatmap(
    table: SuccessTable,
    thresholds: Sequence[ThresholdDimension] = (),
    *,
    predicted: Mapping[str, Sequence[float]] | None = None,
    D: int | None = None,
    level_name: str = "loss level ε",
    fitted: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Heat-map of P_s over d and the level, with the measured threshold and predictions drawn over it.

    Args:
        table: from `success_probability`.
        thresholds: measured d* per level; its line and intervals. Levels not reached leave a gap.
        predicted: further lines, name → one d per level of the table (NaN leaves a gap).
        D: adds an upper axis with d as a fraction of D.
        level_name: label of the vertical axis.
        fitted: draw the monotone fit instead of the raw fractions.
        ax: axes to draw into; a new figure by default.
    """
    figure, ax = _axes(ax)
    _log_where_positive(ax, table)
    values = table.fitted if fitted else table.probability
    image = ax.pcolormesh(
        _edges(table.d, True), _edges(table.levels, ax.get_yscale() == "log"), values, vmin=0, vmax=1, cmap="viridis"
    )
    figure.colorbar(image, ax=ax, label="success probability")
    _draw_series(ax, [t for t in thresholds if t.status == "reached"], "level", {}, 0, "measured", 1.0, swap=True)
    for i, (name, line) in enumerate((predicted or {}).items()):
        if len(line) != len(table.levels):
            raise ValueError(f"`predicted` must have one d per level, {len(table.levels)}; got {len(line)} in {name}.")
        ax.plot(line, table.levels, **OUTLINED, linestyle=("--", ":", "-.")[i % 3], label=name)
    ax.set(xlabel="training dimension d", ylabel=level_name, xlim=_edges(table.d, True)[[0, -1]])
    if thresholds or predicted:
        ax.legend(loc="best", fontsize="small", facecolor="0.35", labelcolor="white")
    if D is not None:
        scale = (lambda x: np.asarray(x) / D), (lambda x: np.asarray(x) * D)
        ax.secondary_xaxis("top", functions=scale).set_xlabel(f"d/D, D = {D:,}")
    return figure


def plot_probability(
    fits: Mapping[float, ValueFit], table: SuccessTable, *, level_name: str = "loss level ε", ax: Axes | None = None
) -> Figure:
    """P_s over d at some levels: from the values with its interval, and the fractions of runs that reached the level.

    Args:
        fits: level → `value_fit` of it; one line each.
        table: from `success_probability`, with these levels among its own: a dot per d, larger where there are more
            runs.
        level_name: title of the legend.
        ax: axes to draw into; a new figure by default.
    """
    figure, ax = _axes(ax)
    for i, (level, fit) in enumerate(sorted(fits.items())):
        colour = COLOURS[i % len(COLOURS)]
        d = np.geomspace(fit.d[0] / 1.3, fit.d[-1] * 1.3, 161)
        low, high = fit.band(d)
        ax.plot(d, fit.probability(d), color=colour, linewidth=1.4, label=f"{level:g}")
        ax.fill_between(d, low, high, color=colour, alpha=0.15, linewidth=0)
        row = int(np.abs(table.levels - level).argmin())
        near = (table.d >= d[0]) & (table.d <= d[-1])
        sizes = 14 * table.runs[near]
        ax.scatter(table.d[near], table.probability[row, near], s=sizes, color=colour, alpha=0.5, linewidths=0)
    ax.set(xscale="log", xlabel="training dimension d", ylabel="success probability", ylim=(-0.04, 1.04))
    ax.legend(title=level_name, fontsize="small", title_fontsize="small")
    return figure


def plot_thresholds(
    series: Mapping[str, Sequence[ThresholdDimension]],
    *,
    x: str = "level",
    initial: Mapping[int, float] | None = None,
    D: int | Mapping[str, int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """d* with its interval, one line per method or level, against level, burn-in time or initial loss.

    An arrow up marks a threshold not reached by the largest d (drawn there), an arrow down one that every tested d
    reached: the truth lies in the arrow's direction.

    Args:
        series: name → thresholds, such as {"random": …, "burn-in": …, "lottery": …}.
        x: ``level``, ``burn_in`` or ``initial`` (needs `initial`).
        initial: burn-in → mean loss at the start.
        D: number of parameters, one for all or one per series: draws d*/D instead of d*.
        ax: axes to draw into; a new figure by default.
    """
    if x not in AXES:
        raise unknown_name("x", x, AXES)
    if not series or (x == "initial" and initial is None):
        raise ValueError("`series` must hold thresholds, and x='initial' needs `initial`; got neither.")
    figure, ax = _axes(ax)
    for i, (name, thresholds) in enumerate(series.items()):
        scale = 1.0 if D is None else 1.0 / (D if isinstance(D, int) else D[name])
        _draw_series(ax, thresholds, x, initial or {}, i, name, scale)
    positions = [_position(t, x, initial or {}) for many in series.values() for t in many]
    ax.set_xscale("log" if min(positions) > 0 else "symlog" if x == "burn_in" else "linear")
    ax.set_yscale("log")
    ax.set(xlabel=AXES[x], ylabel="threshold training dimension d*" + ("" if D is None else " / D"))
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(fontsize="small")
    return figure


def _draw_series(
    ax: Axes,
    thresholds: Sequence[ThresholdDimension],
    x: str,
    initial: Mapping[int, float],
    i: int,
    name: str,
    scale: float,
    swap: bool = False,
) -> None:
    if not thresholds:
        return
    ordered = sorted(thresholds, key=lambda t: _position(t, x, initial))
    at = np.array([_position(t, x, initial) for t in ordered])
    d = np.array([t.d_star if math.isfinite(t.d_star) else t.tested[-1] for t in ordered], dtype=float)
    low = np.array([t.lower if t.lower > 0 else t.tested[0] for t in ordered])
    high = np.array([t.upper if math.isfinite(t.upper) else t.tested[-1] for t in ordered])
    error = np.stack([np.maximum(d - low, 0), np.maximum(high - d, 0)]) * scale
    colour = "#E8452C" if swap else COLOURS[i % len(COLOURS)]
    style: dict[str, Any] = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 5, "capsize": 2.5}
    if swap:
        ax.errorbar(d * scale, at, xerr=error, label=f"{name} d*", linewidth=1.2, **style)
        return
    ax.errorbar(at, d * scale, yerr=error, label=name, linewidth=1.2, **style)
    for position, value, t in zip(at, d * scale, ordered, strict=True):
        if t.status != "reached":
            up = t.status == "not_reached"
            ax.annotate(
                "",
                (position, value * (1.5 if up else 1 / 1.5)),
                (position, value),
                arrowprops={"arrowstyle": "->", "color": colour},
            )


def _position(threshold: ThresholdDimension, x: str, initial: Mapping[int, float]) -> float:
    return initial[threshold.burn_in] if x == "initial" else float(getattr(threshold, x))


def _axes(ax: Axes | None) -> tuple[Figure, Axes]:
    if ax is None:
        figure = Figure(figsize=(6, 4.2), layout="constrained")
        return figure, figure.add_subplot()
    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise ValueError("`ax` must belong to a figure; got axes without one.")
    return figure, ax


def _log_where_positive(ax: Axes, table: SuccessTable) -> None:
    ax.set_xscale("log")
    ratio = table.levels.max() / table.levels.min() if table.levels.min() > 0 else 0.0
    ax.set_yscale("log" if ratio > 8 else "linear")


def _edges(centres: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Cell borders half-way between neighbours, so that tested values need not be evenly spaced."""
    x = np.log(centres) if logarithmic else centres.astype(float)
    if len(x) == 1:
        half = 0.1 if logarithmic else 0.05 * abs(x[0]) + 1e-3
        edges = np.array([x[0] - half, x[0] + half])
    else:
        middle = (x[1:] + x[:-1]) / 2
        outer = np.diff(x).min() / 2
        edges = np.concatenate([[x[0] - outer], middle, [x[-1] + outer]])
    return np.exp(edges) if logarithmic else edges
