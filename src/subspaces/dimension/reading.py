"""What a set of runs says about where the score crosses the threshold: bracket and fit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np

from subspaces.dimension.curve import Array, Curve, Threshold
from subspaces.dimension.estimate import Observation, Passes
from subspaces.dimension.groups import are_real, counted, judge, low_outliers, two_outcomes
from subspaces.dimension.split_error import split_errors
from subspaces.dimension.success import LAPSE, SuccessCurve

WINDOW = 4.0  # runs within this factor of the crossing enter the fit
REACH = 2.0  # d_int is the smallest d that passes and is followed by no dip up to so many times as large a d


@dataclass(frozen=True)
class Plan:
    """What is searched and how precisely: integers [d_min, d_max] from ``start``, its ``ratio`` and ``confidence``."""

    d_min: int
    d_max: int
    start: int
    ratio: float
    confidence: float
    looks: bool = True  # False for runs chosen beforehand: nothing is paid for looking after each
    noise: float | None = None  # standard deviation of a score near the threshold, where it is known beforehand
    widest: float | None = None  # width that will do where one run tells too little for ``ratio``; None: only ``ratio``
    shared: int | None = None  # examples by which all runs are judged, where a score is the share of them that is right
    passes: Passes = "auto"  # what has to pass the threshold


class Reading:
    """What the runs so far say about the crossing of the threshold: bracket and fit.

    A value: made anew when a result arrives, everything worked out once, when it is first read.

    Args:
        runs: all runs with a result, in any order.
        threshold: the score to pass.
        plan: the range and the precision wanted.
    """

    def __init__(self, runs: Iterable[Observation], threshold: Threshold, plan: Plan) -> None:
        self.threshold, self.plan = threshold, plan
        self.suspects: list[int] = []
        aside = plan.passes == "auto"
        self._sort(judge(runs, threshold.value) if aside else counted(runs))
        if self.by_d and aside:
            self._set_outliers_aside()

    def _sort(self, runs: Iterable[Observation]) -> None:
        """Runs by d; what is known of every d tried."""
        self.runs = tuple(runs)
        self.by_d: dict[int, list[float]] = {}
        for run in self.runs:
            if run.status == "ok":
                self.by_d.setdefault(run.d, []).append(self._value(run))
        self.means = {d: fmean(scores) for d, scores in self.by_d.items()}
        lost: dict[int, list[Observation]] = {}
        for run in self.runs:
            if run.d not in self.by_d:
                lost.setdefault(run.d, []).append(run)
        self.suspects = [d for d, all_ in lost.items() if len(all_) == 1 and all_[0].status == "failed"]
        # Stopped early, or failed twice over: counts as not passing while bracketing, never enters the fit.
        worst = min([self.target, *self.means.values()])
        self.means.update({d: worst for d in lost if d not in self.suspects})
        for name in ("bracket", "centre", "window", "floor"):
            self.__dict__.pop(name, None)

    def _set_outliers_aside(self) -> None:
        """Runs too low for the curve and the noise of the others failed, unless their repeats are as low."""
        near = set(self.window)
        inside = [run for run in self.runs if run.status == "ok" and run.d in near]
        low = low_outliers(inside, self.threshold.value, self.plan.noise, self.floor)
        failed, alone = are_real(inside, low, sum(run.status == "failed" for run in self.runs))
        if failed:
            lost = {inside[i] for i in failed}
            self._sort(replace(run, status="failed") if run in lost else run for run in self.runs)
            self.suspects = sorted({*self.suspects, *(inside[i].d for i in alone)})

    @property
    def target(self) -> float:
        """What the mean at a d has to pass: the threshold; a half, where runs are counted that pass it."""
        return 0.5 if self.plan.passes == "half" else self.threshold.value

    def _value(self, run: Observation) -> float:
        return float(run.score > self.threshold.value) if self.plan.passes == "half" else run.score

    # ---- where to look

    @cached_property
    def bracket(self) -> tuple[int | None, int | None]:
        """(largest tried d below the crossing, smallest above it) of the rising means; None for a side not seen.

        Only d up to the best are looked at: a fall at large d (a learning rate that no longer fits) is no crossing.
        """
        d = sorted(self.means)
        if not d:
            return None, None
        means = [self.means[k] for k in d]
        best = int(np.argmax(means))
        if means[best] <= self.target:
            return d[-1], None
        weights = [len(self.by_d.get(k, [1])) for k in d[: best + 1]]
        rising = rising_means(means[: best + 1], weights)
        first = next(i for i, value in enumerate(rising) if value > self.target)
        return (d[first - 1] if first else None), d[first]

    @cached_property
    def centre(self) -> float:
        """Where the fit is centred: the crossing, or the end of the range that decides."""
        low, high = self.bracket
        if high is None:
            return float(max(self.means, key=lambda d: (self.means[d], -d)))
        return math.sqrt(low * high) if low else float(high)

    @cached_property
    def window(self) -> list[int]:
        """The d whose runs enter the fit: within a factor of 4 of the centre, and at least two on either side."""
        d = sorted(self.by_d)
        left, right = [k for k in d if k <= self.centre], [k for k in d if k > self.centre]
        near = [k for k in d if self.centre / WINDOW <= k <= self.centre * WINDOW]
        return sorted({*near, *left[-2:], *right[:2]})

    # ---- the fit

    @cached_property
    def pairs(self) -> tuple[Array, Array]:
        """(d, score) of every run with a score around the crossing, failed ones too."""
        low, high = self.centre / WINDOW, self.centre * WINDOW
        kept = [r for r in self.runs if low <= r.d <= high and r.status != "stopped" and math.isfinite(r.score)]
        return np.array([r.d for r in kept], float), np.array([r.score for r in kept])

    @cached_property
    def floor(self) -> float:
        """Root mean square of the standard errors of the runs in the fit by their own evaluations: noise at least."""
        near = set(self.window)
        squares = [run.error**2 for run in self.runs if run.status == "ok" and run.d in near]
        return math.sqrt(fmean(squares)) if squares else 0.0

    @cached_property
    def two_outcomes(self) -> bool:
        """Whether runs near the crossing succeed or fail: then the share that passes is fitted, not the score."""
        if not self.by_d:
            return False
        return self.plan.passes == "half" or two_outcomes(*self.pairs, self.threshold.value)

    @cached_property
    def wanted_share(self) -> float:
        """The share of the runs that has to pass, where shares are fitted: a half, or what brings the mean there."""
        return self.share_of_mean if self.plan.passes == "mean" else 0.5

    @cached_property
    def outcomes(self) -> tuple[float, float]:
        """Mean scores of runs that do not pass and of those that do, near the crossing; the threshold without any."""
        (d, score), value = self.pairs, self.threshold.value
        near = (d >= self.centre / REACH) & (d <= self.centre * REACH)
        found = []
        for kind in (score <= value, score > value):
            chosen = kind & near if (kind & near).any() else kind
            found.append(float(score[chosen].mean()) if chosen.any() else value)
        return found[0], found[1]

    @cached_property
    def share_of_mean(self) -> float:
        """The share of the runs that has to pass so that the mean of all does."""
        bad, good = self.outcomes
        share = (self.threshold.value - bad) / (good - bad) if good > bad else 0.5
        return min(max(share, 2 * LAPSE), 1 - 2 * LAPSE)

    def shares(self, level: float) -> SuccessCurve | None:
        """The share of the runs around the crossing that pass, failed ones counted; None without runs."""
        d, score = self.pairs
        return SuccessCurve(d, (score > self.threshold.value).astype(float), level) if d.size else None

    @cached_property
    def curve(self) -> Curve | SuccessCurve | None:
        if not math.isfinite(self.threshold.value):  # a baseline without a single score
            return None
        if self.two_outcomes:
            return self.shares(self.wanted_share)
        pairs = [(d, score) for d in self.window for score in self.by_d[d]]
        if not pairs:
            return None
        return Curve(*zip(*pairs, strict=True), scale=self.threshold.value, noise=self.plan.noise, floor=self.floor)

    @cached_property
    def fitted_threshold(self) -> Threshold:
        """What the fitted quantity has to pass: the threshold, as uncertain as the split makes it, or a share."""
        if self.two_outcomes:
            return Threshold(self.wanted_share)
        return self.threshold.blurred(self.split_sds)

    @cached_property
    def split_sds(self) -> tuple[float, ...]:
        """Equally likely standard errors of a score near the threshold, of being judged by these examples alone."""
        if self.plan.shared is None or self.curve is None or self.two_outcomes:
            return ()
        return split_errors(self.threshold.value, self.plan.shared, self.curve.noise_sd, self.curve.y.size)

    @cached_property
    def grid(self) -> Array:
        """Integers at which the probability of passing is read: all of them where they are few, else log-spaced."""
        plan = self.plan
        low = max(plan.d_min, min(self.window[0], self.centre))
        high = min(plan.d_max, max(self.window[-1], self.centre * 1.5))
        return np.unique(np.rint(np.geomspace(low, max(high, low), 72)).astype(int))


def rising_means(values: list[float], weights: list[int]) -> list[float]:
    """Nearest rising sequence in weighted least squares, by pooling adjacent violators."""
    pools: list[tuple[float, int, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        pools.append((value, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m, i), (b, n, j) = pools[-2:]
            pools[-2:] = [((a * m + b * n) / (m + n), m + n, i + j)]
    return [mean for mean, _, length in pools for _ in range(length)]
