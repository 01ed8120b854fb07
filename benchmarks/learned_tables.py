"""The table of the grid past SGD: what a learned subspace buys beside a falling rate and an average."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

from common import read_rows
from scipy.stats import t as student

Markdown = Callable[[list[str], list[list[str]]], str]
TABLE = "learned-grid"
REFERENCES = ("EMA of SGD, constant rate", "SGD, cosine")
"""The references that all are compared with."""


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per way: mean, standard error, and the paired differences from the references with 95 % intervals."""
    by_way: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        by_way.setdefault((row["way"], str(row["d"])), {})[str(row["seed"])] = float(row["accuracy"])
    epochs = {(row["way"], str(row["d"])): row["epochs"] for row in rows}
    lines = []
    for key, found in by_way.items():
        line = {"way": key[0], "d": key[1], "epochs": epochs[key], "mean": f"{fmean(found.values()):.2f}"}
        for name in REFERENCES:
            base = by_way.get((name, ""), {})
            line[f"– {name}"] = difference([value - base[seed] for seed, value in found.items() if seed in base])
        lines.append(line)
    return lines


def difference(values: Sequence[float]) -> str:
    """Mean with its 95 % interval."""
    n = len(values)
    if n < 2:
        return ""
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return f"{fmean(values):+.2f} ± {half:.2f}"


def grid(markdown: Markdown) -> str:
    """Every way, the best first: mean accuracy and paired differences with 95 % intervals."""
    rows = read_rows(TABLE)
    if not rows:
        return "Not measured yet.\n"
    seeds = len({row["seed"] for row in rows})
    lines = sorted(summary(rows), key=lambda line: -float(line["mean"]))
    head = ["way", "d", "epochs", f"test accuracy, mean of {seeds}", *(f"− {name}" for name in REFERENCES)]
    cells = [
        [line["way"], line["d"] or "–", line["epochs"], line["mean"], *(line[f"– {name}"] for name in REFERENCES)]
        for line in lines
    ]
    return markdown(head, cells)


TABLES = {"learned_grid": grid}
