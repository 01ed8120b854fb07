"""The score as a smooth curve in log d: where it crosses a threshold, how surely, and which run would tell most.

The model is a smoothing spline with both of its scales unknown (Wahba 1978, *J. R. Stat. Soc. B* 40):

    y = b0 + b1 x + g(x) + e,   x = ln d,   g'' white noise of variance q,   e ~ N(0, sigma^2)

with b0, b1 unrestricted. Given (q, sigma) everything is Gaussian and closed; the two are averaged over a grid
weighted by the restricted likelihood and a weak prior, so that few runs give wide intervals and many give narrow ones.
Nothing about the shape (logistic, power law) is assumed: where the curve bends, q grows and the interval with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

Array = np.ndarray
Numbers = Sequence[int] | Sequence[float] | np.ndarray

# The prior, in units of the threshold: run-to-run noise is most likely about 1 % of the score, and the slope per unit
# of ln d changes by about 7 % of the score over one unit; one standard deviation is a factor of 4, and of 2.5.
NOISE_MEDIAN, NOISE_SPREAD = 0.01, np.log(4.0)
KNOWN_SPREAD = np.log(1.3)  # of a noise that is known beforehand, such as that of a share of so many examples
BEND_MEDIAN, BEND_SPREAD = 0.07, np.log(2.5)
_NOISE_GRID = np.geomspace(1e-5, 1.0, 61)  # steps of 21 %
_BEND_GRID = np.geomspace(3e-3, 100.0, 14)


def _log_normal(values: Float[Array, " n"], median: float, spread: float) -> Float[Array, " n"]:
    """Log density, up to a constant, over a geometric grid."""
    return -0.5 * (np.log(values / median) / spread) ** 2


def _normalised(log_weights: Float[Array, " n"]) -> Float[Array, " n"]:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


@dataclass(frozen=True)
class Threshold:
    """The score to pass: a value, and where it was measured, the uncertainty of that value.

    Args:
        value: level × baseline, in units of the score; > 0.
        sds: possible standard errors of the value; ``(0.,)`` for an exact one.
        weights: their probabilities, summing to 1.
    """

    value: float
    sds: tuple[float, ...] = (0.0,)
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def measured(cls, level: float, mean: float, sd: float, count: int) -> "Threshold":
        """Level × the mean of ``count`` scores of standard deviation ``sd``; the sd itself is known only so well.

        The sd is averaged over its posterior under the same prior as the noise of the runs; with many scores
        the result is Student's t, with one it is the prior's width.
        """
        grid = _NOISE_GRID * mean
        log_weights = _log_normal(_NOISE_GRID, NOISE_MEDIAN, NOISE_SPREAD)
        log_weights = log_weights - (count - 1) * (np.log(grid) + 0.5 * (sd / grid) ** 2)
        weights = _normalised(log_weights)
        kept = weights > 1e-4
        sds = level * grid[kept] / np.sqrt(count)
        return cls(level * mean, tuple(sds.tolist()), tuple((weights[kept] / weights[kept].sum()).tolist()))

    def blurred(self, sds: Sequence[float]) -> "Threshold":
        """The same with another, independent error, of equally likely standard errors ``sds``."""
        if not sds:
            return self
        both = [
            (math.hypot(a, b), weight / len(sds)) for a, weight in zip(self.sds, self.weights, strict=True) for b in sds
        ]
        return Threshold(self.value, tuple(sd for sd, _ in both), tuple(weight for _, weight in both))

    @property
    def sd(self) -> float:
        """Standard error of the value (root mean square over its possible sizes)."""
        return float(np.sqrt(np.dot(self.weights, np.square(self.sds))))


class Curve:
    """Posterior of the expected score as a function of d, given runs (d, score).

    Cost: one eigendecomposition of n × n for n runs, then O(850 n + 100 n m) for m values of d: about a millisecond.

    Args:
        d: dimensions of the runs, (n,), n ≥ 1, integers ≥ 1.
        score: their scores, (n,), finite.
        scale: size of a score, > 0, the unit of the prior: the threshold.
        noise: standard deviation of a run where it is known to about 30 % beforehand, in units of the score.
        floor: no run is less noisy than that, such as the standard error of its own evaluation; in units of the score.

    Example:
        >>> curve = Curve([100, 200, 400], [0.8, 0.9, 1.0], scale=0.9)
        >>> [bool(p > 0.5) for p in curve.passing([150, 300], Threshold(0.9))]
        [False, True]
    """

    def __init__(
        self,
        d: Numbers,
        score: Numbers,
        *,
        scale: float | int,
        noise: float | None = None,
        floor: float | int = 0.0,
    ) -> None:
        x = np.log(np.asarray(d, dtype=np.float64))
        order = np.lexsort((np.asarray(score, dtype=np.float64), x))  # results do not depend on the order of arrival
        self.x, self.y = x[order], np.asarray(score, dtype=np.float64)[order]
        self.scale, self.centre = float(scale), float(x.mean())
        self.flat = bool(np.ptp(self.x) == 0)  # one d only: a mean, with no slope to speak of
        trend = self._trend(self.x)
        basis, r = np.linalg.qr(trend, mode="complete")
        rank = trend.shape[1]
        self._to_trend = basis[:, :rank] @ np.linalg.inv(r[:rank]).T  # (n, rank): weights of the linear predictor
        kernel = self._kernel(self.x, self.x)
        free = basis[:, rank:]  # contrasts that no linear trend can reach
        self._eigenvalues, vectors = np.linalg.eigh(free.T @ kernel @ free)
        self._contrasts, self._kernel_matrix = free @ vectors, kernel
        self._bend, self._noise = np.meshgrid((_BEND_GRID * scale) ** 2, (_NOISE_GRID * scale) ** 2, indexing="ij")
        self._bend, self._noise = self._bend.ravel(), self._noise.ravel()
        self._floor = min(float(floor), float(_NOISE_GRID[-1] * scale))
        self._trim(NOISE_MEDIAN if noise is None else noise / scale, NOISE_SPREAD if noise is None else KNOWN_SPREAD)
        volume = 2 * float(np.log(np.abs(np.diag(r[:rank]))).sum())
        self.evidence -= 0.5 * (np.log(2 * np.pi) * free.shape[1] + volume)

    def _trend(self, x: Float[Array, " n"]) -> Float[Array, "n rank"]:
        return np.ones((x.size, 1)) if self.flat else np.stack([np.ones(x.size), x - self.centre], axis=1)

    def _kernel(self, a: Float[Array, " a"], b: Float[Array, " b"]) -> Float[Array, "a b"]:
        """Generalised covariance of the integrated Wiener process, |a − b|³ / 12, for contrasts free of a trend."""
        return np.zeros((a.size, b.size)) if self.flat else np.abs(a[:, None] - b[None, :]) ** 3 / 12

    def _trim(self, noise: float, spread: float) -> None:
        """Weights of the grid of (q, sigma²), restricted likelihood × prior; points that weigh nothing are dropped."""
        variance = self._bend[:, None] * np.maximum(self._eigenvalues, 0) + self._noise[:, None]
        squares = (self._contrasts.T @ self.y) ** 2
        log_weights = -0.5 * (np.log(variance) + squares / variance).sum(axis=1)
        log_weights += _log_normal(np.sqrt(self._noise) / self.scale, noise, spread)
        log_weights += _log_normal(np.sqrt(self._bend) / self.scale, BEND_MEDIAN, BEND_SPREAD)
        log_weights[self._noise < self._floor**2 * (1 - 1e-9)] = -np.inf
        most = log_weights.max()
        prior = (
            np.exp(_log_normal(_NOISE_GRID, noise, spread)).sum()
            * np.exp(_log_normal(_BEND_GRID, BEND_MEDIAN, BEND_SPREAD)).sum()
        )
        self.evidence = float(most + np.log(np.exp(log_weights - most).sum() / prior))
        """Log density of the scores, but for the trend, which may be any."""
        weights = _normalised(log_weights)
        kept = weights > 1e-4
        self.weights = weights[kept] / weights[kept].sum()
        self._bend, self._noise, self._variance = self._bend[kept], self._noise[kept], variance[kept]

    def _parts(self, x: Float[Array, " m"]) -> tuple[Float[Array, "n m"], Float[Array, "free m"], Float[Array, "n m"]]:
        """For points x (m,): linear weights (n, m), covariance with the contrasts (n − rank, m), kernel (n, m)."""
        linear = self._to_trend @ self._trend(x).T
        cross = self._kernel(self.x, x)
        return linear, self._contrasts.T @ (cross - self._kernel_matrix @ linear), cross

    def moments(self, d: Numbers) -> tuple[Float[Array, "grid m"], Float[Array, "grid m"]]:
        """Mean and variance of the expected score at each d, for every kept (q, sigma): two arrays (grid, m)."""
        linear, coupling, cross = self._parts(np.log(np.asarray(d, dtype=np.float64)))
        gain = self._bend[:, None] / self._variance  # (grid, n − rank)
        mean = self.y @ linear + (gain * (self._contrasts.T @ self.y)) @ coupling
        own = np.einsum("nm,nm->m", linear, self._kernel_matrix @ linear - 2 * cross)
        spread = self._bend[:, None] * (own - gain @ coupling**2) + self._noise[:, None] * (linear**2).sum(axis=0)
        return mean, np.maximum(spread, 1e-9 * self._noise[:, None])

    def mean_sd(self, d: Numbers) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
        """Mean and standard deviation of the expected score at each d, (m,) and (m,)."""
        mean, variance = self.moments(d)
        centre = self.weights @ mean
        return centre, np.sqrt(self.weights @ (variance + (mean - centre) ** 2))

    def passing(self, d: Numbers, threshold: Threshold) -> Float[Array, " m"]:
        """Probability that the expected score at each d is above the threshold, (m,), in [0, 1]."""
        mean, variance = self.moments(d)
        distance = mean - threshold.value
        chance = np.zeros(mean.shape)
        for sd, weight in zip(threshold.sds, threshold.weights, strict=True):
            chance += weight * ndtr(distance / np.sqrt(variance + sd**2))
        return self.weights @ chance

    @property
    def noise_variance(self) -> Float[Array, " grid"]:
        """σ² of every kept (q, σ), beside ``weights``."""
        return self._noise

    @cached_property
    def noise_sd(self) -> float:
        """Standard deviation of one run (posterior geometric mean)."""
        return float(np.exp(0.5 * self.weights @ np.log(self._noise)))

    @cached_property
    def bend(self) -> float:
        """√q: by how much the slope changes over one unit of ln d (posterior geometric mean)."""
        return float(np.exp(0.5 * self.weights @ np.log(self._bend)))

    def slope(self, d: float | int) -> float:
        """Rise of the expected score per unit of ln d at d."""
        mean, _ = self.mean_sd([d * 0.98, d / 0.98])
        return float((mean[1] - mean[0]) / (-2 * np.log(0.98)))

    def most_telling(self, targets: Numbers, candidates: Numbers, pending: Numbers = ()) -> int:
        """Index of the candidate d whose run lowers the variance at the targets most, given those still running.

        Σ_t cov(t, c)² / (var(c) + sigma²), the variance removed by one run at c. It does not depend on the score
        that will come, so several runs can be placed at once.
        """
        points = [np.log(np.atleast_1d(np.asarray(p, dtype=np.float64))) for p in (targets, candidates, pending)]
        covariance = self._covariance(np.concatenate(points))
        first, last = points[0].size, points[0].size + points[1].size
        for j in range(last, covariance.shape[0]):
            covariance = covariance - np.outer(covariance[j], covariance[j]) / (covariance[j, j] + self.noise_sd**2)
        removed = covariance[:first, first:last] ** 2 / (np.diag(covariance)[first:last] + self.noise_sd**2)
        return int(np.argmax(removed.sum(axis=0)))

    def _covariance(self, x: Float[Array, " m"]) -> Float[Array, "m m"]:
        """Posterior covariance of the expected score at x (m,) at the typical (q, sigma): (m, m)."""
        linear, coupling, cross = self._parts(x)
        q, noise = self.bend**2, self.noise_sd**2
        mixed = linear.T @ cross
        prior = self._kernel(x, x) - mixed - mixed.T + linear.T @ self._kernel_matrix @ linear
        shrink = q / (q * np.maximum(self._eigenvalues, 0) + noise)
        return q * (prior - coupling.T @ (shrink[:, None] * coupling)) + noise * linear.T @ linear
