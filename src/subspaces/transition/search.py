"""Where to run next: spends runs on the dimensions at which a threshold is still undecided."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from subspaces.transition.success import VALUES, ThresholdDimension, TraceValue, threshold_dimension, trace_value
from subspaces.transition.values import ValueFit, value_fit

OPEN = 3.0
"""ln of the ratio at which an interval counts whose end is open."""
PATIENCE = 6
"""Times ``max_runs``: runs near one level after which it is left as it is."""


class TransitionSearch:
    """Chooses (d, seed) to train so that d*(ε) of several levels is soon known: ask, run, tell.

    Begins with `first` dimensions spread evenly over the logarithm of d, one run each. From then on a run goes near d*
    of the level that is known worst, where it tells most about it (`transition.values`), until every level's interval
    is as narrow as `ratio`. A level that too few runs came near, or that none of them reached, is looked for on a grid
    first: at the grid dimension that lies inside the most such levels' intervals of `monotone_crossing` and has had the
    fewest runs, `max_runs` at most. The proposals depend on what was told and what is pending, not on the order of
    telling or on random numbers. With `ahead` they do not depend on which run ends first either: run k is decided by
    the results of runs 0 … k − ahead alone (of more of them where nothing is worth making otherwise), and those of the
    first round by none. So any number of workers up to `ahead` make the same runs, with any interruptions, if they tell
    what was asked for.

    Args:
        levels: ε, losses to be reached (or accuracies with goal ``above``).
        d_min, d_max: range of d.
        delta: δ of d* = min {d : P_s ≥ 1 − δ}.
        points_per_octave: grid dimensions per doubling of d.
        first: dimensions in the first round.
        max_runs: most runs at one d of the grid.
        ratio: wanted width upper / lower of an interval for d*, > 1.
        budget: most runs in all; None for no limit.
        goal, at: how a trace is judged, as in `trace_value`.
        confidence: of the intervals.
        ahead: runs that are decided before the result of the first of them counts; None: all that is told counts.

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
        ratio: float = 1.1,
        budget: int | None = None,
        goal: str = "below",
        at: str = "best",
        confidence: float = 0.95,
        ahead: int | None = None,
    ) -> None:
        if ahead is not None and ahead < 1:
            raise ValueError(f"`ahead` must be at least 1; got {ahead}. Such as 2.")
        if not 1 <= d_min <= d_max:
            raise ValueError(f"`d_min`, `d_max` must be 1 ≤ d_min ≤ d_max; got {d_min}, {d_max}.")
        if len(levels) == 0 or not all(math.isfinite(level) for level in levels):
            raise ValueError(f"`levels` must be one or more finite numbers; got {levels}.")
        if min(points_per_octave, first, max_runs) < 1 or (budget is not None and budget < 1):
            raise ValueError(
                "`points_per_octave`, `first`, `max_runs` and `budget` must be at least 1; "
                f"got {points_per_octave}, {first}, {max_runs}, {budget}."
            )
        if not ratio > 1:
            raise ValueError(f"`ratio` must be above 1, such as 1.1; got {ratio}.")
        trace_value([0.0], goal=goal, at=at)  # a mistyped goal is refused now, not after the first run
        self.levels, self.delta, self.confidence = tuple(sorted(levels)), delta, confidence
        self.goal: str = goal
        self.at: str = at
        self.max_runs, self.budget, self.ratio = max_runs, budget, ratio
        octaves = math.log2(d_max / d_min)
        self.grid = _log_grid(d_min, d_max, max(2, round(octaves * points_per_octave) + 1))
        spread = np.linspace(0, len(self.grid) - 1, min(first, len(self.grid)))
        self.first = tuple(self.grid[round(i)] for i in spread)
        self.ahead = ahead
        self._told: dict[tuple[int, int], float] = {}  # what decisions rest on
        self._pending: set[tuple[int, int]] = set()  # decided, and not among those
        self._order: list[tuple[int, int]] = []  # all that was decided
        self._kept: dict[tuple[int, int], float] = {}  # told, and not counted yet
        self._known_fits: dict[float, ValueFit | None] | None = None

    def ask(self, n: int = 1) -> list[tuple[int, int]]:
        """Up to `n` runs (d, seed) worth making now, all different and none pending; fewer or none when done."""
        chosen: list[tuple[int, int]] = []
        while len(chosen) < n and not self._spent():
            d = self._decided()
            if d is None:
                break
            taken = {seed for x, seed in (*self._told, *self._pending) if x == d}
            seed = next(i for i in range(len(taken) + 1) if i not in taken)
            self._pending.add((d, seed))
            self._order.append((d, seed))
            chosen.append((d, seed))
        return chosen

    def _decided(self) -> int | None:
        """Where the next run goes; None if it cannot be decided yet or none is worth making."""
        if self.ahead is None:
            return self._next(self._fits())
        while len(self._pending) >= self.ahead and self._first_left() is None:
            if not self._count_one():
                return None
        while (d := self._next(self._fits())) is None:
            if not self._count_one():
                return None
        return d

    def _count_one(self) -> bool:
        """Let the oldest result that does not count yet count; False where it is not there."""
        place = next((place for place in self._order if place in self._pending), None)
        if place is None or place not in self._kept:
            return False
        self._told[place] = self._kept.pop(place)
        self._pending.discard(place)
        self._known_fits = None
        return True

    def tell(self, d: int, seed: int, trace: Sequence[float] | float) -> None:
        """Record a run: its trace, or the one value that judges it. Telling the same again changes nothing.

        Raises:
            ValueError: d < 1, an empty trace, or another value for a run that was told before.
        """
        if d < 1:
            raise ValueError(f"`d` must be at least 1; got {d}.")
        value = trace_value([trace] if isinstance(trace, float | int) else trace, goal=self.goal, at=self.at)
        before = self._told.get((d, seed), self._kept.get((d, seed), value))
        if before != value:
            raise ValueError(f"d={d}, seed={seed} was told before with {before}; got {value}. Use another seed.")
        if self.ahead is not None and (d, seed) in self._pending:
            self._kept[d, seed] = value  # it counts when those before it do
            return
        self._told[d, seed] = value
        self._pending.discard((d, seed))
        self._known_fits = None

    @property
    def done(self) -> bool:
        """No run is worth making or allowed any more, those pending counted as made."""
        if self._spent():
            return True
        waiting = self.ahead is not None and self._pending - self._kept.keys()
        return not waiting and self._decided() is None

    @property
    def outcomes(self) -> list[TraceValue]:
        """All runs told, ordered by d and seed."""
        return _ordered({**self._told, **self._kept})

    def thresholds(self, method: str = VALUES) -> list[ThresholdDimension]:
        """d* at every level from the runs told so far."""
        common: dict[str, Any] = {"delta": self.delta, "goal": self.goal, "confidence": self.confidence}
        return [threshold_dimension(self.outcomes, e, method=method, **common) for e in self.levels]

    def _spent(self) -> bool:
        return self.budget is not None and len(self._told) + len(self._pending) >= self.budget

    def _fits(self) -> dict[float, ValueFit | None]:
        """What the values say of each level; None where too few runs came near it."""
        if self._known_fits is None:
            runs = _ordered(self._told)
            d, values = [run.d for run in runs], [run.value for run in runs]
            common: dict[str, Any] = {"delta": self.delta, "goal": self.goal, "confidence": self.confidence}
            self._known_fits = {e: value_fit(d, values, e, **common) if runs else None for e in self.levels}
        return self._known_fits

    def _first_left(self) -> int | None:
        """A dimension of the first round that has no run."""
        there = {d for d, _ in (*self._told, *self._pending)}
        return next((d for d in self.first if d not in there), None)

    def _next(self, fits: dict[float, ValueFit | None]) -> int | None:
        counts = dict.fromkeys(self.grid, 0)
        for d, _ in (*self._told, *self._pending):
            counts[d] = counts.get(d, 0) + 1
        if (d := self._first_left()) is not None:
            return d
        lost = [level for level, fit in fits.items() if fit is None or fit.crossing.status != "reached"]
        looked_for = self._on_the_grid(lost, counts) if lost and self._told else None
        return self._near(fits) if looked_for is None else looked_for

    def _near(self, fits: dict[float, ValueFit | None]) -> int | None:
        """Near d* of the level that is known worst, runs that are going on near it counted; None when all are known."""
        pending = sorted(d for d, _ in self._pending)
        worst: tuple[float, ValueFit] | None = None
        for fit in fits.values():
            if fit is None or fit.crossing.status != "reached" or fit.ratio <= self.ratio:
                continue
            if self._tried(fit) >= PATIENCE * self.max_runs:
                continue
            going_on = sum(fit.is_near(d) for d in pending)
            width = min(math.log(fit.ratio), OPEN) / (1 + going_on)
            worst = (width, fit) if worst is None or width > worst[0] else worst
        return None if worst is None else min(worst[1].next_d(pending), self.grid[-1])

    def _tried(self, fit: ValueFit) -> int:
        """Runs near a level, those that are going on too."""
        return sum(fit.is_near(d) for d, _ in (*self._told, *self._pending))

    def _on_the_grid(self, levels: Sequence[float], counts: dict[int, int]) -> int | None:
        """The grid dimension inside the most intervals in which d* of these levels may lie, with the fewest runs."""
        common: dict[str, Any] = {"delta": self.delta, "goal": self.goal, "confidence": self.confidence}
        runs = _ordered(self._told)
        found = [threshold_dimension(runs, e, method="monotone", **common) for e in levels]
        best: tuple[float, float, int] | None = None
        for d in self.grid:
            inside = [(t.lower, t.upper) for t in found if t.lower < d <= t.upper]
            if not inside or counts[d] >= self.max_runs:
                continue
            middle = np.mean([_log_middle(low, high, self.grid) for low, high in inside])
            key = (-len(inside) / (1 + counts[d]), abs(math.log(d) - float(middle)), d)
            best = key if best is None or key < best else best
        return None if best is None else best[2]


def _ordered(values: dict[tuple[int, int], float]) -> list[TraceValue]:
    return [TraceValue(d, seed, 0, value) for (d, seed), value in sorted(values.items())]


def _log_grid(d_min: int, d_max: int, points: int) -> tuple[int, ...]:
    return tuple(sorted({round(x) for x in np.geomspace(d_min, d_max, points)}))


def _log_middle(low: float, high: float, grid: tuple[int, ...]) -> float:
    return (math.log(max(low, grid[0])) + math.log(min(high, grid[-1]))) / 2
