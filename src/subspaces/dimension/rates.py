"""Native learning rates by d: tuned at a few d by successive halving of real runs, interpolated in between."""

from collections.abc import Callable, Iterable, Mapping

from subspaces.dimension.fidelity import TUNING_SEED, RateChoice, halving, interpolate_rate, rungs_around
from subspaces.runs.records import Result
from subspaces.runs.resolve import native_rate
from subspaces.runs.run import Run
from subspaces.tasks import get_task

FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
"""Of the run's own rate: six rates are two rounds, four whole runs of work for each rung."""
Do = Callable[[Iterable[Run]], Mapping[Run, Result]]
"""Gives the results of runs; some may be missing."""


class Rates:
    """The native rate at any d, from rungs a factor of 4 apart; both rungs around a d are tuned before its first run.

    The rungs are the same whatever was tried before, so that the rate at d, and with it the name of a run, depends on
    the scores of the tuning runs alone. All rates of a rung share their seeds, which no other run has.

    Args:
        config: the runs, without d and seeds.
        span: start, d_min and d_max of the search.
        rates: native rates to try; around that of ``config`` without them.
    """

    def __init__(self, config: Run, span: tuple[int, int, int], rates: tuple[float, ...] = ()) -> None:
        defaults = get_task(config.task).optimizer
        own = config.optimizer.lr or native_rate(config)
        self.config, self.span, self.epochs = config, span, config.optimizer.epochs or defaults.epochs
        self.tried = rates or tuple(_rounded(own * factor) for factor in FACTORS)
        self.known: dict[int, RateChoice] = {}
        self.runs: dict[Run, Result] = {}

    def at(self, d: int, do: Do) -> float | None:
        """The rate at d, after ``do`` has done what is missing; None if it did not."""
        rungs = rungs_around(d, *self.span)
        self._tune([rung for rung in rungs if rung not in self.known], do)
        found = {rung: self.known[rung].rate for rung in rungs if rung in self.known}
        return _rounded(interpolate_rate(found, d)) if len(found) == len(rungs) else None

    def _tune(self, rungs: list[int], do: Do) -> None:
        """Round by round, all rungs at once; a rung of which a trial is missing is left."""
        tunings = {d: halving(self.tried) for d in rungs}
        rounds = {d: next(tuning) for d, tuning in tunings.items()}
        while rounds:
            trials = {d: [self._trial(d, *pair) for pair in pairs] for d, pairs in rounds.items()}
            results = do([config for configs in trials.values() for config in configs])
            self.runs |= results
            for d, configs in trials.items():
                del rounds[d]
                if not all(config in results for config in configs):
                    continue
                try:
                    rounds[d] = tunings[d].send([results[config].score for config in configs])
                except StopIteration as end:
                    self.known[d] = end.value

    def _trial(self, d: int, rate: float, budget: float) -> Run:
        """A run of a share of the epochs, evaluated at its end only."""
        seed, epochs = TUNING_SEED + d, max(1, round(budget * self.epochs))
        seeds = {"seed_projection": seed, "seed_model": seed, "seed_data": seed}
        return self.config.but(d=d, lr=rate, eval_every=epochs, **seeds).shortened(epochs)


def is_trial(config: Run) -> bool:
    """Whether a run only tunes the rate."""
    return config.seeds.model >= TUNING_SEED


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")
