"""The tasks of the studies of one search beside another, and their rows: `rate_study.py`, `length_study.py`."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, print_table, write_rows

from subspaces.dimension.compare import compare
from subspaces.dimension.intrinsic import intrinsic_dimension
from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import IntrinsicDimension, Rule
from subspaces.runs.protocols import quick
from subspaces.runs.run import Run

REGRESSION = "regression"
"""examples/regression.py: 1,200 rows of a table, 60 epochs."""


def measured(task: str, folder: Path, short: bool = False, **rules: Any) -> IntrinsicDimension:
    """One search with one worker; the same call goes on where an earlier one was ended.

    Args:
        task: a name, or `REGRESSION`.
        folder: of the runs.
        short: short runs: `quick`, which for the regression is a tenth of its epochs.
        rules: of the search.
    """
    if task != REGRESSION:
        run = Run.of(task)
        return measure_dimension(quick(run) if short else run, folder, Rule(**rules), workers=1)
    sys.path.insert(0, str(ROOT / "examples"))
    import make_data  # pyright: ignore[reportMissingImports]
    import regression  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "prices.csv"
    if not table.exists():
        make_data.table(table)
    return intrinsic_dimension(
        regression.network, str(table), target="price", loss="mse", score="r2", epochs=6 if short else 60, lr=5e-3,
        schedule="cosine", name=REGRESSION, workers=1, out=folder, report=False, progress=False, **rules,
    )  # fmt: skip


def row(name: str, task: str, kind: str, number: int, found: IntrinsicDimension) -> dict[str, Any]:
    """A search as a row of results."""
    estimate = found.estimate
    epochs = next((r.resolved.get("epochs") for r in (*found.results, *found.direct)), None)
    return {
        "search": name, "task": task, "kind": kind, "number": number, "outcome": estimate.outcome,
        "d_int": estimate.d_int, "low": estimate.low, "high": estimate.high, "runs": len(found.results),
        "tuning_runs": len(found.tuning), "epochs": epochs,
        "work": round(sum(r.seconds for r in (*found.results, *found.tuning)), 1), "level": estimate.level,
    }  # fmt: skip


def beside(task: str, number: int, first: IntrinsicDimension, second: IntrinsicDimension) -> dict[str, Any]:
    """The ratio of two answers to the same question, as a line to print."""
    if first.d_int is None or second.d_int is None:
        return {"task": task, "number": number, "ratio": math.nan, "low": math.nan, "high": math.nan, "differ": "?"}
    found = compare(first.estimate, second.estimate)
    told = {"ratio": found.ratio, "low": found.low, "high": found.high, "differ": str(found.differ)}
    return {"task": task, "number": number, **told}


def study(
    results: str, tasks: list[str], searches: int, kinds: dict[str, Callable[[str, Path, int], IntrinsicDimension]],
    folder: Path,
) -> None:  # fmt: skip
    """Two kinds of searches on some tasks: rows into ``results``, one by one, and their ratios printed.

    Args:
        results: name of the table.
        tasks: their names.
        searches: pairs of searches per task, from other first seeds.
        kinds: two names and what does such a search, of (task, folder, first seed); the second is compared with the
            first.
        folder: of the runs.
    """
    lines = []
    for task in tasks:
        for number in range(searches):
            found = []
            for kind, search in kinds.items():
                name = f"{task}, {kind}, {number}"
                found.append(search(task, folder / f"{task}-{kind}-{number}".replace(" ", "-"), 1000 * number))
                write_rows(results, [row(name, task, kind, number, found[-1])], "search")
                print(f"{name}: {found[-1]}", flush=True)
            lines.append(beside(task, number, found[1], found[0]))
            print_table([lines[-1]])
    print_table(lines)
    print(f"rows in {RESULTS / results}.csv")
