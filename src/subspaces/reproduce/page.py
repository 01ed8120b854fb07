"""The page docs/reproduction.md: made of the result rows and the recipes alone, never typed by hand."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from subspaces.files import atomic_write
from subspaces.recipes import RECIPES, Recipe, Series, load_recipe
from subspaces.recipes.series import Kind
from subspaces.reproduce import transition_page, wells_page
from subspaces.reproduce.markdown import count, interval, signed, table
from subspaces.reproduce.places import Places, Row, read_rows

VERDICTS = ("beaten", "matched", "not reached")

# ---- status


def counts(rows: Iterable[Row]) -> Counter[str]:
    """How many rows have each verdict."""
    return Counter(row["verdict"] for row in rows if row["verdict"])


def status(places: Places) -> list[dict[str, Any]]:
    """One line per recipe: series run and listed, and the verdicts."""
    lines = []
    for name in RECIPES:
        recipe, rows = load_recipe(name), read_rows(places.rows(name))
        done = {row["series"] for row in rows} & {one.name for one in recipe.series}
        found = counts(rows)
        lines.append(
            {"recipe": name, "title": recipe.title, "series": len(recipe.series), "run": len(done), "rows": len(rows)}
            | {verdict: found[verdict] for verdict in VERDICTS}
        )
    return lines


# ---- the page

INTRODUCTION = """\
# The published tables, reproduced

This page is made by `subspaces reproduce --docs` from the rows in `results/` and the recipes in
`src/subspaces/recipes/`; nothing on it is typed by hand. `subspaces reproduce NAME` runs a recipe again,
`subspaces reproduce NAME --smoke` its minute's version.

**Protocol.** A validation split of the training images does all the choosing (settings, intrinsic dimensions); the
test score of the *last* epoch is reported, as the mean over runs whose seeds of projection, initial weights and data
order all differ, with Student's 95 % interval of the mean. The published numbers are mostly of one run, and many are of
the best epoch on the test set.

**Verdicts.** *beaten*: the whole interval is better than the published number. *matched*: the mean is better, or worse
by no more than our half-width and by no more than 0.5 points (the published noise between runs). *not reached*:
neither. For an intrinsic dimension d, smaller is better: *beaten* if the whole interval lies below the published d,
*matched* if the estimate does, or if the interval holds the published d.
"""


def write_page(places: Places) -> Path:
    """Write the page from the rows that are there."""
    parts = [INTRODUCTION, _summary(status(places))]
    for name in RECIPES:
        parts.append(_section(load_recipe(name), read_rows(places.rows(name)), places))
    atomic_write(places.page, "\n".join(parts).encode())
    return places.page


def _summary(lines: list[dict[str, Any]]) -> str:
    head = ["recipe", "", "series run", *VERDICTS]
    rows = [
        [f"[{n['recipe']}](#{n['recipe']})", n["title"], f"{n['run']} of {n['series']}", *(n[v] for v in VERDICTS)]
        for n in lines
    ]
    return table(head, rows, "llrrrr")


def _section(recipe: Recipe, rows: list[Row], places: Places) -> str:
    parts = [f"## {recipe.name}\n", f"**{recipe.title}.** {recipe.paper}.\n"]
    parts += [f"*Claimed:* {recipe.claim.strip()}\n", f"*Our protocol:* {recipe.protocol.strip()}\n"]
    for figure in _figures(recipe, places) if rows else []:
        below = figure.relative_to(places.page.parent).as_posix()
        parts.append(f"![{recipe.title}: {CAPTIONS[recipe.kind]}]({below})\n")
    done = [one for one in recipe.series if any(row["series"] == one.name for row in rows)]
    if rows:
        parts.append(RESULTS[recipe.kind](recipe, rows))
        parts += [ACCOUNTS[recipe.kind](one, [row for row in rows if row["series"] == one.name]) for one in done]
        parts += _reasons(recipe, rows)
        parts.append("\n" + _where(rows))
    missing = [one for one in recipe.series if one not in done]
    if missing:
        names = "; ".join(f"`{one.name}` ({one.title})" for one in missing)
        parts.append(f"Written, not run here: {names}.\n")
    return "\n".join(parts)


def _figures(recipe: Recipe, places: Places) -> list[Path]:
    """The recipe's own figure, then those whose names continue its name by a kind's suffix."""
    paths = [places.figure(recipe.name + suffix) for suffix in SUFFIXES[recipe.kind]]
    return [path for path in paths if path.is_file()]


def _results(recipe: Recipe, rows: list[Row]) -> str:
    scaled = any(float(row["frozen"] or 0) or abs(float(row["column_norm"] or 1) - 1) > 1e-6 for row in rows)
    head = ["series", "", "d", "measured", "95 % interval", "published", "difference", "", "runs"]
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
        if scaled:
            shown += [f"{100 * float(row['frozen']):.1f} %" if row["frozen"] else "", row["column_norm"]]
        lines.append(shown)
    return table(head, lines, "llrrrrrlr" + "rr" * scaled)


def _measured(row: Row) -> str:
    if row["measured"]:
        extra = f" ({row['outcome']})" if row["outcome"] not in ("", "found") else ""
        return count(row["measured"]) + extra
    return row["outcome"] or "–"


def unexplained(recipe: Recipe, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Rows that were not reached and have no reason in the recipe: (series, d or quantity)."""
    reasons = {one.name: one.missed for one in recipe.series}
    missed = [(row["series"], _place(row)) for row in rows if row["verdict"] == "not reached"]
    return [(series, place) for series, place in missed if place not in reasons.get(series, {})]


