"""Does giving hopeless runs up save time, and does it change what a search finds? Searches on curves of real runs.

    python benchmarks/early_stopping.py digits-fc mnist-fc [--searches 200] [--runs DIR] [--show]

For each task, runs of the quick protocol at a grid of d (three seeds each; kept in DIR) give learning curves: means
interpolated in ln d, and the residuals of single runs. Searches are then simulated on them with and without the rule
`hopeless`, at thresholds of 80, 90 and 95 % of the best mean score: runs, work in whole runs, estimate, coverage of the
true d of the simulated curve. Writes results/early-stopping.csv.
"""

import argparse
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write_rows

from subspaces.dimension.fidelity import hopeless
from subspaces.dimension.search import ThresholdSearch
from subspaces.runs.protocols import quick
from subspaces.runs.run import Run
from subspaces.runs.sweep import run_many

GRID = {
    "digits-fc": [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 170, 200, 250, 300, 400, 600, 1000],
    "mnist-fc": [20, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 750],
}
SEEDS, FIRST_SEED = 3, 1000


class Curves:
    """Learning curves at any d, made of real ones: interpolated means plus the residuals of a run nearby."""

    def __init__(self, task: str, folder: Path, workers: int) -> None:
        config, self.d = quick(Run.of(task)), np.array(GRID[task])
        configs = [_seeded(config, d, i, s) for i, d in enumerate(GRID[task]) for s in range(SEEDS)]
        results = run_many(configs, folder / task, workers)
        scores = np.array([[row["score"] for row in result.curves] for result in results])
        self.curves = scores.reshape(len(self.d), SEEDS, -1)  # (d, seed, evaluation)
        self.means = np.maximum.accumulate(self.curves.mean(axis=1), axis=0)
        residuals = self.curves - self.curves.mean(axis=1, keepdims=True)
        self.residuals = residuals * math.sqrt(SEEDS / (SEEDS - 1))
        self.total = scores.shape[1]

    def mean(self, d: float) -> np.ndarray:
        """Expected score at d after every evaluation."""
        x = np.log(np.clip(d, self.d[0], self.d[-1]))
        return np.array([np.interp(x, np.log(self.d), line) for line in self.means.T])

    def draw(self, d: float, rng: np.random.Generator) -> np.ndarray:
        """One run at d."""
        near = int(np.argmin(np.abs(np.log(self.d / d)))) + rng.integers(-1, 2)
        return self.mean(d) + self.residuals[np.clip(near, 0, len(self.d) - 1), rng.integers(SEEDS)]

    def truth(self, threshold: float) -> int:
        """Smallest d whose expected last score passes."""
        return next(d for d in range(int(self.d[0]), int(self.d[-1]) + 1) if self.mean(d)[-1] > threshold)


def _seeded(config: Run, d: int, place: int, seed: int) -> Run:
    number = FIRST_SEED + 100 * seed + place
    seeds = {"seed_projection": number, "seed_model": number, "seed_data": number}
    return config.but(d=d, **seeds)


def search(curves: Curves, threshold: float, start: int, seed: int, stopping: str) -> tuple[Any, float, int]:
    """One simulated search: its estimate, the work in whole runs, and the runs that were wrongly given up."""
    rng, work, wrong = np.random.default_rng(seed), 0.0, 0
    d_min, d_max = int(curves.d[0]), int(curves.d[-1])
    engine = ThresholdSearch(threshold, level=1.0, d_min=d_min, d_max=d_max, start=start, ahead=2)
    while not engine.done:
        for d, number in engine.ask(2):
            here = stopping == "always" or (stopping == "bracketing" and engine.bracketing(d, number))
            scores = curves.draw(d, rng).tolist()
            end = next((k for k in range(4, curves.total) if hopeless(scores[:k], threshold, curves.total)), None)
            end = end if here else None
            work += (end or curves.total) / curves.total
            wrong += end is not None and scores[-1] > threshold
            engine.tell(d, number, scores[-1], stopped=end is not None)
    return engine.estimate(), work, wrong


def study(task: str, curves: Curves, level: float, searches: int) -> list[dict[str, Any]]:
    """One row for each way of stopping."""
    threshold = level * float(curves.means[-1, -1])
    truth, rows = curves.truth(threshold), []
    usual = round(math.sqrt({"digits-fc": 55_210, "mnist-fc": 199_210}[task]))
    for start, stopping in product((usual, int(curves.d[0])), ("never", "always", "bracketing")):
        found = [search(curves, threshold, start, seed, stopping) for seed in range(searches)]
        estimates = [one for one, _, _ in found]
        errors = [math.log(one.d_int / truth) for one in estimates if one.d_int]
        inside = [one.low is not None and one.low <= truth and truth <= (one.high or math.inf) for one in estimates]
        rows.append(
            {
                "task": task,
                "level": level,
                "threshold": round(threshold, 4),
                "true_d": truth,
                "start": start,
                "stopping": stopping,
                "searches": searches,
                "found": float(np.mean([one.outcome == "found" for one in estimates])),
                "coverage": float(np.mean(inside)),
                "runs": float(np.mean([len(one.runs) for one in estimates])),
                "stopped": float(np.mean([sum(r.status == "stopped" for r in one.runs) for one in estimates])),
                "wrongly_stopped": float(np.mean([wrong for _, _, wrong in found])),
                "work_in_runs": float(np.mean([work for _, work, _ in found])),
                "bias_percent": 100 * float(np.mean(errors)),
                "rms_percent": 100 * float(np.sqrt(np.mean(np.square(errors)))),
            }
        )
    return rows


def replayed(task: str, curves: Curves, level: float) -> dict[str, Any]:
    """The rule on the real curves themselves."""
    threshold = level * float(curves.means[-1, -1])
    real = curves.curves.reshape(-1, curves.total)
    ends = [
        next((k for k in range(4, curves.total) if hopeless(s[:k].tolist(), threshold, curves.total)), None)
        for s in real
    ]
    given_up = [s[-1] for s, end in zip(real, ends, strict=True) if end is not None]
    below = sum(s[-1] <= threshold for s in real)
    return {
        "task": task, "level": level, "real_runs": len(real), "below": below, "given_up": len(given_up),
        "wrongly": sum(score > threshold for score in given_up),
        "nearest_percent": 100 * (1 - max(given_up) / threshold) if given_up else math.nan,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", choices=GRID)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/early-stopping"))
    parser.add_argument("--show", action="store_true", help="write no rows")
    arguments = parser.parse_args()
    rows, real = [], []
    for task in arguments.tasks:
        curves = Curves(task, arguments.runs, arguments.workers)
        for level in (0.8, 0.9, 0.95):
            rows += study(task, curves, level, arguments.searches)
            real.append(replayed(task, curves, level))
    print_table(real)
    print_table(rows)
    if not arguments.show:
        print(f"wrote {write_rows('early-stopping', rows)}")


if __name__ == "__main__":
    main()
