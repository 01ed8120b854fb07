"""Does d_int90 change when the learning rate is tuned for each d? Searches with one native rate and with --tune-lr.

    OMP_NUM_THREADS=1 python benchmarks/rate_study.py [digits-fc mnist-fc mnist-lenet cifar10-lenet regression]
        [--searches 1] [--own-length]

Real runs of one thread, in the short protocol (the task's own length with --own-length, always for the regression),
kept in --runs: an interrupted call goes on. A row per search goes into results/rate-study.csv as soon as it is done;
printed are the ratios d_int (tuned) / d_int (one rate) with their intervals. --tune-lr costs four whole runs of work
for each rung, a factor of 4 in d apart.
"""

import argparse
from pathlib import Path

from study_tasks import REGRESSION, measured, study

from subspaces.dimension.result import IntrinsicDimension

TASKS = ["digits-fc", "mnist-fc", "mnist-lenet", "cifar10-lenet", REGRESSION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--searches", type=int, default=1, help="pairs of searches per task")
    parser.add_argument("--own-length", action="store_true")
    parser.add_argument("--runs", type=Path, default=Path("runs/rate-study"))
    options = parser.parse_args()

    def search(task: str, folder: Path, seed: int, tune_lr: bool) -> IntrinsicDimension:
        short = not options.own_length and task != REGRESSION
        return measured(task, folder, short, first_seed=seed, tune_lr=tune_lr)

    kinds = {
        "one rate": lambda task, folder, seed: search(task, folder, seed, False),
        "tuned": lambda task, folder, seed: search(task, folder, seed, True),
    }
    study("rate-study", options.tasks, options.searches, kinds, options.runs)


if __name__ == "__main__":
    main()
