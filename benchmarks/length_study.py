"""Does a short protocol find the same d_int90? Searches with runs of the task's own length and with --quick.

    OMP_NUM_THREADS=1 python benchmarks/length_study.py [digits-fc digits-fc-200x2 mnist-fc mnist-lenet regression]
        [--searches 1]

Real runs of one thread, kept in --runs: an interrupted call goes on. A row per search goes into
results/length-study.csv as soon as it is done; printed are the ratios d_int (quick) / d_int (own length) with their
intervals. A short protocol may be a default only where the ratio lies between 0.9 and 1.1. `quick` is tuned for
digits-fc, mnist-fc and mnist-lenet, and takes a tenth of the epochs elsewhere. digits-fc-200x2 is the network of
digits-fc on the same data with other defaults: at their own lengths the two must agree.
"""

import argparse
from pathlib import Path

from study_tasks import REGRESSION, measured, study

TASKS = ["digits-fc", "digits-fc-200x2", "mnist-fc", "mnist-lenet", REGRESSION]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--searches", type=int, default=1, help="pairs of searches per task")
    parser.add_argument("--runs", type=Path, default=Path("runs/length-study"))
    options = parser.parse_args()
    kinds = {
        "own length": lambda task, folder, seed: measured(task, folder, False, first_seed=seed),
        "quick": lambda task, folder, seed: measured(task, folder, True, first_seed=seed),
    }
    study("length-study", options.tasks, options.searches, kinds, options.runs)


if __name__ == "__main__":
    main()
