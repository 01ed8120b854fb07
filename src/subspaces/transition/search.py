"""Where to run next: spends runs on the dimensions at which a threshold is still undecided."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from subspaces.transition.success import ThresholdDimension, TraceValue, threshold_dimension, trace_value


class TransitionSearch:
    """Chooses (d, seed) to train so that d*(ε) of several levels is soon known: ask, run, tell.

    Begins with `first` dimensions spread evenly over the logarithm of d, one run each. From then on a run goes to the
    grid dimension that lies inside the most levels' intervals for d* and has had the fewest runs. The proposals
    depend on what was told and what is pending, not on the order of telling or on random numbers, so a search that
    is made anew and told the stored runs goes on as if it had never stopped. Runs at d off the grid count too.

    The intervals are those of `threshold_dimension(method="monotone")`. For δ = 0.1 two failures at d rule out
    d* ≤ d, while it takes 29 successes and no failure at or below d to rule out d* > d, so the upper end is the dear
    one: with `max_runs` of 10 it settles a few grid points above the threshold.

    Args:
        levels: ε, losses to be reached (or accuracies with goal ``above``).
        d_min, d_max: range of d.
        delta: δ of d* = min {d : P_s ≥ 1 − δ}.
        points_per_octave: grid dimensions per doubling of d; the resolution of the answer.
        first: dimensions in the first round.
        max_runs: most runs at one d.
        budget: most runs in all; None for no limit.
        goal, at: how a trace is judged, as in `trace_value`.
        confidence: of the intervals.

    Raises:
        ValueError: an empty range, no level, or a count below 1.

    Example:
        >>> search = TransitionSearch([0.5], d_min=1, d_max=64, first=4)
        >>> search.ask(4)
        [(1, 0), (7, 0), (23, 0), (64, 0)]
        >>> for d in (1, 7, 23, 64):
        ...     search.tell(d, 0, [2.0, 0.0 if d > 10 else 1.0])
        >>> search.ask(2)  # between the failures and the successes
        [(8, 0), (10, 0)]
    """

    def __init__(
        self,
        levels: Sequence[float],
        d_min: int,
        d_max: int,
        *,
        delta: float = 0.1,
        points_per_octave: int = 4,
        first: int = 7,
        max_runs: int = 10,
        budget: int | None = None,
        goal: str = "below",
        at: str = "best",
        confidence: float = 0.95,
    ) -> None:
        if not 1 <= d_min <= d_max:
            raise ValueError(f"`d_min`, `d_max` must be 1 ≤ d_min ≤ d_max; got {d_min}, {d_max}.")
        if len(levels) == 0 or not all(math.isfinite(level) for level in levels):
            raise ValueError(f"`levels` must be one or more finite numbers; got {levels}.")
        if min(points_per_octave, first, max_runs) < 1 or (budget is not None and budget < 1):
            raise ValueError(
                "`points_per_octave`, `first`, `max_runs` and `budget` must be at least 1; "
                f"got {points_per_octave}, {first}, {max_runs}, {budget}."
            )
        trace_value([0.0], goal=goal, at=at)  # a mistyped goal is refused now, not after the first run
        self.levels, self.delta, self.confidence = tuple(sorted(levels)), delta, confidence
        self.goal: str = goal
        self.at: str = at
        self.max_runs, self.budget = max_runs, budget
        octaves = math.log2(d_max / d_min)
        self.grid = _log_grid(d_min, d_max, max(2, round(octaves * points_per_octave) + 1))
        spread = np.linspace(0, len(self.grid) - 1, min(first, len(self.grid)))
        self.first = tuple(self.grid[round(i)] for i in spread)
        self._told: dict[tuple[int, int], float] = {}
        self._pending: set[tuple[int, int]] = set()

    def ask(self, n: int = 1) -> list[tuple[int, int]]:
        """Up to `n` runs (d, seed) worth making now, all different and none pending; fewer or none when done."""
        chosen: list[tuple[int, int]] = []
        open_sets = self._open_sets()
        while len(chosen) < n and not self._spent():
            d = self._next(open_sets)
            if d is None:
                break
            taken = {seed for x, seed in (*self._told, *self._pending) if x == d}
            seed = next(i for i in range(len(taken) + 1) if i not in taken)
            self._pending.add((d, seed))
            chosen.append((d, seed))
        return chosen

    def tell(self, d: int, seed: int, trace: Sequence[float] | float) -> None:
        """Record a run: its trace, or the one value that judges it. Telling the same again changes nothing.

        Raises:
            ValueError: d < 1, an empty trace, or another value for a run that was told before.
        """
        if d < 1:
            raise ValueError(f"`d` must be at least 1; got {d}.")
        value = trace_value([trace] if isinstance(trace, float | int) else trace, goal=self.goal, at=self.at)
        if self._told.get((d, seed), value) != value:
            raise ValueError(
                f"d={d}, seed={seed} was told before with {self._told[d, seed]}; got {value}. Use another seed."
            )
        self._told[d, seed] = value
        self._pending.discard((d, seed))

    @property
    def done(self) -> bool:
        """No run is worth making or allowed any more, those pending counted as made."""
        return self._spent() or self._next(self._open_sets()) is None

    @property
    def outcomes(self) -> list[TraceValue]:
        """All runs told, ordered by d and seed."""
        return [TraceValue(d, seed, 0, value) for (d, seed), value in sorted(self._told.items())]

    def thresholds(self, method: str = "monotone") -> list[ThresholdDimension]:
        """d* at every level from the runs told so far."""
        common: dict[str, Any] = {"delta": self.delta, "goal": self.goal, "confidence": self.confidence}
        return [threshold_dimension(self.outcomes, e, method=method, **common) for e in self.levels]

    def _spent(self) -> bool:
        return self.budget is not None and len(self._told) + len(self._pending) >= self.budget

    def _open_sets(self) -> list[tuple[float, float]]:
        """For each level the interval (lower, upper] in which its d* may lie."""
        return [(t.lower, t.upper) for t in self.thresholds()] if self._told else []

    def _next(self, open_sets: list[tuple[float, float]]) -> int | None:
        counts = dict.fromkeys(self.grid, 0)
        for d, _ in (*self._told, *self._pending):
            counts[d] = counts.get(d, 0) + 1
        for d in self.first:
            if counts[d] == 0:
                return d
        best: tuple[float, float, int] | None = None
        for d in self.grid:
            inside = [(low, high) for low, high in open_sets if low < d <= high]
            if not inside or counts[d] >= self.max_runs:
                continue
            middle = np.mean([_log_middle(low, high, self.grid) for low, high in inside])
            key = (-len(inside) / (1 + counts[d]), abs(math.log(d) - float(middle)), d)
            best = key if best is None or key < best else best
        return None if best is None else best[2]


def _log_grid(d_min: int, d_max: int, points: int) -> tuple[int, ...]:
    return tuple(sorted({round(x) for x in np.geomspace(d_min, d_max, points)}))


def _log_middle(low: float, high: float, grid: tuple[int, ...]) -> float:
    return (math.log(max(low, grid[0])) + math.log(min(high, grid[-1]))) / 2
