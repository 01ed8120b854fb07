"""Where does the time of a whole `subspaces dimension TASK` go?

    python benchmarks/search_time.py digits-fc [mnist-fc ...] [--searches 20] [--workers 2] [--runs DIR] [--show]
        [-- OPTIONS OF subspaces dimension]

Searches have first seeds 1,000 apart, so that no two share a run. The command is run as a user runs it, in a process
and a folder of its own; its workers time themselves (the trainer is wrapped, at a cost of 1 µs per step). The time of
the workers plus that for which they do not exist adds up to workers × wall. Writes results/search-time.csv, one row
per search, and prints the median and the 90 % quantile per task; searches that have a row are not run again. With
--runs the folders stay, as `repeated_searches.py --runs` reads them.

* start: from the command to the first run: the interpreter and the libraries of the parent and of the workers;
* data, model: reading the data; building networks, projections and optimisers;
* steps, evaluations, rows: training; validation and test after each epoch; writing results and coordinates;
* baseline: that part of these which direct runs took;
* search: decisions of the search and records, in the parent, while workers go on or wait;
* idle: workers that wait for a run to be asked for, or for the last run to end;
* report: page and figures, after the last run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, read_rows, write_rows

APART = 1000
"""First seeds of one search and the next."""
SPENT: dict[str, float] = {}
PARTS = ("data", "model", "steps", "evaluations", "rows")


def timed_train(config: Any, *, folder: Path, **options: Any) -> Any:
    """`train`, with its parts timed; the times are kept beside the run."""
    import torch  # noqa: F401  (loaded by the worker's start, not by its first run)

    from subspaces.runs import build, train
    from subspaces.training import loop

    if not SPENT:
        _time(build, "_load_data", "data")
        _time(train, "build", "begin")
        _time(loop, "take_step", "steps")
        _time(loop, "_evaluate", "evaluations")
        _time(train, "_result", "rows")
    SPENT.update(dict.fromkeys((*PARTS, "begin"), 0.0))
    began = time.time()
    result = train.train(config, folder=folder, **options)
    SPENT["model"] = SPENT.pop("begin") - SPENT["data"]
    record = {"began": began, "ended": time.time(), "pid": os.getpid(), "direct": config.d is None, **SPENT}
    (folder / "times.json").write_text(json.dumps(record))
    return result


def _time(module: Any, name: str, part: str) -> None:
    """Put a stopwatch around a function of a module."""
    function: Callable[..., Any] = getattr(module, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            SPENT[part] += time.perf_counter() - began

    setattr(module, name, watched)


def parent(arguments: list[str]) -> None:
    """The command with its trainer wrapped, and its own parts timed; prints the times as the last line."""
    began = time.time()
    import subspaces.dimension.measure as measure
    from subspaces.cli import main
    from subspaces.report import write

    SPENT.update({"report": 0.0, "search": 0.0})
    _time(write, "write_report", "report")
    for name in ("_keep_busy", "take"):
        _time(measure._Search, name, "search")
    plain = measure.measure_dimension

    def measured(*positional: Any, **options: Any) -> Any:
        return plain(*positional, **options, trainer="search_time:timed_train")

    measure.measure_dimension = measured
    try:
        main(["dimension", *arguments, "--json"])
    except SystemExit:
        print(json.dumps({"began": began, **SPENT}))


def measure(task: str, number: int, workers: int, options: list[str], keep: Path | None) -> dict[str, Any]:
    """One whole search in a folder of its own: seconds of wall time, and of workers × wall by part."""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary if keep is None else str(keep / f"{task}-{number}-{workers}")
        words = [task, "--workers", str(workers), "--first-seed", str(APART * number), "--out", folder, *options]
        began = time.time()
        done = subprocess.run(
            [sys.executable, __file__, "--parent", *words],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        wall = time.time() - began
        *_, found, times = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
        runs = [json.loads(path.read_text()) for path in Path(folder).glob("runs/*/times.json")]
    return {"search": _name(task, number, workers, options), **_row(task, workers, wall, began, found, times, runs)}


def _name(task: str, number: int, workers: int, options: list[str]) -> str:
    return ", ".join([task, *options, f"{workers} workers", str(number)])


def summary(task: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and 90 % quantile over the searches of a task."""

    def quantiles(name: str) -> tuple[float, float]:
        values = np.array([float(row[name]) for row in rows])
        return round(float(np.median(values)), 1), round(float(np.quantile(values, 0.9)), 1)

    (wall, wall90), (runs, runs90), (first, _) = map(quantiles, ("wall", "runs", "first_run_after"))
    return {
        "task": task, "searches": len(rows), "found": sum(row["outcome"] == "found" for row in rows),
        "wall": wall, "wall_90": wall90, "runs": runs, "runs_90": runs90, "first_run_after": first,
    }  # fmt: skip


def _row(
    task: str, workers: int, wall: float, began: float, found: dict[str, Any], times: dict[str, Any], runs: list[Any]
) -> dict[str, Any]:
    total = workers * wall
    busy = {part: sum(run[part] for run in runs) for part in PARTS}
    training = sum(run["ended"] - run["began"] for run in runs)
    first = {
        pid: min(run["began"] for run in runs if run["pid"] == pid) - began for pid in {run["pid"] for run in runs}
    }
    start = sum(first.values()) + (workers - len(first)) * min(first.values())
    report = workers * times["report"]
    shares = {"start": start, **busy, "other": training - sum(busy.values()), "report": report}
    shares["idle"] = total - start - training - report
    estimate = found["estimate"]
    return {
        "task": task, "workers": workers, "wall": wall, "runs": len(runs), "outcome": estimate["outcome"],
        "d_int": estimate["d_int"], "low": estimate["low"], "high": estimate["high"],
        **{f"{name}_percent": 100 * seconds / total for name, seconds in shares.items()},
        "baseline_percent": 100 * sum(run["ended"] - run["began"] for run in runs if run["direct"]) / total,
        "search_percent_of_wall": 100 * times["search"] / wall, "first_run_after": min(first.values()),
    }  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["--parent"]:
        parent(sys.argv[2:])
        return
    before, _, options = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--searches", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="keep the folders of the searches there")
    parser.add_argument("--show", action="store_true", help="write no rows")
    arguments = parser.parse_args(before.split())
    _measure_all(arguments, options.split())


def _measure_all(arguments: argparse.Namespace, options: list[str]) -> None:
    kept: dict[str, dict[str, Any]] = {row["search"]: row for row in read_rows("search-time")}
    for task in arguments.tasks:
        rows = []
        for number in range(arguments.searches):
            row = kept.get(_name(task, number, arguments.workers, options))
            if row is None or arguments.show:
                row = measure(task, number, arguments.workers, options, arguments.runs)
                print_table([{"part": name.removesuffix("_percent"), "value": value} for name, value in row.items()])
                if not arguments.show:  # one by one: a search takes minutes
                    write_rows("search-time", [row], "search")
            rows.append(row)
        print_table([summary(task, rows)])
        sys.stdout.flush()


if __name__ == "__main__":
    main()
