"""The interval of a crossing: where the fit passes, cut and widened by what runs show by themselves, and at cliffs."""

import math
from dataclasses import replace
from functools import cached_property

import numpy as np

from subspaces.dimension.curve import Array
from subspaces.dimension.groups import COLLAPSE
from subspaces.dimension.reading import REACH, Reading
from subspaces.dimension.witness import DOUBTED, SEEN, Bounds, bounds, clamped

DIP = 0.01  # a dip is a fall below the threshold by more than this share of it
LOOKS = 0.9  # share of the tails that is left after paying for looks at the interval while runs come in
OWN = 2.0  # beside a cliff the scatter of all runs weighs as much as so many more runs at the same d


class Interval(Reading):
    """From a fit to (low, d_int, high)."""

    @cached_property
    def tail(self) -> float:
        """Probability beyond either end of the interval."""
        return (LOOKS if self.plan.looks else 1.0) * (1 - self.plan.confidence) / 2

    @cached_property
    def passing(self) -> Array:
        """Probability that the expected score passes, at every d of the grid."""
        return np.zeros(self.grid.size) if self.curve is None else self.curve.passing(self.grid, self.fitted_threshold)

    @cached_property
    def chance(self) -> Array:
        """Probability that it passes at every d of the grid and that no dip follows up to REACH times that d."""
        if self.curve is None:
            return self.passing
        wanted = self.fitted_threshold
        lower = replace(wanted, value=wanted.value * (1 - DIP))
        steady = self.curve.passing(self.grid, lower)
        chance, end = self.passing.copy(), np.searchsorted(self.grid, self.grid * REACH, side="right")
        tried = int(np.searchsorted(self.grid, max(self.window), side="right"))
        for i in range(chance.size):
            chance[i] = min(chance[i], steady[i : max(i + 1, min(int(end[i]), tried))].min())
        return chance

    @cached_property
    def interval(self) -> tuple[int | None, int | None, int | None]:
        """(low, d_int, high): the smallest integers that pass surely not, more likely than not, and surely."""
        low, middle, high = clamped(self._fitted, self.bounds, self.plan.d_min)
        if self.cliff is None:
            return low, middle, high
        a, b = self.cliff
        middle = min(max(middle or b, a + 1), b)
        below = a + 1 if self._clear(a) else min(low or b, a + 1)
        above = b if self._clear(b) else None if high is None else max(high, b)
        return below, middle, above

    @cached_property
    def bounds(self) -> Bounds:
        """What the runs in the fit show by themselves."""
        curve = self.curve
        if curve is None:
            return Bounds(None, None, None, None)
        threshold = self.fitted_threshold
        d = np.rint(np.exp(curve.x))
        return bounds(d, curve.y, threshold, curve.noise_sd, REACH, DIP, self.contradicted)

    @cached_property
    def contradicted(self) -> bool:
        """Whether a run far below the threshold lies above one far above it: failures, or chance at a steep rise."""
        d, score = self.pairs
        gap = max(COLLAPSE / 2 * self.threshold.value, 5 * (self.curve.noise_sd if self.curve else 0.0))
        near = (d > self.centre / REACH) & (d < self.centre * REACH)
        low, high = d[near & (score < self.threshold.value - gap / 2)], d[near & (score > self.threshold.value)]
        return bool(low.size and high.size and low.max() >= high.min())

    @cached_property
    def cliff(self) -> tuple[int, int] | None:
        """The neighbouring d tried between which the score jumps over the threshold by 15 % of it, if it does.

        Such a jump is not interpolated: the crossing may be anywhere in between, and the interval covers all of it.
        No cliff is where runs below it passed or runs above it did not: that is chance.
        """
        a, b = self.bracket
        if a not in self.by_d or b not in self.by_d or self.two_outcomes:
            return None
        if self.means[b] - self.means[a] <= COLLAPSE * self.threshold.value or (
            self._mixed and self.plan.passes == "mean"
        ):
            return None
        return (a, b)

    @cached_property
    def _mixed(self) -> bool:
        """Whether a run that does not pass lies above one that does."""
        d, score = self.pairs
        above = score > self.threshold.value
        return bool(above.any() and (~above).any() and d[~above].max() >= d[above].min())

    def _clear(self, d: int) -> bool:
        """Whether the mean of enough runs at d is 4 standard errors away from the threshold.

        The variance is that of the fit, shared by all d, as if seen in OWN runs more, and that of the runs at d: beside
        a cliff scores scatter far more below than above it.
        """
        scores = self.by_d[d]
        noise = self.curve.noise_sd if self.curve is not None else math.inf
        squares = sum((score - self.means[d]) ** 2 for score in scores)
        variance = (OWN * noise**2 + squares) / (OWN + len(scores) - 1)
        error = math.hypot(math.sqrt(variance / len(scores)), self.threshold.sd)
        return len(scores) >= self.believed and abs(self.means[d] - self.threshold.value) > 4 * error

    @property
    def believed(self) -> int:
        """Runs at one d that are believed to be no chance."""
        return DOUBTED if self.contradicted else SEEN

    @cached_property
    def _fitted(self) -> tuple[int | None, int | None, int | None]:
        """The interval of the fit alone: where the probability of passing is the tail, one half, 1 − the tail."""
        if self.curve is None:
            return None, None, None
        first = [np.flatnonzero(self.chance >= level) for level in (self.tail, 0.5, 1 - self.tail)]
        if not first[1].size:
            return int(self.grid[-1]), None, None
        low, middle, high = (int(found[0]) if found.size else None for found in first)
        below = self._between(low, self.tail) if low else self._nearest_below()
        return below, self._between(middle or 0, 0.5), None if high is None else self._between(high, 1 - self.tail)

    def _between(self, i: int, level: float) -> int:
        """Smallest integer of (grid[i − 1], grid[i]] passing with probability `level`; log-odds are linear in ln d."""
        if i == 0 or self.grid[i] - self.grid[i - 1] == 1:
            return int(self.grid[i])
        p = np.clip(self.chance[i - 1 : i + 1], 1e-9, 1 - 1e-9)
        odds = np.log(p / (1 - p))
        share = (math.log(level / (1 - level)) - odds[0]) / (odds[1] - odds[0]) if odds[1] > odds[0] else 1.0
        a, b = self.grid[i - 1], self.grid[i]
        return int(min(b, max(a + 1, math.ceil(a * (b / a) ** min(max(share, 0.0), 1.0)))))

    def _nearest_below(self) -> int:
        """Where the fit gives no lower end: the largest d tried below it, which did not pass, or d_min."""
        return max([d for d in self.means if d < self.grid[0]], default=self.plan.d_min)
