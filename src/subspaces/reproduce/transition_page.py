"""What the page of the reproductions says of a transition recipe."""

from collections.abc import Sequence

from subspaces.recipes import Recipe, Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.markdown import count, table
from subspaces.reproduce.transition import RUN


def results(recipe: Recipe, rows: list[Row]) -> str:
    """Thresholds per series, part, burn-in time and level, with what was predicted."""
    order = [one.name for one in recipe.series]
    mine = [row for row in rows if row["quantity"] != RUN and row["series"] in order]
    mine.sort(key=lambda row: order.index(row["series"]))
    head = ["series", "reach", "start", "d* (95 %)", "d*/D", "monotone (95 %)", "predicted", "geometry", "runs"]
    lines = []
    for row in mine:
        what = "ε =" if row["part"] == "train" else "test accuracy"
        mark = "†" if row["added"] else ""
        share = f"{100 * row.number('measured') / row.whole('D'):.2g} %" if row["measured"] else ""
        lines.append([
            row["series"], f"{what} {row['level']}{mark}", _start(row), with_interval(row), share,
            with_interval(row, "monotone"), count(row["predicted"]), count(row["geometric"]), row["runs"],
        ])  # fmt: skip
    note = "\n† A level that was chosen after data had been seen.\n" if any(row["added"] for row in mine) else ""
    return table(head, lines, "lllrrrrrr") + note


def _start(row: Row) -> str:
    where = "random" if row["burn_in"] == "0" else f"{row['burn_in']} steps"
    return f"{where} (loss {row.number('start_loss'):.2f})"


def with_interval(row: Row, method: str = "") -> str:
    """A threshold with its interval; > and ≤ where it lies outside of the d that were tried."""
    star, low, high = ("measured", "low", "high") if not method else (method, f"{method}_low", f"{method}_high")
    if not row[star]:
        return f"> {count(row['d_max'])}"
    if row.number(star) <= row.number("d_min"):
        return f"≤ {count(row['d_min'])}"
    return f"{count(row[star])} ({count(row[low]) or 0} – {count(row[high]) or '∞'})"


def account(series: Series, rows: Sequence[Row]) -> str:
    """What was run, how long it took, and the note."""
    row = next(row for row in rows if row["quantity"] != RUN)
    runs = [one for one in rows if one["quantity"] == RUN and one["part"] == "train"]
    minutes = sum(one.number("seconds", 0.0) for one in runs) / 60
    note = f" {series.note.strip()}" if series.note else ""
    return (
        f"- `{series.name}`: {series.title}; task `{series.task}`, D = {row.whole('D'):,}, `{row['projection']}`; "
        f"{row['settings']}; {row['steps']} steps, window {row['window']}, δ = {row['delta']}; {len(runs)} runs, "
        f"{minutes:.0f} minutes.{note}"
    )
