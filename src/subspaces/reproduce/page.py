"""The page docs/reproduction.md: made of the result rows and the recipes alone, never typed by hand."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from subspaces.files import KEPT, atomic_write
from subspaces.recipes import RECIPES, Recipe, load_recipe
from subspaces.reproduce.csv_rows import Row, read_rows
from subspaces.reproduce.kinds import KINDS
from subspaces.reproduce.markdown import count, table
from subspaces.reproduce.paths import Paths

VERDICTS = ("beaten", "matched", "not reached")

# ---- status


def counts(rows: Iterable[Row]) -> Counter[str]:
    """How many rows have each verdict."""
    return Counter(row["verdict"] for row in rows if row["verdict"])


def status(paths: Paths) -> list[dict[str, Any]]:
    """One line per recipe: series run and listed, and the verdicts."""
    lines = []
    for name in RECIPES:
        recipe, rows = load_recipe(name), read_rows(paths.rows(name))
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


def write_page(paths: Paths) -> Path:
    """Write the page from the rows that are there."""
    parts = [INTRODUCTION, _summary(status(paths))]
    for name in RECIPES:
        parts.append(_section(load_recipe(name), read_rows(paths.rows(name)), paths))
    atomic_write(paths.page, "\n".join(parts).encode(), kept=KEPT)
    return paths.page


def _summary(lines: list[dict[str, Any]]) -> str:
    head = ["recipe", "", "series run", *VERDICTS]
    rows = [
        [f"[{n['recipe']}](#{n['recipe']})", n["title"], f"{n['run']} of {n['series']}", *(n[v] for v in VERDICTS)]
        for n in lines
    ]
    return table(head, rows, "llrrrr")


def _section(recipe: Recipe, rows: list[Row], paths: Paths) -> str:
    kind = KINDS[recipe.kind]
    parts = [f"## {recipe.name}\n", f"**{recipe.title}.** {recipe.paper}.\n"]
    parts += [f"*Claimed:* {recipe.claim.strip()}\n", f"*Our protocol:* {recipe.protocol.strip()}\n"]
    for figure in _figures(recipe, paths) if rows else []:
        below = figure.relative_to(paths.page.parent).as_posix()
        parts.append(f"![{recipe.title}: {kind.caption}]({below})\n")
    done = [one for one in recipe.series if any(row["series"] == one.name for row in rows)]
    if rows:
        parts.append(kind.results(recipe, rows))
        parts += [kind.account(one, [row for row in rows if row["series"] == one.name]) for one in done]
        parts += _reasons(recipe, rows)
        parts.append("\n" + _where(rows))
    missing = [one for one in recipe.series if one not in done]
    if missing:
        names = "; ".join(f"`{one.name}` ({one.title})" for one in missing)
        parts.append(f"Written, not run here: {names}.\n")
    return "\n".join(parts)


def _figures(recipe: Recipe, paths: Paths) -> list[Path]:
    """The recipe's own figure, then those whose names continue its name by a kind's suffix."""
    found = [paths.figure(recipe.name + suffix) for suffix in KINDS[recipe.kind].suffixes]
    return [path for path in found if path.is_file()]


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


def _where(rows: Sequence[Row]) -> str:
    """Machines and versions, each once."""
    seen = {(r["accelerator"] or r["processor"], r["cores"], r["python"], r["torch"], r["commit"]) for r in rows}
    places = [
        f"{what}, {cores} cores, Python {python}, torch {torch}" + (f", commit {commit}" if commit else "")
        for what, cores, python, torch, commit in sorted(seen)
    ]
    return f"Run on: {'; '.join(places)}.\n"
