"""The search for an intrinsic dimension: the smallest d whose expected score passes level × baseline.

A pure algorithm on evaluate(d, seed) -> score: no model, no data, no torch. `ThresholdSearch` says which runs to do and
takes their scores in any order; `search` is the loop around it. The rule is written down in docs/decision-rule.md.
"""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from subspaces.dimension.crossing import Crossing, Plan
from subspaces.dimension.curve import Threshold
from subspaces.dimension.estimate import DimensionEstimate, Outcome, Run, baseline_scores, literal_rule
from subspaces.dimension.placement import next_d


class ThresholdSearch:
    """Ask for runs, tell their scores, read the estimate; deterministic in what was told, whatever the order.

    ``ask`` brackets the crossing by doubling, then places runs where they narrow the interval most, given those still
    pending. Telling stored results to a new object restores the search; so does ``from_state(state())``.

    Cost: about 2 ms of CPU per run asked.

    Args:
        baseline: a number (global baseline, exact), or the scores of independent direct runs (local baseline);
            None or NaN for one that failed.
        level: share of the baseline to pass, > 0.
        d_min, d_max: the integers searched, 1 ≤ d_min ≤ d_max.
        ratio: wanted width high / low of the interval, > 1.
        confidence: of the interval, in (0, 1).
        max_runs: budget, ≥ 1.
        start: first d to run; by default √(d_min · d_max).
        first_seed: seeds are first_seed, first_seed + 1, …: never the same one twice.
        looks: False for runs that were chosen beforehand and are read once, such as a grid's: the interval then pays
            nothing for looking after every run.

    Raises:
        ValueError: for a value out of these ranges.

    Example:
        >>> engine = ThresholdSearch(1.0, d_max=1000)
        >>> while not engine.done:
        ...     for d, seed in engine.ask(2):
        ...         engine.tell(d, seed, 1.0 if d >= 37 else 0.2)
        >>> engine.estimate().d_int
        37
    """

    def __init__(
        self,
        baseline: float | int | Iterable[float | int | None],
        *,
        d_max: int,
        level: float | int = 0.9,
        d_min: int = 1,
        ratio: float | int = 1.25,
        confidence: float = 0.95,
        max_runs: int = 60,
        start: int | None = None,
        first_seed: int = 0,
        looks: bool = True,
    ) -> None:
        scores: float | list[float]
        if isinstance(baseline, Iterable):
            scores = [math.nan if score is None else float(score) for score in baseline]
        else:
            scores = float(baseline)
        settings = {"d_max": d_max, "level": level, "d_min": d_min, "ratio": ratio, "confidence": confidence}
        settings |= {"max_runs": max_runs, "start": start, "first_seed": first_seed}
        _check(settings)
        stored = [s if math.isfinite(s) else None for s in scores] if isinstance(scores, list) else scores
        self.settings: dict[str, Any] = {"baseline": stored, **{k: _plain(v) for k, v in settings.items()}}
        if not looks:
            self.settings["looks"] = False
        middle = max(d_min, min(d_max, round(math.sqrt(d_min * d_max))))
        self.plan = Plan(d_min, d_max, start or middle, float(ratio), confidence, looks)
        self.level, self.max_runs, self.first_seed = float(level), max_runs, first_seed
        self.baseline = baseline_scores(scores)
        mean, runs = self.baseline.mean, self.baseline.runs
        self.threshold = (
            Threshold.measured(level, mean, self.baseline.sd, runs) if runs else Threshold(float(level * mean))
        )
        self._told: dict[tuple[int, int], Run] = {}
        self._pending: list[tuple[int, int]] = []
        self._closed = False
        self._view: Crossing | None = None

    def ask(self, n: int = 1) -> list[tuple[int, int]]:
        """The next runs to do, at most n pairs (d, seed), new ones at every call; empty when none is wanted."""
        asked: list[tuple[int, int]] = []
        while len(asked) < n and not self.done and len(self._told) + len(self._pending) < self.max_runs:
            waiting = [d for d, _ in self._pending]
            pair = (next_d(self._now, waiting), self._fresh_seed())
            self._pending.append(pair)
            asked.append(pair)
        return asked

    def tell(self, d: int, seed: int, score: float | int, *, stopped: bool = False) -> None:
        """Record a result; telling the same pair again replaces it. Results that were not asked for are welcome.

        Args:
            d: dimension of the run, an integer of [d_min, d_max].
            seed: its seed.
            score: higher is better; NaN for a run that failed.
            stopped: given up early as hopeless: known only to end below the threshold.
        """
        if int(d) != d or not self.plan.d_min <= d <= self.plan.d_max:
            raise ValueError(
                f"`d` must be an integer of [{self.plan.d_min}, {self.plan.d_max}]; got {d}. "
                "Tell only runs in the range searched."
            )
        pair = (int(d), int(seed))
        self._told[pair] = Run(*pair, float(score), "stopped" if stopped else "ok")
        self._pending = [other for other in self._pending if other != pair]
        self._view = None

    def close(self) -> None:
        """End the search here (time is up): no more runs are asked for."""
        self._closed, self._view = True, None

    @property
    def done(self) -> bool:
        """Whether the outcome is settled or the budget spent."""
        return self._outcome != "running"

    @property
    def bracketing(self) -> bool:
        """Whether a d that passes above one that does not is still looked for: no run there needs to be exact."""
        return None in self._now.bracket

    def estimate(self) -> DimensionEstimate:
        """What is known now; `outcome` is ``running`` until `done`."""
        view, base = self._now, self.baseline
        low, d_int, high = view.interval
        if self._outcome == "runs failed" or not self.baseline.stable:
            low = d_int = high = None
        elif self._outcome == "not reached":
            low, d_int, high = self.plan.d_max, None, None
        elif self._outcome == "always reached":
            low = d_int = high = self.plan.d_min
        return DimensionEstimate(
            outcome=self._outcome,
            d_int=d_int,
            low=low,
            high=high,
            threshold=self.threshold.value,
            threshold_sd=self.threshold.sd,
            level=self.level,
            baseline=base.mean,
            baseline_sd=base.sd,
            baseline_runs=base.runs,
            confidence=self.plan.confidence,
            d_min=self.plan.d_min,
            d_max=self.plan.d_max,
            literal=literal_rule(view.runs, self.threshold.value),
            runs=view.runs,
            fit=view.fit(d_int),
            curve=view.points(),
        )

    def state(self) -> dict[str, Any]:
        """Everything as JSON-able values: settings, results told, runs pending."""
        told = [
            [run.d, run.seed, run.score if math.isfinite(run.score) else None, run.status == "stopped"]
            for _, run in sorted(self._told.items())
        ]
        return {"settings": self.settings, "told": told, "pending": [list(pair) for pair in self._pending]}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ThresholdSearch":
        """The search as `state` found it; the runs that were pending are still pending."""
        engine = cls(**state["settings"])
        for d, seed, score, stopped in state["told"]:
            engine.tell(d, seed, math.nan if score is None else score, stopped=stopped)
        engine._pending = [(int(d), int(seed)) for d, seed in state["pending"]]
        return engine

    @property
    def _now(self) -> Crossing:
        if self._view is None:
            self._view = Crossing(self._told.values(), self.threshold, self.plan)
        return self._view

    @property
    def _outcome(self) -> Outcome:
        if not self.baseline.stable:
            return "baseline unstable"
        settled = self._now.outcome
        spent = self._closed or len(self._told) >= self.max_runs
        return "budget spent" if settled == "running" and spent else settled

    def _fresh_seed(self) -> int:
        used = {seed for _, seed in self._told} | {seed for _, seed in self._pending}
        seed = self.first_seed + len(used)
        while seed in used:
            seed += 1
        return seed


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's, for JSON."""
    return value.item() if isinstance(value, np.generic) else value


