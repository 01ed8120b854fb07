"""What the page of the reproductions says of quadratic wells."""

from collections.abc import Sequence

from subspaces.recipes import Recipe, Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.markdown import count, interval, table


def results(recipe: Recipe, rows: list[Row]) -> str:
    """Exact thresholds, predictions, bounds and what was measured, per well and level."""
    order = [one.name for one in recipe.series]
    mine = sorted((row for row in rows if row["series"] in order), key=lambda row: order.index(row["series"]))
    head = ["series", "ε / L(start)", "exact, P = ½", "predicted", "Σ R²/(R²+r²)", "Gordon d* ≥", "exact d*", "law",
            "measured d* (95 %)", "runs"]  # fmt: skip
    lines = [
        [row["series"], row["fraction"], row["oracle_d50"], row["predicted_d50"], row["bound"], row["gordon"],
         row["oracle_d90"], row["law_d90"], _measured(row), row["runs"]]
        for row in mine
    ]  # fmt: skip
    return table(head, lines, "lrrrrrrrrr")


def _measured(row: Row) -> str:
    return f"{count(row['measured'])} ({interval(row)})" if row["measured"] else ""


def account(series: Series, rows: Sequence[Row]) -> str:
    """The well and how it was judged."""
    row = rows[0]
    law = "Beta" if series.wells and series.wells.exponent == 0 else "normal curve of the cone"
    return (
        f"- `{series.name}`: {series.title}; D = {row['D']}, R = {row['R']}; exact: {row['draws']} "
        f"random subspaces, each solved exactly; law: {law}."
    )
