"""The threshold dimension from the values that runs reached, not only from whether they reached a level.

A run that ends at 1.05 ε tells almost as much as one that ends at 0.95 ε; a count of successes calls them opposites.
The log of the value is taken as a smooth curve in log d with scatter (the spline of `dimension.curve`, whose bend and
scatter are both unknown), so that P(value ≤ ε) at d is Φ((ln ε − m(ln d))/σ), and d* is where it is 1 − δ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import ndtr, ndtri

from subspaces.dimension.curve import Curve
from subspaces.transition.statistics import Crossing

SCALE = 10.0
"""Unit of the curve's prior: ln(value) scatters by about 0.1 from run to run, and its slope changes by about 0.7 over a
factor of e in d; both may be several times larger or smaller."""
REACH = 2.0
"""Runs whose ln(value) differs by up to so much from that of the level, a factor of 7, are near it."""
START = math.log(1.5)
"""A level within this of the worst value of all runs, as a rule that of the start, is left to counts: there the values
are skewed, since none lies above the start's own loss, and their scatter grows with d."""
FEWEST = 5
"""Runs below which nothing is fitted."""
POINTS = 241
SPREAD = 1.4
"""Runs are placed within this factor of d*."""
EXTEND = 2.0
"""So far beyond the largest d of the runs near the level a run may be placed."""


@dataclass(frozen=True)
class ValueFit:
    """What the values near a level say.

    Attributes:
        crossing: d*, its interval and status.
        curve: ln(value) as a curve of ln d, with its sign turned: higher is better.
        aim: ln of the level, with its sign turned.
        d: dimensions of the runs near the level, rising.
        confidence: of all intervals.
    """

    crossing: Crossing
    curve: Curve
    aim: float
    d: Float[ndarray, "n"]
    confidence: float

    @property
    def scatter(self) -> float:
        """Standard deviation of ln(value) from run to run."""
        return self.curve.noise_sd

    @property
    def ratio(self) -> float:
        """upper / lower of the interval of d*; infinite where an end is open."""
        low, high = self.crossing.lower + 1, self.crossing.upper
        return high / low if self.crossing.lower > 0 and math.isfinite(high) else math.inf

    def is_near(self, d: int) -> bool:
        """Whether a d is where runs about this level are placed."""
        middle = min(self.crossing.estimate, float(self.d[-1]) * EXTEND)
        return middle / SPREAD <= d <= middle * SPREAD

    def next_d(self, pending: Sequence[int] = ()) -> int:
        """The d near d* whose run would tell most about it, given those that are going on."""
        middle = min(self.crossing.estimate, float(self.d[-1]) * EXTEND)
        at = np.unique(np.round(middle * np.geomspace(1 / SPREAD, SPREAD, 9)))
        at = at[at >= 1]
        return int(at[self.curve.most_telling([middle], at, list(pending))])

    def probability(self, d: Sequence[float] | ndarray) -> Float[ndarray, "m"]:
        """P(value ≤ ε) at each d, the mean over what the fit leaves open."""
        mean, variance = self.curve.moments(d)
        return self.curve.weights @ ndtr((mean - self.aim) / np.sqrt(variance + self._sigma**2))

    def band(self, d: Sequence[float] | ndarray) -> tuple[Float[ndarray, "m"], Float[ndarray, "m"]]:
        """Ends of the interval of that probability over the posterior of mean and scatter."""
        mean, variance = self.curve.moments(d)
        z = ndtri(np.linspace(0.01, 0.99, 50))[:, None, None]
        draws = ndtr((mean + z * np.sqrt(variance) - self.aim) / self._sigma)  # (50, grid, m)
        flat = draws.reshape(-1, draws.shape[-1])
        mass = np.broadcast_to(self.curve.weights[None, :, None] / len(z), draws.shape).reshape(flat.shape)
        order = np.argsort(flat, axis=0)
        total = np.cumsum(np.take_along_axis(mass, order, 0), axis=0)
        tail = (1 - self.confidence) / 2
        low, high = (np.take_along_axis(order, (total >= q).argmax(0)[None], 0) for q in (tail, 1 - tail))
        return np.take_along_axis(flat, low, 0)[0], np.take_along_axis(flat, high, 0)[0]

    @property
    def _sigma(self) -> Float[ndarray, "grid 1"]:
        return np.sqrt(self.curve.noise_variance)[:, None]


