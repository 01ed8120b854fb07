"""The figure of quadratic wells that follows from the rows: exact thresholds, predictions, bounds, measurements."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspaces.recipes import Recipe
from subspaces.reproduce.csv_rows import Row
from subspaces.transition.figures import COLOURS


def figures(recipe: Recipe, rows: Sequence[Row]) -> dict[str, Figure]:
    """One panel for every well: d* against the level."""
    found = {one.title: [row for row in rows if row["series"] == one.name] for one in recipe.series}
    found = {title: mine for title, mine in found.items() if mine}
    if not found:
        return {}
    figure = Figure(figsize=(1 + 3.9 * len(found), 4.2), layout="constrained")
    for i, (title, mine) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), 1 + i)
        _panel(axes, sorted(mine, key=lambda row: row.number("fraction")))
        axes.set(xscale="log", xlabel="loss level ε / L(start)", title=title, ylabel="threshold d*" if i == 0 else "")
        if i == 0:
            axes.legend(fontsize="small")
    return {"": figure}


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    x = [row.number("fraction") for row in rows]

    def line(name: str) -> list[float]:
        return [row.number(name) for row in rows]

    axes.plot(x, line("oracle_d90"), "s", color="0.2", markerfacecolor="none", markersize=9, label="exact, P = 0.9")
    axes.plot(x, line("oracle_d50"), "o", color="0.2", markerfacecolor="none", markersize=7, label="exact, P = ½")
    axes.plot(x, line("predicted_d50"), "-", color=COLOURS[0], label="predicted, P = ½")
    axes.plot(x, line("bound"), "--", color=COLOURS[1], label="Σ R²/(R² + r²)")
    axes.plot(x, line("gordon"), ":", color=COLOURS[2], label="Gordon: d* at least")
    known = [row for row in rows if row["measured"]]
    centre = [row.number("measured") for row in known]
    low = [m - row.number("low") for m, row in zip(centre, known, strict=True)]
    high = [row.number("high") - m for m, row in zip(centre, known, strict=True)]
    axes.errorbar(
        [row.number("fraction") for row in known], centre, [low, high], fmt=".", color=COLOURS[3], capsize=3,
        label="measured, 95 %",
    )  # fmt: skip