def _place(row: Row) -> str:
    """What a reason is found by: d, or the quantity where a row is of all d."""
    return row["d"] or row["quantity"]


def _reasons(recipe: Recipe, rows: Sequence[Row]) -> list[str]:
    """One line for each reason, with all the rows that it is the reason of."""
    reasons = {one.name: one.missed for one in recipe.series}
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] == "not reached":
            where = f"`{row['series']}`, " + (f"d = {count(row['d'])}" if row["d"] else row["quantity"])
            reason = reasons.get(row["series"], {}).get(_place(row), "not known.")
            found.setdefault(reason, []).append(where)
    lines = [f"- {'; '.join(places)}: {reason}" for reason, places in found.items()]
    return ["\n**Not reached, and why:**\n", *lines] if lines else []


def _emphasis(verdict: str) -> str:
    return f"**{verdict}**" if verdict == "not reached" else verdict


def _account(series: Series, rows: Sequence[Row]) -> str:
    """What was run, how long it took, and the note."""
    row = next((row for row in rows if row["d"] != "direct"), rows[0])
    part = "training" if row["part"] == "train" else "test"
    seconds = max(float(r["seconds"]) for r in rows if not r["quantity"].startswith("d_int")) if row["d"] else 0.0
    cost = f"; up to {seconds:.0f} s per run" if seconds >= 1 else ""
    projection = f", `{row['projection']}`" if row["projection"] else ""
    literal = next(
        (f" Smallest tested d that passes (rule of Li et al.): {count(r['literal'])}." for r in rows if r["literal"]),
        "",
    )
    note = f" {series.note.strip()}" if series.note else ""
    return (
        f"- `{series.name}`: {series.title}; task `{series.task}`, D = {int(row['D']):,}{projection}; "
        f"{row['settings']}; {part} score{cost}.{literal}{note}"
    )


def _where(rows: Sequence[Row]) -> str:
    """Machines and versions, each once."""
    seen = {(r["accelerator"] or r["processor"], r["cores"], r["python"], r["torch"], r["commit"]) for r in rows}
    places = [
        f"{what}, {cores} cores, Python {python}, torch {torch}" + (f", commit {commit}" if commit else "")
        for what, cores, python, torch, commit in sorted(seen)
    ]
    return f"Run on: {'; '.join(places)}.\n"


RESULTS: dict[Kind, Callable[[Recipe, list[Row]], str]] = {
    "table": _results,
    "transition": transition_page.results,
    "wells": wells_page.results,
}
"""The table of each kind of recipe."""
ACCOUNTS: dict[Kind, Callable[[Series, Sequence[Row]], str]] = {
    "table": _account,
    "transition": transition_page.account,
    "wells": wells_page.account,
}
"""What is said of a series: what was run, how long it took, and the note."""
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "table": ("",),
    "transition": ("", "-thresholds"),
    "wells": ("", "-heatmap", "-curves", "-widths", "-measured"),
}
"""Figures in the order of the page, by what is added to the recipe's name."""
CAPTIONS: dict[Kind, str] = {
    "table": "published against measured",
    "transition": "measured and predicted",
    "wells": "exact, predicted and measured",
}