def value_fit(
    d: Sequence[int] | ndarray,
    values: Sequence[float] | ndarray,
    level: float,
    *,
    delta: float = 0.1,
    goal: str = "below",
    confidence: float = 0.95,
) -> ValueFit | None:
    """d*(ε, δ) from values: the smallest d at which a share 1 − δ of runs reach the level.

    For every bend q and scatter σ of the curve's posterior the mean m(x), x = ln d, is Gaussian, so that the posterior
    probability of d* ≤ d is Σ_{q,σ} P(q, σ) Φ((ln ε − z_{1−δ} σ − m(x))/sd(x)). Its median is the estimate, its
    quantiles the ends of the interval.

    Args:
        d, values: of the runs, in any order; a value that is not finite is a run that failed and counts as none.
        level: ε; positive for ``below``, as are the values.
        delta: δ, in (0, 1).
        goal: ``below`` or ``above`` the level; accuracies in [0, 1) are compared by ln(1 − accuracy).
        confidence: of the interval.

    Returns:
        The fit; None with fewer than `FEWEST` runs near the level, all of them at one d, or a level that is close to
        the worst value of all runs (`START`).

    Cost: a few milliseconds.
    """
    x, y, aim = _logs(d, values, level, goal)
    if y.size == 0 or y.max() - aim < START:
        return None
    x, y = _near(x, y, aim)
    if x.size < FEWEST or np.unique(x).size < 2:
        return None
    curve = Curve(np.exp(x), -y, scale=SCALE)
    at = np.exp(np.linspace(x.min() - math.log(2), x.max() + math.log(2), POINTS))
    mean, variance = curve.moments(at)
    sigma = np.sqrt(curve.noise_variance)[:, None]
    passed = curve.weights @ ndtr((mean + aim - ndtri(1 - delta) * sigma) / np.sqrt(variance))
    known = np.unique(np.exp(x))
    crossing = _crossing(at, np.maximum.accumulate(passed), known, confidence)
    return ValueFit(crossing, curve, -aim, known, confidence)


def _logs(
    d: Sequence[int] | ndarray, values: Sequence[float] | ndarray, level: float, goal: str
) -> tuple[Float[ndarray, "n"], Float[ndarray, "n"], float]:
    """ln d and ln(value) of the runs that have one, and ln of the level; falling where the goal is nearer."""
    v = np.asarray(values, dtype=np.float64)
    if goal == "above":
        v, level = 1 - v, 1 - level
    if level <= 0:
        return np.empty(0), np.empty(0), math.nan
    fine = ~np.isnan(v)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(v[fine], 0.0))  # a value of 0 has reached every level
    return np.log(np.asarray(d, dtype=np.float64)[fine]), logs, math.log(level)


def _near(x: ndarray, y: ndarray, aim: float) -> tuple[Float[ndarray, "m"], Float[ndarray, "m"]]:
    """Runs near the level; where none of them has reached it, or all have, the nearest further one at that distance.

    So a curve that falls as a step is still enclosed, and a far value tells on which side of the level it is, no more.
    """
    near = np.abs(y - aim) <= REACH
    for side in (y <= aim, y > aim):
        if not (near & side).any() and side.any():
            order = np.where(side, x if side[np.argmax(x)] else -x, np.inf)
            near[int(np.argmin(order))] = True
    return x[near], np.clip(y[near], aim - REACH, aim + REACH)


def _crossing(at: ndarray, reached: ndarray, d: ndarray, confidence: float) -> Crossing:
    tail = (1 - confidence) / 2

    def where(q: float) -> float:
        if reached[-1] < q:
            return math.inf
        return float(np.exp(np.interp(q, reached, np.log(at)))) if reached[0] < q else 0.0

    low, middle, high = where(tail), where(0.5), where(1 - tail)
    lower = max(0.0, math.ceil(low) - 1.0) if math.isfinite(low) else float(d.max())
    upper = float(math.ceil(high)) if math.isfinite(high) else math.inf
    if middle > d.max():
        return Crossing(math.inf, lower, upper, "not_reached")
    if middle < d.min():
        return Crossing(float(d.min()), 0.0, upper, "always_reached")
    return Crossing(float(math.ceil(middle - 1e-9)), lower, upper, "reached")
