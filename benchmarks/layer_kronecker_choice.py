"""Which core of `LayerKronecker` costs least accuracy at equal d: a comparison that was stated before it was run.

    python benchmarks/layer_kronecker_choice.py            # 100 runs to choose, 20 to report; 15 to 20 min of one core
    python benchmarks/layer_kronecker_choice.py --show     # what the rows that are there say

Runs that are in results/layer-kronecker-choice.csv, one row each, are not made again.

The protocol. Two networks on MNIST (FC 2×200 and FC 1×400), d = 750, 3 epochs of Adam with batches of 128, five
cores, two native rates, five seeds each (one seed draws model, map and order of the data; all cores share it). A core
is judged by its accuracy on the validation part at its better rate, the mean over both networks. It replaces the
default if it is better than the default by more than the 95 % interval (Student's t, paired by seed) of the
difference; else the default stays, for it has the cheapest step. The test part is looked at for the chosen core and
the ordinary subspace alone, with five seeds that took no part in the choice.
"""

import argparse
import csv
import statistics

import torch
from common import RESULTS, print_table, write_rows
from scipy import stats
from torch import nn

from subspaces import LayerKronecker, Subspace
from subspaces.datasets import Data
from subspaces.tasks import Task, get_task

D, EPOCHS, BATCH = 750, 3, 128
TASKS, RATES = ("mnist-fc", "mnist-fc-400x1"), (3e-3, 6e-3)
SEEDS, FRESH = range(5), range(100, 105)
NAME, DEFAULT, ORDINARY = "layer-kronecker-choice", "32 of out, in whole", "subspace"
CORES = {  # (r_out, r_in) with None for a side kept whole; the ordinary subspace stands by for comparison
    ORDINARY: None,
    DEFAULT: (32, None),
    "32 of out, 128 of in": (32, 128),
    "rank 128": (128, 128),
    "64 of out, 256 of in": (64, 256),
}
Row = dict[str, str]


def train_once(task: Task, data: Data, core: str, rate: float, seed: int) -> nn.Module:
    """One model after three epochs."""
    model, rank = task.build_model(seed), CORES[core]
    subspace = Subspace(model, D, seed=seed) if rank is None else LayerKronecker(model, D, seed=seed, rank=rank)
    optimizer = torch.optim.Adam(subspace.parameters(), lr=subspace.lr(rate), fused=True)
    order, n = torch.Generator().manual_seed(seed), len(data.train_x)
    for _ in range(EPOCHS):
        for index in torch.randperm(n, generator=order)[: n // BATCH * BATCH].view(-1, BATCH):
            optimizer.zero_grad(set_to_none=True)
            task.loss(model(data.train_x[index]), data.train_y[index]).backward()
            optimizer.step()
    return model


def stored() -> list[Row]:
    """The rows so far."""
    path = RESULTS / f"{NAME}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(part: str, name: str, core: str, rate: float, seed: int, data: Data) -> None:
    """The accuracy of one run on one part of the data, stored as a row, if it is not there."""
    run = f"{part}/{name}/{core}/{rate:g}/{seed}"
    if any(row["run"] == run for row in stored()):
        return
    task = get_task(name)
    x, y = (data.val_x, data.val_y) if part == "val" else (data.test_x, data.test_y)
    model = train_once(task, data, core, rate, seed)
    with torch.no_grad():
        accuracy = float(task.score(model(x), y))
    row = {"run": run, "part": part, "task": name, "core": core, "d": D, "epochs": EPOCHS, "rate": rate, "seed": seed}
    write_rows(NAME, [{**row, "accuracy": f"{accuracy:.4f}"}], keep_by="run")


def complete(rows: list[Row]) -> tuple[list[Row], int]:
    """The validation rows of the seeds that all cores, networks and rates have, and the number of these seeds."""
    of_seed = {str(seed): [r for r in rows if r["part"] == "val" and r["seed"] == str(seed)] for seed in SEEDS}
    whole = [found for found in of_seed.values() if len(found) == len(TASKS) * len(CORES) * len(RATES)]
    return [row for found in whole for row in found], len(whole)


def scores(rows: list[Row], part: str, task: str, core: str, rate: float | str) -> list[float]:
    """Accuracies in percent in the order of the seeds."""
    wanted = {"part": part, "task": task, "core": core, "rate": str(rate)}
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return [100 * float(row["accuracy"]) for row in sorted(found, key=lambda row: int(row["seed"]))]


def best_rate(rows: list[Row], task: str, core: str) -> float:
    """The rate with the higher mean validation accuracy."""
    return max(RATES, key=lambda rate: statistics.mean(scores(rows, "val", task, core, rate)))


def judged(rows: list[Row], core: str) -> list[float]:
    """Validation accuracy of each seed at the better rates, the mean over the tasks."""
    per_task = [scores(rows, "val", task, core, best_rate(rows, task, core)) for task in TASKS]
    return [statistics.mean(of_seed) for of_seed in zip(*per_task, strict=True)]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval."""
    n = len(values)
    return statistics.mean(values), float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5


def decide(rows: list[Row]) -> tuple[str, list[dict]]:
    """The chosen core and a table of all of them."""
    base, chosen, best, table = judged(rows, DEFAULT), DEFAULT, 0.0, []
    for core in CORES:
        difference, width = interval([a - b for a, b in zip(judged(rows, core), base, strict=True)])
        each = {
            f"{task}, rate {(rate := best_rate(rows, task, core)):g}": "{:.2f} ± {:.2f}".format(
                *interval(scores(rows, "val", task, core, rate))
            )
            for task in TASKS
        }
        table.append({"core": core, "val": " / ".join(f"{v} ({k})" for k, v in each.items())})
        table[-1]["over the default"] = f"{difference:+.2f} ± {width:.2f}"
        if CORES[core] is not None and difference - width > 0 and difference > best:
            chosen, best = core, difference
    return chosen, table


def run() -> None:
    """All runs of the protocol that have not been made."""
    data = {name: get_task(name).load_data() for name in TASKS}
    for seed in SEEDS:
        for name in TASKS:
            for core in CORES:
                for rate in RATES:
                    measure("val", name, core, rate, seed, data[name])
    rows = complete(stored())[0]
    for name in TASKS:
        for core in dict.fromkeys((decide(rows)[0], ORDINARY)):
            for seed in FRESH:
                measure("test", name, core, best_rate(rows, name, core), seed, data[name])


def show(rows: list[Row]) -> None:
    """The table and, when all runs are there, the decision and the test accuracy of what was chosen."""
    whole, seeds = complete(rows)
    print(f"{seeds} of {len(SEEDS)} seeds are complete")
    if seeds < 2:
        return
    chosen, table = decide(whole)
    print_table(table)
    if seeds < len(SEEDS):
        print("no decision yet: run it to the end")
        return
    print(f"chosen: {chosen}")
    for task in TASKS:
        for core in dict.fromkeys((chosen, ORDINARY)):
            found = scores(rows, "test", task, core, best_rate(whole, task, core))
            print("test, {}, {}: {:.2f} ± {:.2f}".format(task, core, *interval(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="decide from the stored rows")
    torch.set_num_threads(1)
    if not parser.parse_args().show:
        run()
    show(stored())


if __name__ == "__main__":
    main()
