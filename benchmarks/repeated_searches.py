"""Does the instrument agree with itself? The same search from other first seeds: spread against claimed intervals.

    OMP_NUM_THREADS=1 python benchmarks/repeated_searches.py digits-fc [--searches 20] [--workers 1] [--own-length]

Real runs in the short protocol (the task's own length with --own-length), kept in --runs: an interrupted call goes on.
Each search has first seeds 1,000 apart, so that no two share a run. Writes a row per search to
results/repeated-searches.csv and prints the median, the 90 % range and χ² of ln d_int against the claimed intervals.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write_rows

from subspaces.dimension.measure import measure_dimension
from subspaces.dimension.result import Rule
from subspaces.runs.protocols import quick
from subspaces.runs.run import Run

APART = 1000


def searched(task: str, number: int, workers: int, folder: Path, own_length: bool) -> dict[str, Any]:
    """One search, as a row."""
    config = Run.of(task) if own_length else quick(Run.of(task))
    rule = Rule(first_seed=APART * number)
    found = measure_dimension(config, folder / f"{task}-{number}-{workers}", rule, workers=workers)
    estimate, lines, length = found.estimate, found.to_dict(), "own length" if own_length else "quick"
    return {
        "search": f"{task}, {length}, {workers} workers, {number}", "task": task, "length": length, "workers": workers,
        "outcome": estimate.outcome, "d_int": estimate.d_int, "low": estimate.low, "high": estimate.high,
        "runs": len(estimate.runs), "by_test": (lines["by_test"] or [None])[0],
    }  # fmt: skip


def agreement(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """χ² of ln d_int around its weighted mean, by the width of the claimed intervals; and how many runs it took."""
    known = [row for row in rows if row["d_int"] and row["low"] and row["high"]]
    x = np.array([math.log(row["d_int"]) for row in known])
    sd = np.array([math.log(row["high"] / row["low"]) / (2 * 1.96) for row in known])
    mean = float((x / sd**2).sum() / (1 / sd**2).sum())
    held = [row["low"] <= math.exp(mean) <= row["high"] for row in known]
    runs = [row["runs"] for row in rows]
    return {
        "searches": len(rows), "found": sum(row["outcome"] == "found" for row in rows), "mean": math.exp(mean),
        "chi2": float((((x - mean) / sd) ** 2).sum()), "freedom": len(known) - 1, "hold_mean": sum(held),
        "runs_median": float(np.median(runs)), "runs_p90": float(np.quantile(runs, 0.9)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--own-length", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/repeated-searches"))
    options = parser.parse_args()
    rows = []
    for number in range(options.searches):
        row = searched(options.task, number, options.workers, options.runs, options.own_length)
        rows.append(row)
        print(row, flush=True)
        write_rows("repeated-searches", [row], "search")
    print_table([agreement(rows)])


if __name__ == "__main__":
    main()
