"""How a search would end on a set of runs, what is still wanted before that, and the estimate it leaves."""

import math
from dataclasses import replace
from functools import cached_property
from statistics import NormalDist, fmean
from typing import Any, Literal

import numpy as np

from subspaces.dimension.curve import Array, Curve
from subspaces.dimension.estimate import Baseline, DimensionEstimate, Observation, Outcome, literal_rule
from subspaces.dimension.groups import FEWEST_TO_TELL
from subspaces.dimension.interval import Interval
from subspaces.dimension.reading import WINDOW

FEWEST = 10  # runs in the fit below which nothing is called found
EXACT_SPAN, EXACT_RUNS = 3, 3  # an interval of at most 3 integers is settled by up to 3 runs at each
MOST_FAILED = 6  # from this many runs on, the search ends when more than half have failed
ENOUGH_RUNS, RELAXED_FROM = 16, 24  # runs that should do (with a known slope); runs from which a wider interval may do
BESIDE, FLAT = 2.0, 0.2  # slope up to this factor above d_int, under this share of that below: perhaps a corner
HIDES = 0.15  # ln d to which one run there tells it at best: what is sharper does not hide a corner
BASELINE_SHARE = 0.6  # of the wanted interval's standard deviation that may be the baseline's


class Crossing(Interval):
    """What the runs so far say, how the search would end on them, and which d are wanted before it may."""

    # ---- the end

    @cached_property
    def outcome(self) -> Outcome:
        """How the search would end on these runs; ``running`` while it should go on."""
        if self._most_failed:
            return "runs failed"
        if self.curve is None or self.suspects:
            return "running"
        if self.bracket[1] is None and self.plan.d_max in self.means and self.explored_down:
            passing = self.curve.passing(self.window, self.threshold).max()
            return "not reached" if passing < self.tail and len(self.runs) > 2 else "running"
        least = self.plan.d_min
        if len(self.by_d.get(least, [])) > 1 and self._passing(least) > 1 - self.tail:
            return "always reached"
        if self.narrow:
            return "found" if self.enough and not self.unconfirmed and not self.unseen else "running"
        if not self._threshold_decides:
            return "running"
        return "limited by validation" if self.split_sd > self.threshold.sd else "limited by baseline"

    @property
    def _most_failed(self) -> bool:
        """Whether most runs failed and nothing can come of it.

        Where some runs pass and the failed ones have scores, runs may have two outcomes: that is settled by more runs,
        up to twice as many as it takes to tell it.
        """
        failed = [run for run in self.runs if run.status == "failed"]
        if len(self.runs) < MOST_FAILED or 2 * len(failed) <= len(self.runs) or self.two_outcomes:
            return False
        scored = sum(math.isfinite(run.score) for run in failed)
        passed = any(run.score > self.threshold.value for run in self.runs)
        return not (passed and 2 * scored > len(failed) and len(self.runs) < 2 * FEWEST_TO_TELL)

    @cached_property
    def wanted(self) -> float:
        """Width high / low of the interval that will do.

        ``ratio``; where one run says so little that `ENOUGH_RUNS` could not give that even if the slope were known,
        the width that they would give, up to ``widest``. Asked only once nearly so many runs are in the fit.
        """
        plan, middle = self.plan, self.interval[1]
        if plan.widest is None or self.curve is None or middle is None or self.curve.y.size < RELAXED_FROM:
            return plan.ratio
        slope = self.curve.slope(middle)
        one = self.curve.noise_sd / slope if slope > 0 else math.inf
        width = 2 * NormalDist().inv_cdf(1 - self.tail) * one / math.sqrt(ENOUGH_RUNS)
        return max(plan.ratio, min(math.exp(min(width, 9.0)), plan.widest))

    def _passing(self, d: int) -> float:
        return 0.0 if self.curve is None else float(self.curve.passing([d], self.fitted_threshold)[0])

    @cached_property
    def untold(self) -> int | None:
        """Where the fit is narrow but runs do not show its ends: the d beside it at which a run would."""
        low, _, high = self.interval
        fit_low, middle, fit_high = self._fitted
        room = self.wanted * (fit_low or 0) / (fit_high or math.inf)
        if self.narrow or middle is None or room < 1 or self.cliff is not None:
            return None
        a, b = math.ceil((fit_low or 1) / math.sqrt(room)), math.floor((fit_high or 1) * math.sqrt(room))
        below, above = (low or 0) < a, (high or math.inf) > b
        if below and above:  # the end that lacks more
            below = a / max(low or 1, 1) > (high or math.inf) / b
        return max(a, self.plan.d_min) if below else min(b, self.plan.d_max)

    @property
    def narrow(self) -> bool:
        """Whether the interval is as narrow as wanted."""
        low, _, high = self.interval
        return bool(low and high and high <= self.wanted * low)

    @property
    def explored_down(self) -> bool:
        """With nothing passing upwards: whether smaller d were tried too (a fall at large d hides a crossing below)."""
        return min(self.means, default=math.inf) <= max(self.plan.d_min, self.plan.start // 16)

    @property
    def split_sd(self) -> float:
        """Standard error of a score near the threshold, of being judged by one split."""
        return math.sqrt(fmean(sd**2 for sd in self.split_sds)) if self.split_sds else 0.0

    @property
    def _threshold_decides(self) -> bool:
        """Whether more runs could hardly narrow the interval: the threshold is known far worse than the curve.

        Three times, or twice where the threshold alone makes the interval wider than wanted.
        """
        middle = self.interval[1]
        if self.curve is None or middle is None or self.curve.y.size < FEWEST or self.two_outcomes:
            return False
        slope, own = self.curve.slope(middle), self.fitted_threshold.sd
        alone = 4 * own / slope if slope > 0 else math.inf
        return own > (2 if alone > math.log(self.wanted) else 3) * float(self.curve.mean_sd([middle])[1][0])

    @cached_property
    def unseen(self) -> list[int]:
        """The d at which a run is wanted so that both sides are known: 1.5 and twice d_int, and a quarter of it.

        A dip below the threshold, a lower crossing, and the slope show there.
        """
        middle, plan = self.interval[1], self.plan
        if middle is None:
            return []
        tried = np.array(sorted(self.means))
        wanted = []
        fine = middle >= 5 and self.cliff is None  # integers may be sparse; beside a cliff there is no small dip
        beyond = ((1.38, 1.5, 1.62), (1.62, 2.1, 3)) if fine else ((1.5, 2, 3),)
        for first, best, last in beyond:
            if first * middle < plan.d_max and not ((tried >= first * middle) & (tried <= last * middle)).any():
                wanted.append(min(plan.d_max, round(best * middle)))
        if middle / 3 > plan.d_min and not ((tried >= middle / 6) & (tried <= middle / 2.4)).any():
            wanted.append(max(plan.d_min, round(middle / 3.5)))
        return wanted

    @cached_property
    def unconfirmed(self) -> list[int]:
        """The d at which one more run is wanted before the interval is believed, the most wanted first."""
        low, middle, high = self.interval
        count = {d: len(scores) for d, scores in self.by_d.items()}
        wanted = [d for d in self.cliff or () if count[d] < self.believed]  # a cliff is not believed to one run
        if low and middle and high and high - low < EXACT_SPAN:  # few integers: each is run, rather than interpolated
            span = [d for d in range(low - 1, high + 1) if d >= self.plan.d_min]
            wanted += [d for d in span if not count.get(d)]
            if low < high:
                wanted += [d for d in span[1:] if count.get(d, 0) < EXACT_RUNS]
        return wanted

    @property
    def enough(self) -> bool:
        """Whether as many runs entered the fit as are needed before anything is called found."""
        return self.curve is not None and (self.curve.y.size >= FEWEST or self.cliff is not None)

    # ---- what is told

    def estimate(self, outcome: Outcome, level: float, base: Baseline) -> DimensionEstimate:
        """The values of all this, for an outcome."""
        low, d_int, high = self.interval
        if outcome == "runs failed" or not base.stable:
            low = d_int = high = None
        elif outcome == "not reached":
            low, d_int, high = self.plan.d_max, None, None
        elif outcome == "always reached":
            low = d_int = high = self.plan.d_min
        return DimensionEstimate(
            outcome=outcome, d_int=d_int, low=low, high=high, threshold=self.threshold.value,
            threshold_sd=self.threshold.sd, level=level, baseline=base.mean, baseline_sd=base.sd,
            baseline_runs=base.runs, confidence=self.plan.confidence, d_min=self.plan.d_min, d_max=self.plan.d_max,
            literal=literal_rule(self.runs, self.threshold.value), runs=self._told, fit=self.fit(d_int),
            curve=self.points(), by=self._by, **self._shares(d_int, base, outcome),
        )  # fmt: skip

    @property
    def _by(self) -> Literal["score", "mean", "passing"]:
        """What has to pass."""
        if self.plan.passes == "mean":
            return "mean"
        return "passing" if self.two_outcomes else "score"

    @property
    def _told(self) -> tuple[Observation, ...]:
        """The runs with their statuses; where runs have two outcomes, a low score is one of them and no failure."""
        if not self.two_outcomes:
            return self.runs
        low = [run.status == "failed" and math.isfinite(run.score) for run in self.runs]
        return tuple(replace(run, status="ok") if is_low else run for run, is_low in zip(self.runs, low, strict=True))

    def _shares(self, d_int: int | None, base: Baseline, outcome: Outcome) -> dict[str, Any]:
        """What stands beside the number: failures, runs that pass, baseline runs that would do."""
        if d_int is None or self.curve is None:
            return {}
        near = [r for r in self.runs if d_int / WINDOW <= r.d <= d_int * WINDOW and r.status != "stopped"]
        passing = [r.score > self.threshold.value for r in near if d_int <= r.d <= d_int * 1.5]
        found: dict[str, Any] = {"share_failed": fmean(r.status == "failed" for r in near) if near else 0.0}
        found["ratio_wanted"] = self.wanted
        found["split_sd"], found["flattens"] = self.split_sd, self._flattens(d_int)
        found["share_passing"] = fmean(passing) if passing else None
        found |= self._other_definitions()
        slope = self.curve.slope(d_int)
        if outcome == "limited by baseline" and slope > 0:
            allowed = BASELINE_SHARE * slope * math.log(self.plan.ratio) / 4
            found["baseline_runs_wanted"] = math.ceil(base.runs * (self.threshold.sd / allowed) ** 2)
        return found

    def _flattens(self, d_int: int) -> float | None:
        """The slope above d_int over that below it, where it is under a fifth and the noise could hide a corner."""
        at = [max(min(self.window), d_int / BESIDE), d_int, min(max(self.window), d_int * BESIDE)]
        if self.curve is None or self.two_outcomes or at[0] * 1.2 > d_int or at[2] < 1.2 * d_int:
            return None
        mean, _ = self.curve.mean_sd(at)
        below, above = ((mean[i + 1] - mean[i]) / math.log(at[i + 1] / at[i]) for i in (0, 1))
        return float(above / below) if above < min(FLAT * below, self.curve.noise_sd / HIDES) else None

    def _other_definitions(self) -> dict[str, Any]:
        """Where runs fail or have two outcomes: d by the mean of all runs, and by the share that passes."""
        aside = self.plan.passes == "auto" and not self.two_outcomes
        if aside and not any(run.status == "failed" for run in self.runs):
            return {}
        (d, score), passing = self.pairs, self.shares(0.5)
        if passing is None:
            return {}
        mean = self.shares(self.share_of_mean) if self.two_outcomes else Curve(d, score, scale=self.threshold.value)
        assert mean is not None
        chances = (mean.passing(self.grid, self.threshold), passing.passing(self.grid))
        return dict(zip(("by_mean", "by_passing"), map(self._first_passing, chances), strict=True))

    def _first_passing(self, chance: Array) -> tuple[int | None, int | None, int | None]:
        """(d, low, high): the smallest d of the grid that pass with a probability of a half, the tail, the rest."""
        first = [np.flatnonzero(chance >= level) for level in (0.5, self.tail, 1 - self.tail)]
        d, low, high = (int(self.grid[found[0]]) if found.size else None for found in first)
        return d, low, high

    def fit(self, d_int: int | None) -> dict[str, float]:
        """Noise, slope and bend of the fitted curve; empty without one."""
        if self.curve is None:
            return {}
        slope = self.curve.slope(d_int or self.centre)
        return {"noise_sd": self.curve.noise_sd, "slope": slope, "bend": self.curve.bend, "runs": self.curve.y.size}

    def points(self) -> tuple[tuple[int, float, float], ...]:
        if self.curve is None:
            return ()
        mean, sd = self.curve.mean_sd(self.grid)
        if self.two_outcomes:  # a share of runs as the expected score of all
            bad, good = self.outcomes
            mean, sd = bad + (good - bad) * mean, (good - bad) * sd
        return tuple((int(d), float(m), float(s)) for d, m, s in zip(self.grid, mean, sd, strict=True))
