"""How many runs a search of CartPole by DQN needs: the search itself on scores drawn from two models of such runs.

    python benchmarks/control_budget.py [SEARCHES]          a second of CPU for 4 searches of each row

"1,500 episodes": mean and scatter of the runs of `subspaces dimension cartpole --epochs 1500`, by the last policy's
fresh episodes. "10,000 episodes": a run is solved (195) or not, such that the means are the published ones (Li et al.
2018, `fnn_cartpole.ipynb`: d = 20 81, 22 164, 25 177, 30 185, 35 195). The true crossings are about 33 and 23 to 25.
"""

import sys
from collections.abc import Callable

import numpy as np

from subspaces.dimension.estimate import Passes
from subspaces.dimension.search import ThresholdSearch

Draw = Callable[[int, np.random.Generator], float]
SEARCHES: tuple[tuple[Passes, int], ...] = (("auto", 14), ("auto", 50), ("mean", 50))
"""What has to pass, and the budget."""
D, START, EPISODES = 562, 25, 2.0
"""Of the task; first d of the search; standard error of a score by its own episodes."""


def along(d: int, at: list[int], values: list[float]) -> float:
    """Values at some d, interpolated in ln d."""
    return float(np.interp(np.log(d), np.log(at), values))


def short(d: int, rng: np.random.Generator) -> float:
    """The score of a run of at most 1,500 episodes."""
    mean = along(d, [1, 6, 12, 17, 21, 25, 35, 50], [10, 38, 57, 115, 125, 140, 185, 199])
    scatter = along(d, [1, 6, 12, 17, 25, 35, 50], [1, 10, 30, 50, 55, 25, 2])
    return float(np.clip(mean + scatter * rng.normal(), 9, 200))


def long(d: int, rng: np.random.Generator) -> float:
    """The score of a run of at most 10,000 episodes: it stops when it is solved."""
    if rng.random() < along(d, [1, 19, 21, 22, 25, 30, 35], [0, 0, 0.15, 0.6, 0.8, 0.9, 1]):
        return 195.0
    return float(np.clip(along(d, [1, 5, 10, 20, 35], [10, 15, 50, 85, 130]) + 25 * rng.normal(), 9, 194))


def searched(draw: Draw, runs: int, seed: int, passes: Passes) -> ThresholdSearch:
    """One search with so many runs at most, by the rule of `subspaces dimension`."""
    rng = np.random.default_rng(seed)
    engine = ThresholdSearch(195.0, d_max=D, max_runs=runs, start=START, ahead=2, widest=2.0, passes=passes)
    while not engine.done:
        for d, number in engine.ask(2):
            engine.tell(d, number, draw(d, rng), error=EPISODES)
    return engine


def main(searches: int) -> None:
    print("runs are of up to   passes   budget   both ends   found   median runs   d_int (quartiles)")
    for name, draw in (("10,000 episodes", long), ("1,500 episodes", short)):
        for passes, runs in SEARCHES:
            found = [searched(draw, runs, seed, passes).estimate() for seed in range(searches)]
            ends = sum(one.low is not None and one.high is not None for one in found)
            narrow = sum(one.outcome == "found" for one in found)
            count = np.median([len(one.runs) for one in found])
            quartiles = np.quantile([one.d_int for one in found if one.d_int], [0.25, 0.5, 0.75]).round()
            told = " ".join(f"{value:.0f}" for value in quartiles)
            print(
                f"{name:18s} {passes:6s} {runs:7d} {ends:8d}/{searches} {narrow:4d}/{searches} {count:13.0f}   {told}",
                flush=True,
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
