"""Where does the time of a whole `subspaces dimension TASK` go?

    python benchmarks/search_time.py digits-fc [mnist-fc ...] [--workers 2] [--show] [-- OPTIONS OF subspaces dimension]

The command is run as a user runs it, in a process and a folder of its own; its workers time themselves (the trainer is
wrapped, at a cost of 1 µs per step). The time of the workers plus that for which they do not exist adds up to
workers × wall. Writes results/search-time.csv, one row per task.

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

from common import print_table, write_rows

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


def measure(task: str, workers: int, options: list[str]) -> dict[str, Any]:
    """One whole search in a folder of its own: seconds of wall time, and of workers × wall by part."""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        words = [task, "--workers", str(workers), "--out", folder, *options]
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
    return _row(task, workers, wall, began, found, times, runs)


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
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="write no rows")
    arguments = parser.parse_args(before.split())
    for task in arguments.tasks:
        row = measure(task, arguments.workers, options.split())
        print_table([{"part": name.removesuffix("_percent"), "value": value} for name, value in row.items()])
        if not arguments.show:  # one by one: a search takes minutes
            print(f"wrote {write_rows('search-time', [row], 'task')}", flush=True)


if __name__ == "__main__":
    main()
