"""Runs that succeed or fail: the share that passes as a logistic function of ln d, and where it is one half.

    P(a run at d passes) = LAPSE + (1 − 2 LAPSE) / (1 + exp(−(ln d − m) / w))

m and w are averaged over a grid, m with a flat prior, w with a log-normal one; a lapse at either end keeps a single odd
run from deciding. The dimension is exp(m), where half of the runs pass, or where another share does: if runs that pass
end at g on average and the others at b, the mean of all passes T where more than (T − b) / (g − b) do.
"""

import math
from functools import cached_property

import numpy as np
from scipy.special import expit, logit

from subspaces.dimension.curve import Array, Numbers, Threshold

LAPSE = 0.02  # share of runs that pass, or fail, whatever d is
WIDTH_MEDIAN, WIDTH_SPREAD = 0.3, math.log(2.5)  # of w, in units of ln d; one standard deviation is a factor of 2.5
_WIDTHS = np.geomspace(0.03, 2.0, 15)
_PLACES = 161
_BEYOND = 1.5  # ln d beyond the outermost runs up to which m is looked for


class SuccessCurve:
    """Posterior of the share of runs that pass, with what the search asks of a `curve.Curve`.

    Cost: O(2,400 n) for n runs, then O(2,400 m) for m values of d: below a millisecond.

    Args:
        d: dimensions of the runs, (n,), n ≥ 1.
        passed: whether each passed, (n,), 0 or 1.
        level: share that has to pass, in (LAPSE, 1 − LAPSE).

    Example:
        >>> curve = SuccessCurve([100, 200, 300, 400], [0, 0, 1, 1])
        >>> [bool(p > 0.5) for p in curve.passing([150, 380])]
        [False, True]
    """

    bend = 0.0
    """A logistic function has no scale of its bends."""

    def __init__(self, d: Numbers, passed: Numbers, level: float = 0.5) -> None:
        self.level = level
        x = np.log(np.asarray(d, dtype=np.float64))
        order = np.lexsort((np.asarray(passed, dtype=np.float64), x))
        self.x, self.y = x[order], np.asarray(passed, dtype=np.float64)[order]
        self.places = np.linspace(self.x[0] - _BEYOND, self.x[-1] + _BEYOND, _PLACES)
        m, w = np.meshgrid(self.places, _WIDTHS, indexing="ij")
        self._m, self._w = m.ravel(), w.ravel()
        share = self._shares(self.x)
        log_weights = np.log(np.where(self.y > 0.5, share, 1 - share)).sum(axis=1)
        log_weights -= 0.5 * (np.log(self._w / WIDTH_MEDIAN) / WIDTH_SPREAD) ** 2
        weights = np.exp(log_weights - log_weights.max())
        self.weights = weights / weights.sum()

    @cached_property
    def _crossing(self) -> Array:
        """ln d at which the share is ``level``, for every (m, w)."""
        if self.level == 0.5:
            return self._m
        return self._m + self._w * logit((self.level - LAPSE) / (1 - 2 * LAPSE))

    def _shares(self, x: Array) -> Array:
        """Share that passes at x (k,), for every (m, w): (grid, k)."""
        return LAPSE + (1 - 2 * LAPSE) * expit((x - self._m[:, None]) / self._w[:, None])

    def passing(self, d: Numbers, threshold: Threshold | None = None) -> Array:
        """Probability that a larger share than ``level`` passes at each d, (m,); there is no other threshold."""
        step = self.places[1] - self.places[0]
        at = self._crossing.reshape(_PLACES, -1) + step / 2
        x, weights = np.log(np.asarray(d, dtype=np.float64)), self.weights.reshape(_PLACES, -1)
        chance = np.zeros(x.shape)
        for column, weight in zip(at.T, weights.T, strict=True):  # a width each
            chance += np.interp(x, column, np.cumsum(weight), left=0.0)
        return chance

    def mean_sd(self, d: Numbers) -> tuple[Array, Array]:
        """Mean and standard deviation of the share that passes at each d, (m,) and (m,)."""
        share = self._shares(np.log(np.asarray(d, dtype=np.float64)))
        mean = self.weights @ share
        return mean, np.sqrt(np.maximum(self.weights @ (share - mean) ** 2, 0.0))

    @cached_property
    def noise_sd(self) -> float:
        """Standard deviation of one success or failure where the share passes."""
        return math.sqrt(self.level * (1 - self.level))

    def slope(self, d: float | int) -> float:
        """Rise of the share per unit of ln d at d."""
        mean, _ = self.mean_sd([d * 0.98, d / 0.98])
        return float((mean[1] - mean[0]) / (-2 * np.log(0.98)))

    def most_telling(self, targets: Numbers, candidates: Numbers, pending: Numbers = ()) -> int:
        """Index of the candidate d whose run lowers the variance of the crossing most, given those still running.

        As `curve.Curve.most_telling`, to first order: cov(ln d there, share)² / variance of one outcome. ``targets``
        are not needed: what is wanted is the crossing.
        """
        d = np.concatenate([np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in (candidates, pending)])
        share = self._shares(np.log(d))
        values = np.concatenate([self._crossing[:, None], share], axis=1)
        values = values - self.weights @ values
        covariance = (values * self.weights[:, None]).T @ values
        scatter = self.weights @ (share * (1 - share))
        last = 1 + np.atleast_1d(np.asarray(candidates)).size
        for j in range(last, covariance.shape[0]):
            covariance = covariance - np.outer(covariance[j], covariance[j]) / (covariance[j, j] + scatter[j - 1])
        removed = covariance[0, 1:last] ** 2 / (np.diag(covariance)[1:last] + scatter[: last - 1])
        return int(np.argmax(removed))