def _check(settings: dict[str, Any]) -> None:
    """Raise ValueError for a setting out of its range."""
    d_min, d_max, start = settings["d_min"], settings["d_max"], settings["start"]
    rules = {
        "level": (settings["level"] > 0, "above 0, such as 0.9"),
        "ratio": (settings["ratio"] > 1, "above 1, such as 1.25"),
        "confidence": (0 < settings["confidence"] < 1, "between 0 and 1, such as 0.95"),
        "max_runs": (settings["max_runs"] >= 1, "at least 1"),
        "d_min": (d_min >= 1 and int(d_min) == d_min, "an integer of at least 1"),
        "d_max": (d_max >= d_min and int(d_max) == d_max, f"an integer of at least `d_min` = {d_min}"),
        "start": (start is None or (d_min <= start <= d_max), f"in [d_min, d_max] = [{d_min}, {d_max}]"),
    }
    for name, (holds, wanted) in rules.items():
        if not holds:
            raise ValueError(f"`{name}` must be {wanted}; got {settings[name]}. Give another value.")


def search(
    evaluate: Callable[[int, int], float],
    *,
    baseline: float | int | Iterable[float | int | None],
    d_max: int,
    max_seconds: float | int = math.inf,
    batch: int = 1,
    on_result: Callable[[ThresholdSearch], None] | None = None,
    **settings: Any,
) -> DimensionEstimate:
    """Smallest d whose expected score passes level × baseline, with an interval, at few runs.

    Args:
        evaluate: (d, seed) → score, higher is better; NaN where the run failed.
        baseline, d_max: see `ThresholdSearch`.
        max_seconds: no run is started after this many seconds.
        batch: runs asked for at once; they are then placed without knowing each other's scores.
        on_result: called with the search after every result, to show progress or to store ``state()``.
        **settings: level, d_min, ratio, confidence, max_runs, start, first_seed of `ThresholdSearch`.

    Returns:
        DimensionEstimate: whose ``outcome`` says how it ended; what cannot be found is an outcome, not an exception.

    Raises:
        ValueError: for a setting out of its range.

    Example:
        >>> print(search(lambda d, seed: min(1.0, d / 100), baseline=1.0, d_max=1000).outcome)
        found
    """
    if batch < 1:
        raise ValueError(f"`batch` must be at least 1; got {batch}. Give the number of runs asked for at once.")
    engine = ThresholdSearch(baseline, d_max=d_max, **settings)
    deadline = time.monotonic() + max_seconds
    while not engine.done:
        for d, seed in engine.ask(batch):
            if time.monotonic() >= deadline:
                engine.close()
                break
            engine.tell(d, seed, evaluate(d, seed))
            if on_result is not None:
                on_result(engine)
    return engine.estimate()
