"""What the page of the reproductions says of a published table."""

from collections.abc import Sequence

from subspaces.recipes import Recipe, Series
from subspaces.reproduce.csv_rows import Row
from subspaces.reproduce.markdown import count, interval, signed, table


def results(recipe: Recipe, rows: list[Row]) -> str:
    """Measured beside published, one line per row."""
    scaled = any(row.number("frozen", 0.0) or abs(row.number("column_norm", 1.0) - 1) > 1e-6 for row in rows)
    head = ["series", "", "d", "measured", "95 % interval", "published", "difference", "", "runs"]
    best = any(row["best"] and row["published_best"] for row in rows)
    head += ["best epoch", "published"] if best else []
    head += ["frozen", "column norm"] if scaled else []
    lines, order = [], [one.name for one in recipe.series]
    ordered = sorted((row for row in rows if row["series"] in order), key=lambda row: order.index(row["series"]))
    for row in ordered:
        shown = [
            row["series"],
            row["quantity"],
            count(row["d"]),
            _measured(row),
            interval(row),
            count(row["published"]),
        ]
        shown += [signed(row["difference"]), _emphasis(row["verdict"]), row["runs"]]
        if best:
            shown += [row["best"], count(row["published_best"])] if row["published_best"] else ["", ""]
        if scaled:
            shown += [f"{100 * row.number('frozen'):.1f} %" if row["frozen"] else "", row["column_norm"]]
        lines.append(shown)
    return table(head, lines, "llrrrrrlr" + "rr" * best + "rr" * scaled)


def _measured(row: Row) -> str:
    if row["measured"]:
        extra = f" ({row['outcome']})" if row["outcome"] not in ("", "found") else ""
        return count(row["measured"]) + extra
    return row["outcome"] or "–"


def _emphasis(verdict: str) -> str:
    return f"**{verdict}**" if verdict == "not reached" else verdict


def account(series: Series, rows: Sequence[Row]) -> str:
    """What was run, how long it took, and the note."""
    row = next((row for row in rows if row["d"] != "direct"), rows[0])
    part = "training" if row["part"] == "train" else "test"
    seconds = max(r.number("seconds") for r in rows if not r["quantity"].startswith("d_int")) if row["d"] else 0.0
    cost = f"; up to {seconds:.0f} s per run" if seconds >= 1 else ""
    projection = f", `{row['projection']}`" if row["projection"] else ""
    literal = next(
        (f" Smallest tested d that passes (rule of Li et al.): {count(r['literal'])}." for r in rows if r["literal"]),
        "",
    )
    note = f" {series.note.strip()}" if series.note else ""
    return (
        f"- `{series.name}`: {series.title}; task `{series.task}`, D = {row.whole('D'):,}{projection}; "
        f"{row['settings']}; {part} score{cost}.{literal}{note}"
    )
