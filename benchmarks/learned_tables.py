"""The table of the grid past SGD: what a learned subspace buys beside a falling rate and an average."""

from collections.abc import Callable

from common import read_rows

Markdown = Callable[[list[str], list[list[str]]], str]
_SHOWN = ("EMA of SGD, constant rate", "SGD, cosine")
"""The references that all are compared with."""


def grid(markdown: Markdown) -> str:
    """Every way, the best first: mean accuracy and paired differences with 95 % intervals."""
    from learned_grid import TABLE, summary  # torch is needed only here

    rows = read_rows(TABLE)
    if not rows:
        return "Not measured yet.\n"
    seeds = len({row["seed"] for row in rows})
    lines = sorted(summary(rows), key=lambda line: -float(line["mean"]))
    head = ["way", "d", "epochs", f"test accuracy, mean of {seeds}", *(f"− {name}" for name in _SHOWN)]
    cells = [
        [line["way"], line["d"] or "–", line["epochs"], line["mean"], *(line[f"– {name}"] for name in _SHOWN)]
        for line in lines
    ]
    return markdown(head, cells)


TABLES = {"learned_grid": grid}
